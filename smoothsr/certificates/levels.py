"""The stored order statistics of certification draws, and the bounds that are looked up in them."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.options import Agg

__all__ = ["EVERYWHERE", "Levels", "Window"]

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
        if self.agg == "median":
            index = int(quantile_bounds.level_index(self.z, shift))
            return self._at(self.lower, index, 0, window), self._at(self.upper, index, 255, window)
        # The mean is the integral of the quantiles; each slice of it is bounded by its highest
        # level, the rest by the range.
        weights = np.diff(ndtr(self.z), prepend=0.0)
        lower = np.zeros_like(self._at(self.lower, len(self.z), 0, window), float)
        upper = np.full_like(lower, 255 * (1 - weights.sum()))
        indices = quantile_bounds.level_index(self.z, self.z + shift)
        for weight, index in zip(weights, indices, strict=True):
            lower += weight * self._at(self.lower, index, 0, window)
            upper += weight * self._at(self.upper, index, 255, window)
        # The stored draws were rounded, the mean's are not, and the output is: half a step twice.
        return (lower - 1).clip(0), (upper + 1).clip(None, 255)

    def stacks(self, shifts: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Stack the bounds of a part of the output, for those who need many of them.

        Args:
            shifts: (K,), at least 0.
            window: The part.

        Returns:
            (lower, upper), each (L,C,h,w) in 8-bit steps: for the median those of every level and
            the trivial ones, as `quantile_bounds.level_index` counts; for the mean those of every
            shift.
        """
        if self.agg == "mean":
            lower, upper = zip(*(self.interval(shift, window) for shift in shifts), strict=True)
            return np.stack(lower), np.stack(upper)
        levels = range(len(self.z) + 1)
        return (
            np.stack([self._at(self.lower, index, 0, window) for index in levels]),
            np.stack([self._at(self.upper, index, 255, window) for index in levels]),
        )

    def _at(self, stack: np.ndarray, index: int, trivial: int, window: Window) -> np.ndarray:
        """One level of a part of the output; the end of the range beyond the last."""
        whole = (
            stack[index]
            if index < len(self.z)
            else np.broadcast_to(np.uint8(trivial), stack.shape[1:])
        )
        return whole[:, window[0], window[1]]
