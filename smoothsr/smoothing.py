"""SmoothedSR: any super-resolution network, made robust by randomized smoothing.

Reference: the CertSR method: pixelwise median randomized smoothing (P. Chiang et al., 2020, arXiv
2007.03730) of a network that maps images to images.
"""

import copy
import math
import warnings
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smoothsr.adapters.transparent import Transparent
from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.options import Agg, Scope, require_option
from smoothsr.engine import draws
from smoothsr.engine.batching import Batching
from smoothsr.engine.independence import require_independence
from smoothsr.engine.noise import sigma_text
from smoothsr.engine.tiles import grid
from smoothsr.files.digests import digest, fingerprint
from smoothsr.metrics import to_8bit

__all__ = ["SmoothedSR", "variant"]


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
        n: Draws a call, odd for the median.
        agg: "median", "mean", or a percentile such as "p10" (the lower quantile).
        tile: Side of the output tiles in LR pixels, which bounds memory and makes certificates
            stronger; None: the whole image.
        halo: LR pixels that a patch reads beyond its tile on every side; ignored where tile is
            None.
        batch_size: Draws in one forward pass; None finds the fastest, and halves it when memory
            runs out.
        denoiser: A network (B,C,h,w) -> (B,C,h,w) that each noisy patch passes first. Not part of
            the state_dict.
        seed: Makes the noise of forward the same at every call, for reproducible serving;
            certificates of such a smoother speak of the ideal median only, since an attacker may
            know the noise.
        recompute: Run each batch of draws once more in the backward pass rather than keep all its
            activations until then: gradients take the memory of one batch, and up to a third more
            time.

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
        n: int = 21,
        agg: str = "median",
        *,
        tile: int | None = None,
        halo: int = 4,
        batch_size: int | None = None,
        denoiser: nn.Module | None = None,
        seed: int | None = None,
        recompute: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            inner = isinstance(getattr(model, "model", None), nn.Module)
            hint = (
                "pass its .model, or smoothsr.adapters.load(path).model"
                if inner
                else "pass a torch.nn.Module"
            )
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}: {hint}")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be greater than 0 and finite, got {sigma}")
        for name, value, least in (
            ("n", n, 1),
            ("tile", tile, 1),
            ("halo", halo, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and (value != int(value) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
        _rank(agg, n)
        super().__init__(model)
        self.sigma, self.n, self.agg = float(sigma), int(n), agg
        self.tile, self.halo, self.seed = None if tile is None else int(tile), int(halo), seed
        self.recompute = recompute
        self.denoiser = denoiser
        self.training = model.training
        convolutional = any(
            isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in model.modules()
        )
        self.batching = Batching(batch_size, convolutional)

    def extra_repr(self) -> str:
        """Show the options as the constructor takes them."""
        options = (
            f"sigma={sigma_text(self.sigma)}, n={self.n}, agg={self.agg!r}, tile={self.tile}, "
            f"halo={self.halo}"
        )
        return options if self.seed is None else f"{options}, seed={self.seed}"

    def forward(self, lr: Tensor, *, progress: draws.Progress | None = None) -> Tensor:
        """Compute the served output.

        Args:
            lr: (B,C,h,w), floating, values in [0, 1].
            progress: Called with (draws done, draws in all) of each image after each batch.

        Returns:
            (B,C,s*h,s*w) in [0, 1], in the dtype of lr; differentiable in lr and the weights.

        Raises:
            ValueError: If lr has another rank or dtype, or NaN or infinite values, or the model's
            output has.
        """
        _check(lr)
        if self.model.training:
            warnings.warn(
                "the model is in train mode; smoothing wants model.eval()",
                UserWarning,
                stacklevel=2,
            )
        tiles = grid(lr.shape[2], lr.shape[3], self.tile, self.halo)
        rank = _rank(self.agg, self.n)
        again = self.recompute and torch.is_grad_enabled()
        base = partial(checkpoint, self.base, use_reentrant=False) if again else self.base
        images = [
            draws.smooth(
                base, image, tiles, self.sigma, self.n, rank, self.seed, self.batching, progress
            )
            for image in lr.split(1)
        ]
        return torch.cat(images).to(lr.dtype)

    def base(self, patches: Tensor) -> Tensor:
        """Run the base predictor on noisy patches: denoiser, network, output clamped to [0, 1]; at
        least float32.
        """
        outputs = self.model(patches if self.denoiser is None else self.denoiser(patches))
        if not (isinstance(outputs, Tensor) and outputs.ndim == 4 and len(outputs) == len(patches)):
            raise ValueError(
                "the model must return (B,C,H,W), got "
                f"{getattr(outputs, 'shape', type(outputs).__name__)}"
            )
        extremes = torch.stack(
            outputs.detach().aminmax()
        )  # in one pass; before the clamp, which would hide infinite values
        if not extremes.isfinite().all():
            raise ValueError(
                "the model's output has NaN or infinite values; check its precision and its "
                "input range"
            )
        return torch.clamp(outputs if outputs.dtype == torch.float64 else outputs.float(), 0, 1)

    def certify(
        self,
        lr: Tensor,
        *,
        n: int = 1000,
        alpha: float = 1e-3,
        levels: int = 32,
        scope: Scope = "image",
        progress: draws.Progress | None = None,
        void_guarantee_seed: int | None = None,
    ) -> Certificate:
        """Bound what every attack up to a radius can do to the output.

        With probability at least 1 - alpha over the n draws, all bounds of the certificate hold at
        once, for every radius, reference, tolerance and predictor asked of it later. See
        docs/certificates.md.

        Args:
            lr: One image (1,C,h,w) in [0, 1].
            n: Draws, always fresh and never those of forward.
            alpha: Failure probability of the certificate.
            levels: How many shifts to store bounds for; memory is 2 * levels bytes for each output
                value.
            scope: "image", or "pixel" for one pixel that is chosen before: cheaper, and no
                statement about the whole image.
            progress: Called with (draws done, draws in all) after each batch.
            void_guarantee_seed: Reproducible draws, for tests. Voids every claim, since a known
                seed can be attacked.

        Returns:
            A Certificate; where n draws support no level at all, a trivial one, with a warning that
            says how many would.

        Raises:
            ValueError: If an argument is out of its range, the model is in train mode, agg is a
            percentile, or the network is no fixed function of each image, as two runs on one patch
            and a run of one image alone show.
        """
        self._require_certifiable(lr, n, alpha, levels, scope)
        with torch.no_grad():
            self._require_independence(lr)
            sr = to_8bit(self(lr)).byte().cpu().numpy()
            values = sr.size if scope == "image" else sr.shape[1]
            z = quantile_bounds.levels(n, alpha, levels, values)
            lower = upper = sr[:0]
            if z.size:
                ranks = quantile_bounds.level_ranks(z, n, alpha, values)
                stored = draws.quantiles(
                    self.base,
                    lr,
                    grid(lr.shape[2], lr.shape[3], self.tile, self.halo),
                    self.sigma,
                    n,
                    [*(n + 1 - ranks), *ranks],
                    void_guarantee_seed,
                    self.batching,
                    progress,
                )
                lower, upper = stored[: z.size], stored[z.size :]
            else:
                _warn_of_few_draws(n, alpha, levels, values)
        return Certificate(
            sr_bytes=sr,
            z=z,
            upper=upper,
            lower=lower,
            lr_shape=(*lr.shape[1:],),
            sigma=self.sigma,
            agg=cast(Agg, self.agg),
            n_serve=self.n,
            n_cert=n,
            alpha=alpha,
            level_count=levels,
            scope=scope,
            tile=self.tile,
            halo=self.halo if self.tile is not None else 0,
            seeded=self.seed is not None,
            void=void_guarantee_seed is not None,
            dtype=_precision_text(lr),
            input_digest=digest([lr]),
            weights_digest=fingerprint(*self.children()),
        )

    def _require_certifiable(
        self, lr: Tensor, n: int, alpha: float, levels: int, scope: Scope
    ) -> None:
        """Refuse what can't be certified as far as that shows without a run of the network."""
        _check(lr)
        if len(lr) != 1:
            raise ValueError(
                f"certify takes one image (1,C,h,w), got {(*lr.shape,)}: call it for each"
            )
        layers = [layer for part in self.children() for layer in part.modules()]
        if any(layer.training for layer in layers):
            raise ValueError(
                "the model is in train mode, where outputs of a batch may depend on each "
                "other: call model.eval()"
            )
        norms = [layer for layer in layers if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if any(layer.running_mean is None for layer in norms):
            raise ValueError(
                "the model has batch norm without running statistics: outputs of a batch "
                "depend on each other"
            )
        if self.agg not in get_args(Agg):
            raise ValueError(f"certify speaks of the median or the mean, got agg={self.agg!r}")
        if self.agg == "mean" and torch.finfo(lr.dtype).bits < 32:
            raise ValueError(
                "a mean is certified for lr in float32 or float64, since rounding would add "
                f"up; got {lr.dtype}"
            )
        if n < 1 or levels < 2 or not 0 < alpha < 1:
            raise ValueError(
                f"certify needs n >= 1, levels >= 2 and 0 < alpha < 1, got {n}, {levels} and "
                f"{alpha}"
            )
        require_option("scope", scope, Scope)

    def _require_independence(self, lr: Tensor) -> None:
        """Try on the first patch of lr what a certificate takes on trust of the network."""
        rows, columns = grid(lr.shape[2], lr.shape[3], self.tile, self.halo)[0]
        patch = lr[:, :, rows.first : rows.last, columns.first : columns.last]
        patch = patch[:, :, list(rows.gather)][..., list(columns.gather)]
        require_independence(self.base, patch, _precision(lr), self.batching.batch_size)


def variant(smoothed: SmoothedSR, **options: Any) -> SmoothedSR:
    """Return the same smoother with other options; the network is shared, and what is known about
    its fastest batches.
    """
    other = copy.copy(smoothed)
    vars(other).update(options)
    return other


def _rank(agg: str, n: int) -> int | None:
    """The rank that agg asks of n draws, None for the mean."""
    if agg == "mean":
        return None
    if agg == "median":
        if n % 2 == 0:
            raise ValueError(
                "n must be odd for the median, so that it is one of the draws, as the "
                f"certificate needs; got {n}"
            )
        return (n + 1) // 2
    try:
        percent = float(agg.removeprefix("p")) if agg.startswith("p") else math.nan
    except (ValueError, AttributeError):
        percent = math.nan
    if not 0 < percent < 100:
        raise ValueError(f'agg must be "median", "mean" or a percentile such as "p10", got {agg!r}')
    return max(1, math.ceil(percent * n / 100 - 1e-9))


def _check(lr: Tensor) -> None:
    if not isinstance(lr, Tensor) or lr.ndim != 4:
        raise ValueError(
            "lr must be a tensor (B,C,h,w), got "
            f"{(*getattr(lr, 'shape', ()),) or type(lr).__name__}"
        )
    if not lr.is_floating_point():
        raise ValueError(
            f"lr must be floating with values in [0, 1], got {lr.dtype}: divide 8-bit values by 255"
        )
    if lr.numel() == 0:
        raise ValueError(f"lr is empty: {(*lr.shape,)}")
    if not lr.isfinite().all():
        raise ValueError("lr has NaN or infinite values")
    if lr.detach().abs().max() > 8:
        raise ValueError(
            f"lr must have values in [0, 1], got up to {lr.detach().abs().max():g}: divide "
            "8-bit values by 255"
        )


def _precision(lr: Tensor) -> torch.dtype:
    """Find the precision that a predictor runs in: the input's, or autocast's."""
    device = lr.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lr.dtype


def _precision_text(lr: Tensor) -> str:
    autocast = " (autocast)" if torch.is_autocast_enabled(lr.device.type) else ""
    return f"{_precision(lr)}{autocast}".removeprefix("torch.")


def _warn_of_few_draws(n: int, alpha: float, levels: int, values: int) -> None:
    needed = quantile_bounds.draws_needed(0.0, alpha, levels, values)
    warnings.warn(
        f"{n} draws can't bound {values} values at alpha={alpha:g}: every bound is trivial. "
        f"At least n={needed} would do for radius 0",
        UserWarning,
        stacklevel=3,
    )
