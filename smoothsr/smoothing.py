"""SmoothedSR: any super-resolution network, made robust by randomized smoothing.

Reference: the CertSR method: pixelwise median randomized smoothing (P. Chiang et al., 2020, arXiv
2007.03730) of a network that maps images to images.
"""

import copy
import hashlib
import math
import os
import warnings
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smoothsr import __version__
from smoothsr.adapters.denoisers import as_denoiser
from smoothsr.adapters.transparent import Transparent
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.draw_parts import served_parts, share_draws
from smoothsr.certificates.evidence import Request
from smoothsr.certificates.looks import Enough, require_looks
from smoothsr.certificates.options import Kind, Norm, Scope
from smoothsr.certificates.planning import MOST, draws_wanted
from smoothsr.certificates.requirements import require_certifiable, require_eval
from smoothsr.certificates.spectral_error import attack
from smoothsr.certifying import Certifying
from smoothsr.engine import draws, memory
from smoothsr.engine.arguments import (
    rank_of,
    require_image,
    require_integer,
    require_module,
    settled_draws,
)
from smoothsr.engine.batching import Batching
from smoothsr.engine.compiled import is_compiled, uncompiled
from smoothsr.engine.forward_memory import CORNER, Footprint, footprint
from smoothsr.engine.memory import Demand, largest_tile
from smoothsr.engine.moments import Moments
from smoothsr.engine.noise import Noise, sigma_text
from smoothsr.engine.precision import precision_text
from smoothsr.engine.receptive_field import Reach, find_reach
from smoothsr.engine.tiles import Tile, grid
from smoothsr.files.digests import digest, fingerprint
from smoothsr.files.parts import Parts

__all__ = ["SmoothedSR", "variant"]

STRENGTH = 0.6  # share of sigma that a denoiser is told, chosen by benchmarks/denoisers.py
SAMPLED_TILES = 16  # by which the number of certification draws is chosen
SAMPLED_DRAWS = 90  # of each of them


class SmoothedSR(Transparent):
    """Run a super-resolution network on noisy copies of its input and take a pixelwise statistic of
    the outputs.

    The network keeps its weights, its mode and its checkpoint format: `state_dict()` and
    `load_state_dict()` are those of the bare network. The noise is fresh at every call and the
    global random state is left alone.

    Args:
        model: Any network (B,C,h,w) -> (B,C,s*h,s*w) on values in [0, 1], in eval mode; the integer
            scale s is found out.
        sigma: Noise standard deviation, for inputs in [0, 1] (8-bit noise of 5 is 5/255).
        n: Draws a call, odd for the median; None is 6 where they come in pairs, and 21 otherwise.
        agg: "median", "mean", or a percentile such as "p10" (the lower quantile).
        tile: Side of the output tiles in LR pixels, which bounds memory and makes certificates
            stronger; None: the whole image; "auto": the whole image if it fits into memory, else
            the largest tile that does, with a halo at which the network shows no seams.
        halo: LR pixels that a patch reads beyond its tile on every side; ignored where tile is
            None or "auto".
        halo_noise: How many times sigma the noise on the halo is, at least 1: then a change of a
            patch counts for less, which makes certificates of small tiles far stronger for a small
            loss of quality (localized smoothing). Ignored where halo is.
        batch_size: Draws in one forward pass; None finds the fastest, and halves it when memory
            runs out.
        denoiser: What each noisy patch passes first, so that the network sees less noise:
            "builtin", a file (`smoothsr.adapters.load_denoiser`), or a network (B,C,h,w) ->
            (B,C,h,w). If its forward has a second argument, that is how strong it takes the noise
            to be on each pixel, (B,1,h,w). Not part of the state_dict.
        denoiser_sigma: How strong, in the units of sigma; on the halo, halo_noise times that. None
            is 0.6 times sigma, which keeps more detail: the statistic of the draws removes the
            noise that is left.
        seed: Makes the noise of forward the same at every call, for reproducible serving;
            certificates of such a smoother speak of the ideal median only, since an attacker may
            know the noise.
        antithetic: Whether the draws of forward come in pairs x + G and x - G, so that what is odd
            in the noise cancels: then 6 are about as close to the ideal mean as 20 independent
            ones. Of an odd n one draw stays single. For the mean only, of which it is the default.
        lattice: Round the input to whole 8-bit steps, as a file holds them, and the noise to 1/256
            of a step, so that sums are exact: the certificate then holds in floating point too, for
            changes by whole steps (`smoothsr.engine.lattice`). Gradients pass as if nothing were
            rounded.
        recompute: Run each batch of draws once more in the backward pass rather than keep all its
            activations until then: gradients take the memory of one batch, and up to a third more
            time.
        memory: Bytes that the whole process may take where tile is "auto", of the device's memory;
            None: half of what is free.
        side_by_side: Whether `certify` may draw tiles in several threads of a processor, each by a
            copy of the model, for speed on small tiles. Not for a model whose outputs depend on
            something beside it that copies would share, such as a global variable: its certificate
            would be false. A model with hooks is not copied.

    Raises:
        TypeError: If model is not an nn.Module.
        ValueError: If an argument is out of its range.

    Example:
        >>> net = nn.Upsample(scale_factor=4, mode="nearest").eval()
        >>> SmoothedSR(net, sigma=0.03)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 32, 32])
    """

    model: nn.Module
    inner = "model"

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        n: int | None = None,
        agg: str = "median",
        *,
        tile: int | Literal["auto"] | None = None,
        halo: int = 4,
        batch_size: int | None = None,
        denoiser: nn.Module | str | os.PathLike[str] | None = None,
        seed: int | None = None,
        lattice: bool = False,
        recompute: bool = False,
        memory: float | None = None,
        antithetic: bool | None = None,
        halo_noise: float = 1.0,
        denoiser_sigma: float | None = None,
        side_by_side: bool = False,
    ) -> None:
        require_module(model)
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be greater than 0 and finite, got {sigma}")
        n, self.antithetic = settled_draws(n, agg, antithetic)
        require_integer("n", n, 1)
        require_integer("tile", None if tile == "auto" else tile, 1)
        require_integer("halo", halo, 0)
        if not 1 <= halo_noise < math.inf:
            raise ValueError(f"halo_noise must be at least 1 and finite, got {halo_noise}")
        require_integer("batch_size", batch_size, 1)
        rank_of(agg, n)
        super().__init__(model)
        self.sigma, self.n, self.agg = float(sigma), int(n), agg
        self.tile = tile if tile is None or tile == "auto" else int(tile)
        self.halo, self.halo_noise = int(halo), float(halo_noise)
        self.seed, self.lattice = seed, lattice
        self.recompute, self.memory, self.side_by_side = recompute, memory, side_by_side
        self._inside = False  # whether patches at the image's edge are moved into it
        # What has been found out of the network, by the shape it was tried on; shared by variants.
        self._reaches = dict[int, Reach]()
        self._footprints = dict[torch.Size, Footprint]()
        self.denoiser = as_denoiser(denoiser, next(model.parameters(), None))
        self.denoiser_sigma = _strength(denoiser_sigma, self.sigma, self.denoiser is not None)
        self.training = model.training
        compiled = is_compiled(model)
        convolutional = not compiled and any(  # a compiler chooses the layout itself
            isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in model.modules()
        )
        self.batching = Batching(batch_size, convolutional, steady=compiled)

    def extra_repr(self) -> str:
        """Show the options as the constructor takes them."""
        options = (
            f"sigma={sigma_text(self.sigma)}, n={self.n}, agg={self.agg!r}, tile={self.tile!r}, "
            f"halo={self.halo}"
        )
        if self.agg == "mean":
            options += f", antithetic={self.antithetic}"
        options += f", halo_noise={self.halo_noise}" if self.halo_noise > 1 else ""
        options += ", lattice=True" if self.lattice else ""
        if self.denoiser_sigma is not None:
            options += f", denoiser_sigma={sigma_text(self.denoiser_sigma)}"
        return options if self.seed is None else f"{options}, seed={self.seed}"

    def forward(
        self, lr: Tensor, *, progress: draws.Progress | None = None, parts: Parts | None = None
    ) -> Tensor:
        """Compute the served output.

        Args:
            lr: (B,C,h,w), floating, values in [0, 1].
            progress: Called with (draws done, draws in all) of each image after each batch.
            parts: Files by which processes share the draws, without gradients. Remove them when
                the output is saved.

        Returns:
            (B,C,s*h,s*w) in [0, 1], in the dtype of lr; differentiable in lr and the weights.

        Raises:
            ValueError: If lr has another rank or dtype, or NaN or infinite values, or the model's
                output has.
            NotLastError: If another process of those that share the parts joins them.
        """
        require_image(lr)
        if self.model.training:
            warnings.warn(
                "the model is in train mode; smoothing wants model.eval()",
                UserWarning,
                stacklevel=2,
            )
        rank = rank_of(self.agg, self.n)
        again = self.recompute and torch.is_grad_enabled()
        base = partial(checkpoint, self.base, use_reentrant=False) if again else self.base
        smoothers = [self._agreed(image, parts) for image in lr.split(1)]
        samplers = [
            each.sampler(base, image, self.seed, self.antithetic)
            for each, image in zip(smoothers, lr.split(1), strict=True)
        ]
        if parts:
            kept = [
                served_parts(sampler, self.n, rank, parts, each.key(sampler.lr))
                for each, sampler in zip(smoothers, samplers, strict=True)
            ]
            parts.require_last(share_draws(kept, progress))
            samplers = [*kept]
        images = [draws.smooth(sampler, self.n, rank, progress) for sampler in samplers]
        # One image is not copied once more: it may be the largest thing in memory.
        return (images[0] if len(images) == 1 else torch.cat(images)).to(lr.dtype)

    def fitted(self, lr: Tensor) -> "SmoothedSR":
        """Return self, or where tile is "auto" the same smoother with tiles that fit into memory.

        Where not the whole image fits, tiles have a halo at which the network's output differs from
        that of the whole image by less than 1/255. A network for which there is none is told in a
        warning.

        Args:
            lr: One image (1,C,h,w).

        Raises:
            ValueError: If not even small tiles fit.
        """
        if self.tile != "auto":
            return self
        demand = self.demand(lr)
        room = memory.room(self.memory, lr.device) / (2 if self.memory is None else 1)
        tile, halo = None, 0
        if not demand.at_once(None, 0, room):
            halo = self._reach(lr).halo
            tile = largest_tile(demand, halo, room)
            if tile is None:
                raise ValueError(_too_little(demand, halo, room))
        self.batching.most = demand.at_once(tile, halo, room)
        return variant(self, tile=tile, halo=halo, halo_noise=1.0, _inside=tile is not None)

    def _agreed(self, lr: Tensor, parts: Parts | None) -> "SmoothedSR":
        """Return `fitted`, with the tiles of the first of the processes that share parts."""
        found = self.fitted(lr)
        if self.tile != "auto" or not parts:
            return found
        key = self.key(lr)
        tile = parts.agree(f"{key}_tile", cast(int | None, found.tile) or 0) or None
        halo = parts.agree(f"{key}_halo", found.halo)
        return variant(found, tile=tile, halo=halo, _inside=tile is not None)

    def demand(self, lr: Tensor) -> Demand:
        """Count what an output for lr (1,C,h,w) asks of memory."""
        corner = lr[..., :CORNER, :CORNER]
        if corner.shape not in self._footprints:
            with uncompiled(self.model):  # whose modules can't be watched otherwise
                self._footprints[corner.shape] = footprint(self, self.base, corner)
        found = self._footprints[corner.shape]
        held = 2 if self.agg == "mean" else self.n + 1
        values = lr.shape[1] * found.scale**2
        return Demand((lr.shape[2], lr.shape[3]), values, held, found.pixel_bytes)

    def _reach(self, lr: Tensor) -> Reach:
        """Find once how far around a tile the network must see; warn where nothing is enough."""
        channels = lr.shape[1]
        if channels not in self._reaches:
            with uncompiled(self.model):
                self._reaches[channels] = found = find_reach(self.base, lr)
            if not found.finite:
                warnings.warn(
                    "this network sees more than tiles can show it: in tiles its output may differ "
                    f"from that of the whole image by {found.difference * 255:.0f}/255 near their "
                    "edges; more memory makes tiles larger",
                    UserWarning,
                    stacklevel=4,
                )
        return self._reaches[channels]

    def sampler(
        self, f: draws.Network, image: Tensor, seed: int | None, antithetic: bool = False
    ) -> draws.Sampler:
        """Make a sampler of the draws of f, `base` or a checkpointed one, for an image."""
        how = Noise(self.sigma, seed, antithetic, self.lattice, self.halo_noise)
        return draws.Sampler(f, image, self.grid(image), how, self.batching)

    def grid(self, lr: Tensor) -> list[Tile]:
        """Cut lr (1,C,h,w) into tiles.

        Raises:
            ValueError: If tile is "auto", and lr has not been `fitted`.
        """
        if self.tile == "auto":
            raise ValueError('tile="auto" is resolved by fitted(lr): pass a number, or None')
        return grid(lr.shape[2], lr.shape[3], self.tile, self.halo, inside=self._inside)

    def base(self, patches: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Run the base predictor on noisy patches: denoiser, network, output clamped to [0, 1]; at
        least float32.

        Args:
            patches: (b,C,h,w).
            sigma: Standard deviation of their noise, (b,1,h,w) or of no axes; None: that of the
                smoother everywhere.
        """
        outputs = self.model(self._denoised(patches, sigma))
        if not (isinstance(outputs, Tensor) and outputs.ndim == 4 and len(outputs) == len(patches)):
            raise ValueError(
                "the model must return (B,C,H,W), got "
                f"{getattr(outputs, 'shape', type(outputs).__name__)}"
            )
        draws.require_finite(outputs.detach())
        return torch.clamp(outputs if outputs.dtype == torch.float64 else outputs.float(), 0, 1)

    def _denoised(self, patches: Tensor, sigma: Tensor | None) -> Tensor:
        if self.denoiser is None or self.denoiser_sigma is None:
            return patches
        level = patches.new_tensor(self.sigma) if sigma is None else sigma
        return self.denoiser(patches, level * (self.denoiser_sigma / self.sigma))

    def certify(
        self,
        lr: Tensor,
        *,
        n: int | Literal["auto"] = 1000,
        alpha: float = 1e-3,
        levels: int = 32,
        scope: Scope = "image",
        kind: Kind | None = None,
        looks: int = 1,
        enough: Enough | None = None,
        progress: draws.Progress | None = None,
        void_guarantee_seed: int | None = None,
        parts: Parts | None = None,
    ) -> Certificate:
        """Bound what every attack up to a radius can do to the output.

        With probability at least 1 - alpha over the draws, all bounds of the certificate hold at
        once, for every radius, reference, tolerance and predictor asked of it later. See
        docs/certificates.md and docs/spectral.md.

        Args:
            lr: One image (1,C,h,w) in [0, 1].
            n: Draws, always fresh, independent, and never those of forward. "auto" takes as many as
                `draws_wanted` says for a change of every value by 1/255.
            alpha: Failure probability of the certificate, whatever the looks.
            levels: How many shifts to store bounds for; memory is 2 * levels bytes for each output
                value.
            scope: "image", or "pixel" for one pixel that is chosen before: cheaper, and no
                statement about the whole image.
            kind: "levels" bounds every value; "spectral" bounds the whole deviation of the mean,
                far more tightly; "both" does both from the same draws, each at half of alpha. None
                is "levels" for the median, and "both" for the mean.
            looks: Up to so many certificates are made one after the other, with about n/27, n/9,
                n/3 and n draws of their own, until one is enough: 1.5 n in all at worst. Each is
                made at its share of alpha, so that the one that is returned holds with probability
                at least 1 - alpha, however it was chosen.
            enough: Tells of a look's certificate whether to stop there; may ask anything of it.
                Of processes that share looks the first is asked.
            progress: Called with (draws done, draws if no look is enough) after each batch.
            void_guarantee_seed: Reproducible draws, for tests. Voids every claim, since a known
                seed can be attacked.
            parts: Files by which a killed run goes on where it was, and processes share the work.
                Remove them when the certificate is saved.

        Returns:
            A Certificate, of the first look that is enough or of the last one. Levels that so few
            draws can't support are trivial, with a warning that says how many would do.

        Raises:
            ValueError: If an argument is out of its range, the model is in train mode, agg is a
                percentile, the network is no fixed function of each image, or processes that do
                not wait for each other share several looks.
            NotLastError: If another process of those that share the parts returns it.
        """
        request = self._request(lr, n, alpha, levels, scope, kind)
        require_looks(looks, enough, parts)
        with torch.no_grad():
            certifying = Certifying.of(self, lr, void_guarantee_seed, parts)
            if n == "auto":
                request = certifying.planned(request)
            certificate = certifying.certificate(request, looks, enough, progress)
        if request.kind != "spectral" and not certificate.z.size:
            _warn_of_few_draws(certificate)
        return certificate

    def _request(
        self,
        lr: Tensor,
        n: int | Literal["auto"],
        alpha: float,
        levels: int,
        scope: Scope,
        kind: Kind | None,
    ) -> Request:
        """Say what `certify` is asked for, in numbers of Python, once all of it can be certified.

        Raises:
            ValueError: If not.
        """
        kind = kind or ("both" if self.agg == "mean" and scope == "image" else "levels")
        request = Request(MOST if n == "auto" else n, float(alpha), levels, scope, kind)
        require_certifiable(lr, self.agg, self.lattice, request)
        request = request._replace(n=int(request.n), levels=int(levels))
        require_eval([layer for part in self.children() for layer in part.modules()])
        if self.tile == "auto" or self._inside:  # of which the record knows nothing
            raise ValueError(
                "a certificate is of one way to cut the image: pass tile=8 and halo=2, or tile=None"
            )
        return request

    def key(self, lr: Tensor, *options: object) -> str:
        """Tell all that the draws of a tile depend on, and what is kept of them."""
        what = [__version__, self.extra_repr(), fingerprint(*self.children()), digest([lr])]
        what += [precision_text(lr), lr.device.type, str(self._inside)]
        return hashlib.sha256(repr([*what, *options]).encode()).hexdigest()[:16]

    @torch.no_grad()
    def draws_wanted(
        self,
        lr: Tensor,
        radius: float = 1 / 255,
        norm: Norm = "linf",
        *,
        alpha: float = 1e-3,
        seed: int | None = None,
    ) -> int:
        """Tell how many draws this picture needs for a good spectral certificate at a radius.

        It looks at few draws of few tiles, which are used for nothing else. On large pictures few
        draws do.

        Args:
            lr: One image (1,C,h,w) in [0, 1].
            radius: Norm of the attack that is asked about.
            norm: "l2" or "linf".
            alpha: Failure probability of the certificate.
            seed: Of these draws; None for fresh ones.

        Returns:
            The fewest of 100 to 1000 draws whose certificate is expected to be within half a
            decibel of that of 1000.
        """
        sampler = self.sampler(self.base, lr, seed)
        tiles = sampler.tiles
        within = attack(radius / self.sigma, norm, lr.shape[1], tiles, self.halo_noise)
        sampler.tiles = tiles[:: max(1, len(tiles) // SAMPLED_TILES)]
        sample = Moments(SAMPLED_DRAWS, SAMPLED_DRAWS // 3, (lr.shape[2], lr.shape[3]))
        draws.observe(sampler, SAMPLED_DRAWS, [sample])
        return draws_wanted(sample.tiles, len(tiles), alpha / 2, within)


def variant(smoothed: SmoothedSR, **options: Any) -> SmoothedSR:
    """Return the same smoother with other options; the network is shared, and what is known about
    its fastest batches.
    """
    other = copy.copy(smoothed)
    vars(other).update(options)
    return other


def _strength(denoiser_sigma: float | None, sigma: float, denoised: bool) -> float | None:
    """Settle what a denoiser is told; None without one."""
    if denoiser_sigma is None:
        return STRENGTH * sigma if denoised else None
    if not denoised:
        raise ValueError("denoiser_sigma is what a denoiser is told: pass denoiser as well")
    if not 0 <= denoiser_sigma < math.inf:
        raise ValueError(f"denoiser_sigma must be at least 0 and finite, got {denoiser_sigma}")
    return float(denoiser_sigma)


def _too_little(demand: Demand, halo: int, room: float) -> str:
    least = (demand.held(1) + demand.a_pass(1, halo)) / 2**30
    height, width = demand.sides
    return (
        f"{width}x{height} pixels take at least {least:.2g} GiB of memory, even in small tiles, "
        f"and {max(room, 0) / 2**30:.2g} GiB may be taken: allow more, or take a crop"
    )


def _warn_of_few_draws(certificate: Certificate) -> None:
    c = certificate
    warnings.warn(
        f"{c.n_cert} draws can't bound {c.values} values at alpha={c.levels_alpha:g}: every bound "
        f"of a value is trivial. At least n={c.draws_needed(0.0, 'ideal')} would do for radius 0",
        UserWarning,
        stacklevel=3,
    )
