"""How one image is certified: what is tried of the network, what is drawn, and what is recorded."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.evidence import Evidence, Request, values_at_once
from smoothsr.certificates.gathering import Wanted, gather, gather_by_parts, require_same_network
from smoothsr.certificates.looks import Enough, counted, plan, until_enough
from smoothsr.certificates.options import Agg
from smoothsr.engine import memory
from smoothsr.engine.arguments import rank_of
from smoothsr.engine.copies import independent_copies
from smoothsr.engine.draws import Network, completed
from smoothsr.engine.independence import require_independence
from smoothsr.engine.precision import precision_of, precision_text
from smoothsr.engine.side_by_side import Progress
from smoothsr.engine.tiles import ratio
from smoothsr.files.digests import digest, fingerprint
from smoothsr.files.parts import NotLastError, Parts

if TYPE_CHECKING:
    from smoothsr.smoothing import SmoothedSR

__all__ = ["ASIDE", "Certifying"]

ASIDE = 1 / 8  # of the memory that may be taken, for what threads side by side hold of their own


@dataclass(frozen=True)
class Certifying:
    """One image, and the smoother that is certified on it.

    Args:
        smoothed: In eval mode, with a tile that is a number, or none.
        lr: One image (1,C,h,w) in [0, 1].
        seed: Of draws that void every claim; None for fresh ones.
        parts: Files that keep what is drawn; None: nothing is kept.
        patch: The first patch (1,C,h,w), on which the network was tried.
        probe: Its output.
        output_shape: (C,H,W) of the image's output.
    """

    smoothed: "SmoothedSR"
    lr: Tensor
    seed: int | None
    parts: Parts | None
    patch: Tensor
    probe: Tensor
    output_shape: tuple[int, ...]

    @classmethod
    def of(
        cls, smoothed: "SmoothedSR", lr: Tensor, seed: int | None, parts: Parts | None
    ) -> "Certifying":
        """Try on the first patch what a certificate takes on trust of the network.

        Raises:
            ValueError: If the network is no fixed function of each image, or fails on the patch.
        """
        rows, columns = tile = smoothed.grid(lr)[0]
        read = lr[:, :, rows.first : rows.last, columns.first : columns.last]
        patch = completed(read, tile)
        most = smoothed.batching.limit
        probe = require_independence(smoothed.base, patch, precision_of(lr), most)
        scale = ratio((*patch.shape[2:],), (*probe.shape[2:],))
        shape = (probe.shape[1], scale * lr.shape[2], scale * lr.shape[3])
        return cls(smoothed, lr, seed, parts, patch, probe, shape)

    def planned(self, request: Request) -> Request:
        """Replace the number of draws by the one that the image needs, on which processes agree."""
        wanted = self.smoothed.draws_wanted(self.lr, alpha=request.alpha, seed=self.seed)
        if self.parts:
            key = self.smoothed.key(self.lr, "auto", request, self.seed)
            wanted = self.parts.agree(f"{key}_n", wanted)
        return request._replace(n=wanted)

    def certificate(
        self, request: Request, looks: int, enough: Enough | None, progress: Progress | None
    ) -> Certificate:
        """Look at up to so many certificates, and return the first that is enough, or the last.

        Raises:
            NotLastError: If another process of those that share the parts returns it.
        """
        if enough and self.parts and self.parts.ranks > 1:
            return self._looked_together(self.parts, request, looks, enough, progress)
        return self._looked(request, looks, enough, progress)

    def _looked_together(
        self,
        parts: Parts,
        request: Request,
        looks: int,
        enough: Enough,
        progress: Progress | None,
    ) -> Certificate:
        """Look in every process at what all have drawn; the first process tells the others whether
        that is enough, and returns.
        """
        key = self.smoothed.key(self.lr, "looked", request, self.seed)

        def agreed(certificate: Certificate) -> bool:
            name = f"{key}_{certificate.n_cert}"
            if parts.rank == 0:
                parts.agree(name, bool(enough(certificate)))
            parts.meet([name])
            return bool(parts.read(name)["value"])

        parts.renew(f"{key}_*")  # answers of an earlier start, which was asked for less or more
        everyone = replace(self, parts=replace(parts, all_join=True))
        found = everyone._looked(request, looks, agreed, progress)
        parts.wait(f"{key}_ended")  # until nobody needs the parts any more
        if parts.rank > 0:
            raise NotLastError("all parts are joined")
        return found

    def _looked(
        self, request: Request, looks: int, enough: Enough | None, progress: Progress | None
    ) -> Certificate:
        requests = plan(request, looks, values_at_once(request.scope, self.output_shape))
        return until_enough(
            requests,
            self._evidence,
            partial(self._recorded, request.alpha, len(requests)),
            enough,
            counted(progress, requests, len(self.smoothed.grid(self.lr))),
        )

    def _evidence(
        self, request: Request, served: np.ndarray | None, progress: Progress | None
    ) -> Evidence:
        """Draw what is asked for, beside the served output if it is not there."""
        smoothed, lr = self.smoothed, self.lr
        evidence = Evidence(request, lr, self.output_shape, served)
        sampler = smoothed.sampler(smoothed.base, lr, self.seed)
        serving = None
        if served is None:
            serving = smoothed.sampler(smoothed.base, lr, smoothed.seed, smoothed.antithetic)
        rank = rank_of(smoothed.agg, smoothed.n)
        wanted = Wanted(evidence, sampler, serving, smoothed.n, rank, self._base_predictors)
        if self.parts:
            key = smoothed.key(lr, request, self.seed)
            require_same_network(self.parts, key, self.probe, precision_of(lr))
            gather_by_parts(wanted, self.parts, key, progress)
        else:
            gather(wanted, progress=progress)
        return evidence

    def _base_predictors(self, most: int, held: float) -> list[Network]:
        """Return base predictors for at most so many threads, each of which holds so many bytes:
        the smoother's own, and those of copies.
        """
        smoothed = self.smoothed
        weights = sum(each.nbytes for each in (*smoothed.parameters(), *smoothed.buffers()))
        room = ASIDE * memory.room(smoothed.memory, self.lr.device)
        others = min(most - 1, int(room // (held + weights))) if smoothed.side_by_side else 0
        copies = independent_copies(
            smoothed,
            lambda each, patch: each.base(patch),
            others,
            self.patch,
            precision_of(self.lr),
        )
        return [each.base for each in (smoothed, *copies)]

    def _recorded(self, alpha: float, looks: int, evidence: Evidence) -> Certificate:
        """Record what the draws of one of the looks have shown, which share alpha."""
        smoothed, request = self.smoothed, evidence.request
        tiled = smoothed.tile is not None
        certificate = Certificate(
            **evidence.fields(),
            lr_shape=(*self.lr.shape[1:],),
            sigma=smoothed.sigma,
            agg=cast(Agg, smoothed.agg),
            n_serve=smoothed.n,
            antithetic=smoothed.antithetic,
            n_cert=request.n,
            alpha=alpha,
            level_count=request.levels,
            kind=request.kind,
            scope=request.scope,
            tile=cast(int | None, smoothed.tile),
            halo=smoothed.halo if tiled else 0,
            halo_noise=smoothed.halo_noise if tiled else 1.0,
            seeded=smoothed.seed is not None,
            void=self.seed is not None,
            lattice=smoothed.lattice,
            dtype=precision_text(self.lr),
            input_digest=digest([self.lr]),
            weights_digest=fingerprint(*smoothed.children()),
            denoiser_sigma=smoothed.denoiser_sigma,
            looks=looks,
        )
        if smoothed.agg == "mean" and request.kind != "levels":
            return certificate.as_mean()
        return certificate
