"""What is kept of the certification draws of an image, and the bounds that follow from it.

One failure probability alpha is shared: half for the levels and half for the spectrum where both
are asked for.
"""

import copy
import math
from collections.abc import Iterable
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.options import Kind, Scope
from smoothsr.certificates.spectrum import spectrum
from smoothsr.engine.draws import Observer
from smoothsr.engine.moments import (
    BLOCK,
    BandMoments,
    Moments,
    mean_of,
    moments_of_band,
    moments_of_tile,
)
from smoothsr.engine.quantiles import DIRECT, Quantiles
from smoothsr.engine.tiles import Tile, output_slices
from smoothsr.metrics import to_8bit

__all__ = ["Evidence", "Request", "levels_alpha", "pilot_count", "tile_bytes", "values_at_once"]

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


def values_at_once(scope: Scope, output_shape: tuple[int, ...]) -> int:
    """How many values of an output (C,H,W) must hold at once."""
    return math.prod(output_shape) if scope == "image" else output_shape[0]


def pilot_count(n: int) -> int:
    """How many of n draws of a tile are pilot draws."""
    least, most = PILOTS
    return max(1, min(max(round(PILOT_SHARE * n), least), most, n // 2))


def tile_bytes(values: int, n: int, levels: int) -> float:
    """Count the bytes of n draws of a tile of so many values: in 8 bits or as histograms, their
    levels, and for a spectrum in float32 or as second moments.
    """
    steps = values * (min(n, DIRECT) + (1024 if n > DIRECT else 0))
    moments = 4 * values * min(n, max(values, BLOCK)) * 4 / 3 + 16 * min(n, values) ** 2
    return steps + 2 * levels * values + moments


Shown = dict[str, np.ndarray]
"""What the draws of one tile have shown."""


class Evidence:
    """An observer of an image's certification draws, tile by tile; beside them, its served output.

    Args:
        request: What is asked for.
        lr: The input (1,C,h,w).
        output_shape: (C,H,W) of the output.
        served: The served output, uint8 (1,C,H,W), if it is there already.
    """

    def __init__(
        self,
        request: Request,
        lr: Tensor,
        output_shape: tuple[int, ...],
        served: np.ndarray | None = None,
    ) -> None:
        self.request = request
        self.z = np.empty(0)
        self._width = lr.shape[3]
        self.values = values_at_once(request.scope, output_shape)
        self.served = np.empty((1, *output_shape), np.uint8) if served is None else served
        self._quantiles: Quantiles | None = None
        self._moments: Moments | None = None
        self._whole: Evidence | None = None  # of which this one sees some tiles
        self._lock = Lock()
        if request.kind != "spectral":
            self._watch_levels(lr)
        if request.kind != "levels":
            sides = (lr.shape[2], lr.shape[3])
            self._moments = Moments(request.n, pilot_count(request.n), sides)

    def beside(self) -> "Evidence":
        """Return an observer of other tiles, which are drawn at the same time: what it keeps is
        kept here.
        """
        other = copy.copy(self)
        other._whole = self
        if self._quantiles:
            other._quantiles = self._quantiles.beside()
        if self._moments:
            other._moments = self._moments.beside()
        return other

    def void(self) -> None:
        """Take note that an output was not finite: nothing is kept that could be gone on with."""

    def values_of(self, tile: Tile) -> int:
        """How many output values a tile has."""
        return self.served[self._slices(tile)].size

    def serve(self, tile: Tile, output: Tensor) -> None:
        """Keep the served output (1,C,H,W) of a tile, values in [0, 1]."""
        self.served[self._slices(tile)] = to_8bit(output).byte().cpu().numpy()

    @property
    def needs_draws(self) -> bool:
        """Whether anything is to be seen in draws."""
        return bool(self._observers)

    def add(self, outputs: Tensor) -> None:
        """Take draws (b,C,H,W) of the current tile, values in [0, 1]."""
        for observer in self._observers:
            observer.add(outputs)

    def finish(self, tile: Tile) -> None:
        """Keep what the draws of the current tile have shown."""
        (self._whole or self).put(tile, self.take(tile))

    def take(self, tile: Tile) -> Shown:
        """Return what the draws of the current tile have shown, and forget them."""
        shown = {"served": self.served[self._slices(tile)]}
        if self._quantiles:
            shown["ranks"] = self._quantiles.take()
        if self._moments:
            shown["moments"], shown["mean"] = self._moments.take()
        return shown

    def of_band(self, draws: Tensor) -> Shown:
        """Return what all draws (n,C,h,W) show of some rows of a tile's output; the draws may
        be overwritten.
        """
        shown: Shown = {}
        if self._quantiles:
            shown["ranks"] = self._quantiles.of(draws)
        if self._moments:
            pilots = self._moments.pilots
            shown["mean"] = mean_of(draws[pilots:]).float().cpu().numpy()
            shown |= moments_of_band(draws, pilots)._asdict()
        return shown

    def of_bands(self, tile: Tile, bands: Iterable[Shown]) -> Shown:
        """Return what `of_band` returned of all rows of a tile, as `take` does."""
        shown: Shown = {"served": self.served[self._slices(tile)]}
        rows: dict[str, list[np.ndarray]] = {"ranks": [], "mean": []}
        whole: BandMoments | None = None
        for band in bands:
            for name in rows.keys() & band.keys():
                rows[name].append(band[name])
            if self._moments:
                moments = BandMoments(*(band[name] for name in BandMoments._fields))
                whole = moments if whole is None else whole.and_of(moments)
        if whole:
            shown["moments"] = moments_of_tile(whole)
        return shown | {name: np.concatenate(found, -2) for name, found in rows.items() if found}

    def put(self, tile: Tile, shown: Shown) -> None:
        """Keep what `take` returned of a tile."""
        with self._lock:
            self.served[self._slices(tile)] = shown["served"]
            if self._quantiles:
                self._quantiles.put(tile, shown["ranks"])
            if self._moments:
                self._moments.put(tile, shown["moments"], shown["mean"])

    def fields(self) -> dict[str, Any]:
        """The fields of a `Certificate` that the draws fill."""
        nothing = np.empty((0, *self.served.shape[1:]), np.uint8)
        found: dict[str, Any] = {
            "sr_bytes": self.served,
            "z": self.z,
            "lower": nothing,
            "upper": nothing,
            "mean": np.empty(0, np.float32),
            "spectrum": None,
        }
        if self._quantiles:
            found["upper"] = self._quantiles.result[self.z.size :]
            found["lower"] = self._quantiles.result[: self.z.size]
        if self._moments:
            alpha = levels_alpha(self.request.alpha, self.request.kind)
            found["mean"] = self._moments.mean
            found["spectrum"] = spectrum(self._moments.tiles, alpha)
        return found

    @property
    def _observers(self) -> list[Observer]:
        return [each for each in (self._quantiles, self._moments) if each is not None]

    def _slices(self, tile: Tile) -> tuple[Any, ...]:
        """Where a tile's values are in the output."""
        return (..., *output_slices(tile, self.served.shape[-1] // self._width))

    def _watch_levels(self, lr: Tensor) -> None:
        n, count = self.request.n, self.request.levels
        alpha = levels_alpha(self.request.alpha, self.request.kind)
        self.z = quantile_bounds.levels(n, alpha, count, self.values)
        if self.z.size:
            ranks = quantile_bounds.level_ranks(self.z, n, alpha, self.values)
            self._quantiles = Quantiles(n, [*(n + 1 - ranks), *ranks], lr)
