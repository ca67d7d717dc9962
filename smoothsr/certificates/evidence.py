"""What is kept of the certification draws of an image, and the bounds that follow from it.

One failure probability alpha is shared: half for the levels and half for the spectrum where both
are asked for; of the spectrum's share half is for luma where there is such.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.options import Kind, Scope
from smoothsr.certificates.spectrum import Spectrum, spectrum
from smoothsr.engine.draws import Observer
from smoothsr.engine.moments import Moments
from smoothsr.engine.quantiles import Quantiles
from smoothsr.metrics import LUMA

__all__ = ["Evidence", "Request", "levels_alpha", "pilot_count"]

PILOT_SHARE = 0.1  # of the draws
PILOTS = 10, 200  # at least and at most so many, as far as there are twice as many draws


class Request(NamedTuple):
    """What a certificate is to be made of."""

    n: int
    alpha: float
    levels: int
    scope: Scope
    kind: Kind


def levels_alpha(alpha: float, kind: Kind) -> float:
    """The failure probability that the levels get."""
    return alpha / 2 if kind == "both" else alpha


def pilot_count(n: int) -> int:
    """How many of n draws of a tile are pilot draws."""
    least, most = PILOTS
    return max(1, min(max(round(PILOT_SHARE * n), least), most, n // 2))


class Evidence:
    """The observers of an image's certification draws.

    Args:
        request: What is asked for.
        lr: The input (1,C,h,w).
        output_shape: (C,H,W) of the output.
    """

    def __init__(self, request: Request, lr: Tensor, output_shape: tuple[int, ...]) -> None:
        self.request = request
        self.z = np.empty(0)
        self.values = int(np.prod(output_shape)) if request.scope == "image" else output_shape[0]
        self._nothing = np.empty((0, *output_shape), np.uint8)
        self._quantiles: Quantiles | None = None
        self._moments: Moments | None = None
        self._luma: Moments | None = None
        if request.kind != "spectral":
            self._watch_levels(lr)
        if request.kind != "levels":
            self._watch_moments(lr, output_shape[0] == 3)

    @property
    def observers(self) -> list[Observer]:
        """Those that the draws are to be shown to."""
        return [each for each in (self._quantiles, self._moments, self._luma) if each is not None]

    def fields(self) -> dict[str, Any]:
        """The fields of a `Certificate` that the draws fill."""
        lower, upper, mean = self._nothing, self._nothing, np.empty(0, np.float32)
        if self._quantiles:
            found = self._quantiles.result
            lower, upper = found[: self.z.size], found[self.z.size :]
        if self._moments:
            mean = self._moments.mean
        whole, luma = self._spectra()
        bounds = {"spectrum": whole, "luma_spectrum": luma}
        return {"z": self.z, "lower": lower, "upper": upper, "mean": mean, **bounds}

    def _watch_levels(self, lr: Tensor) -> None:
        n, count = self.request.n, self.request.levels
        alpha = levels_alpha(self.request.alpha, self.request.kind)
        self.z = quantile_bounds.levels(n, alpha, count, self.values)
        if self.z.size:
            ranks = quantile_bounds.level_ranks(self.z, n, alpha, self.values)
            self._quantiles = Quantiles(n, [*(n + 1 - ranks), *ranks], lr)

    def _watch_moments(self, lr: Tensor, colour: bool) -> None:
        def watch(channels: Sequence[float] | None) -> Moments:
            sides = (lr.shape[2], lr.shape[3])
            return Moments(self.request.n, pilot_count(self.request.n), sides, channels)

        self._moments = watch(None)
        self._luma = watch([weight / 255 for weight in LUMA]) if colour else None

    def _spectra(self) -> tuple[Spectrum | None, Spectrum | None]:
        """The spectra of all channels and of luma, which hold at once."""
        watched = [moments for moments in (self._moments, self._luma) if moments]
        share = 2 if self.request.kind == "both" else 1
        made = [
            spectrum(moments.tiles, self.request.alpha / share / len(watched))
            for moments in watched
        ]
        whole, luma, *_ = [*made, None, None]
        return whole, luma
