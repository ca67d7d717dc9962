"""The stored order statistics of certification draws, and the bounds that are looked up in them."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.options import Agg

__all__ = ["EVERYWHERE", "Levels", "Window"]

AT_ONCE = 2**12  # values of a level that are floats at a time

Window = tuple[slice, slice]
"""Rows and columns of the output."""
EVERYWHERE: Window = (slice(None), slice(None))


@dataclass(frozen=True, eq=False)
class Levels:
    """Bounds of every output value's quantiles, in 8-bit steps, at each of some levels."""

    z: np.ndarray  # (G,): levels, from 0; empty where the draws supported none
    lower: np.ndarray  # uint8 (G,C,H,W): bounds of the Phi(-z) quantiles from below
    upper: np.ndarray  # uint8 (G,C,H,W): bounds of the Phi(z) quantiles from above
    agg: Agg  # the statistic that is bounded

    def interval(self, shift: float, window: Window = EVERYWHERE) -> tuple[np.ndarray, np.ndarray]:
        """Bound the 8-bit ideal output under every attack of norm shift * sigma.

        Args:
            shift: At least 0.
            window: The part of the output that is wanted.

        Returns:
            (lower, upper), each (C,h,w) in 8-bit steps: whole numbers for the median.
        """
        shifts = np.array([shift], float)
        return self.lower_bounds(shifts, window)[0], self.upper_bounds(shifts, window)[0]

    def lower_bounds(self, shifts: np.ndarray, window: Window) -> np.ndarray:
        """The lower bounds of `interval` at each of several shifts (K,): (K,C,h,w)."""
        if self.agg == "median":
            return self._chosen(self.lower, 0, shifts, window)
        # The stored draws were rounded, the mean's are not, and the output is: half a step twice.
        averages = self._averaged(self.lower, 0, shifts, window)
        averages -= 1
        return np.maximum(averages, 0, out=averages)

    def upper_bounds(self, shifts: np.ndarray, window: Window) -> np.ndarray:
        """The upper bounds of `interval` at each of several shifts (K,): (K,C,h,w)."""
        if self.agg == "median":
            return self._chosen(self.upper, 255, shifts, window)
        averages = self._averaged(self.upper, 255, shifts, window)
        averages += 1
        return np.minimum(averages, 255, out=averages)

    def distinct(self, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell at which of some shifts bounds differ.

        Args:
            shifts: Any shape, at least 0.

        Returns:
            (K,) of the shifts, and for each of them the index of that which has the same bounds, of
            the shape of shifts.
        """
        # The median looks up one level; the mean one for each slice, and the end of the range.
        offsets = np.append(self.z, np.inf) if self.agg == "mean" else np.zeros(1)
        looked_up = quantile_bounds.level_index(self.z, shifts.reshape(-1, 1) + offsets)
        _, first, index = np.unique(looked_up, axis=0, return_index=True, return_inverse=True)
        return shifts.ravel()[first], index.reshape(shifts.shape)

    def _chosen(
        self, stack: np.ndarray, trivial: int, shifts: np.ndarray, window: Window
    ) -> np.ndarray:
        """The level at each shift; the end of the range beyond the last."""
        part = stack[:, :, window[0], window[1]]
        found = np.full((len(shifts), *part.shape[1:]), trivial, np.uint8)
        for place, index in enumerate(quantile_bounds.level_index(self.z, shifts)):
            if index < len(part):
                found[place] = part[index]
        return found

    def _averaged(
        self, stack: np.ndarray, trivial: int, shifts: np.ndarray, window: Window
    ) -> np.ndarray:
        """The integral of the quantiles at each shift: each slice of it is bounded by its highest
        level, the rest by the end of the range.
        """
        part = stack[:, :, window[0], window[1]]
        slices = np.diff(ndtr(self.z), prepend=0.0)
        weights = np.zeros((len(shifts), len(self.z) + 1))
        found = quantile_bounds.level_index(self.z, self.z + shifts[:, None])
        np.add.at(weights, (np.arange(len(shifts))[:, None], found), slices)
        rest = trivial * (weights[:, -1] + 1 - slices.sum())[:, None, None, None]
        _, channels, height, width = part.shape
        averages = np.empty((len(shifts), channels, height, width))
        step = max(1, AT_ONCE // (channels * width))
        for top in range(0, height, step):  # a few rows, since floats take eight times as much
            rows = np.s_[:, :, top : top + step]
            averages[rows] = np.tensordot(weights[:, :-1], part[rows].astype(float), axes=1) + rest
        return averages
