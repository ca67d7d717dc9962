"""Certified squared error: from a certificate's levels to one number for a whole image.

A tile's error E_j(e), the largest that an attack of norm e on its patch can cause, is a sum of
one-value bounds. The box spends the attacker's whole budget on every tile; the collective bound
lets the tiles share it. Proofs: docs/certificates.md.

How far a value may lie above its reference, a, depends on one level, and how far below, b, on
another. The sums of max(a, b)^2 over a tile are computed once for each pair of levels that is
looked up, however many bins of the served level and radii of the attack ask for it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from smoothsr.certificates import quantile_bounds
from smoothsr.certificates.levels import Levels
from smoothsr.certificates.options import Method, Norm
from smoothsr.engine.tiles import Tile, multiplicity
from smoothsr.metrics import LUMA

__all__ = ["Budget", "Comparison", "mean_squared_errors"]

STRIP = 2**14  # output pixels unpacked at a time: memory stays small where a tile is the image
WEIGHTS = np.array(LUMA) / 255
AT_ONCE = 32  # groups of values handled at a time: they stay in a core's cache
EXACT = 2**8  # so many squares of 8-bit steps are added in float32 without a rounding error


class Budget(NamedTuple):
    """What the attacker may do within a norm."""

    norm: Norm  # of the attack
    method: Method
    channels: int  # of the LR image
    halo_noise: float = 1.0  # how many times sigma the noise beyond a tile is


class Comparison(NamedTuple):
    """What the output is compared with, and where."""

    reference: np.ndarray  # uint8 (C,H,W)
    border: int  # output pixels left out at each side
    y: bool  # whether luma is compared

    @property
    def values(self) -> int:
        """How many values are compared."""
        channels, height, width = self.reference.shape
        return (1 if self.y else channels) * (height - 2 * self.border) * (width - 2 * self.border)


class Lookups(NamedTuple):
    """Which bounds each of K shifts looks up, in b bins of the served level."""

    weights: np.ndarray  # (b,): the bins' probabilities
    above: np.ndarray  # (L,): the shifts at which upper bounds are looked up
    below: np.ndarray  # (M,): the shifts at which lower bounds are looked up
    up: np.ndarray  # (K,b): indices into above
    down: np.ndarray  # (K,b): indices into below


def mean_squared_errors(
    levels: Levels,
    tiles: Sequence[Tile],
    attack_shifts: Sequence[float],
    budget: Budget,
    comparison: Comparison,
    n_serve: int | None,
) -> list[float]:
    """Bound the mean squared error of the 8-bit output against every attack within a budget, at
    each of several norms.

    Args:
        levels: What the draws have shown.
        tiles: The grid, row by row.
        attack_shifts: Norms of the attack, in units of sigma.
        budget: What else the attacker may do.
        comparison: With what, and where.
        n_serve: Draws of one served inference, whose expected error is bounded; None bounds the
            ideal predictor's error.

    Returns:
        A bound for each norm, in [0, 1] units squared.
    """
    asked = [_shifts(levels.z, tiles, shift, budget) for shift in attack_shifts]
    shifts = np.unique(np.concatenate([needed for needed, _ in asked]))
    errors = _tile_errors(levels, tiles, shifts, comparison, n_serve)
    hit = multiplicity(tiles, budget.halo_noise)
    totals = []
    for needed, index in asked:
        found = errors[:, np.searchsorted(shifts, needed)]
        if index is None:
            totals.append(quantile_bounds.collective_error(found, needed, hit))
        else:
            totals.append(float(found[np.arange(len(tiles)), index].sum()))
    return [total / comparison.values for total in totals]


def _shifts(
    z: np.ndarray, tiles: Sequence[Tile], shift: float, budget: Budget
) -> tuple[np.ndarray, np.ndarray | None]:
    """The distinct shifts (K,) at which errors are needed, and which of them hits each tile; None
    where tiles share the budget over a grid of shifts.
    """
    if budget.norm == "linf":
        # A patch of d real values is changed by at most radius * sqrt(d) in l2; the box takes the
        # whole image for a patch.
        whole = tiles[-1].rows.stop * tiles[-1].columns.stop
        box, k = budget.method == "box", budget.halo_noise
        pixels = [whole if box else tile.weight(k) for tile in tiles]
        return np.unique(
            np.sqrt(budget.channels * np.array(pixels, float)) * shift, return_inverse=True
        )
    if budget.method == "box" or shift == 0:
        return np.array([shift]), np.zeros(len(tiles), int)
    return np.array([0.0, *z[1:][z[1:] < shift], shift]), None


def _lookups(levels: Levels, shifts: np.ndarray, n_serve: int | None) -> Lookups:
    weights, up, down = np.ones(1), np.zeros(1), np.zeros(1)
    if n_serve is not None:
        weights, up, down = quantile_bounds.served_bins(n_serve, levels.z)
    above, upper = levels.distinct(shifts[:, None] + up)
    below, lower = levels.distinct(shifts[:, None] + down)
    return Lookups(weights, above, below, upper, lower)


def _tile_errors(
    levels: Levels,
    tiles: Sequence[Tile],
    shifts: np.ndarray,
    comparison: Comparison,
    n_serve: int | None,
) -> np.ndarray:
    """E_j(e) for every tile j and shift e: (T,K), in [0, 1] units squared, summed over the output
    values inside the border.
    """
    lookups = _lookups(levels, shifts, n_serve)
    # Each channel of the served output has a random level of its own, so that only root mean
    # squares of its channels add to luma's (Minkowski's inequality).
    separate = comparison.y and n_serve is not None
    side = comparison.reference.shape[2] // tiles[-1].columns.stop * tiles[0].columns.stop
    errors = np.zeros((len(tiles), len(shifts)))
    for part, rows in _strips(tiles, comparison.reference.shape):
        above, below = (
            _by_tile(squares, side, separate)
            for squares in _squares(levels, lookups, comparison, rows, separate)
        )
        errors[part] += _strip_errors(above, below, lookups, separate)
    return errors / 255**2


def _strips(tiles: Sequence[Tile], shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut the output into strips of rows: which tiles of the grid each crosses, and where it is.

    Args:
        tiles: The grid, row by row.
        shape: (C,H,W) of the output.
    """
    across = sum(tile.rows.start == 0 for tile in tiles)
    scale = shape[1] // tiles[-1].rows.stop
    step = max(1, STRIP // shape[2])
    for first in range(0, len(tiles), across):
        rows = tiles[first].rows
        for top in range(scale * rows.start, scale * rows.stop, step):
            bottom = min(top + step, scale * rows.stop)
            yield slice(first, first + across), slice(top, bottom)


def _strip_errors(
    above: np.ndarray, below: np.ndarray, lookups: Lookups, separate: bool
) -> np.ndarray:
    """Sum the expected errors of a strip over the values of each tile: (tiles,K), in 8-bit steps
    squared.

    Args:
        above: From `_by_tile`.
        below: Likewise.
        lookups: Which levels are looked up.
        separate: Whether channels are told apart, and their roots add up to luma's.
    """
    _, tiles, channels, groups, _ = above.shape
    errors = np.zeros((tiles, len(lookups.up)))
    step = max(1, AT_ONCE // (tiles * channels))
    for start in range(0, groups, step):
        part = np.s_[:, :, :, start : start + step]
        found = _expected_errors(above[part], below[part], lookups)
        if separate:
            found = np.tensordot(np.sqrt(found), WEIGHTS, axes=(2, 0))[:, :, None] ** 2
        errors += found.sum(axis=(2, 3)).T
    return errors


def _squares(
    levels: Levels, lookups: Lookups, comparison: Comparison, rows: slice, separate: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How far values may lie above and below the reference, squared: (L,P,h,W) and (M,P,h,W) in
    8-bit steps, of P channels or of luma.
    """
    window = rows, slice(None)
    upper = levels.upper_bounds(lookups.above, window)
    lower = levels.lower_bounds(lookups.below, window)
    target = comparison.reference[:, rows].astype(np.int16)
    height, width = comparison.reference.shape[1:]
    inside = np.zeros((height, width), bool)
    border = comparison.border
    inside[border : height - border, border : width - border] = True
    found = []
    for distance in (upper - target, target - lower):
        if comparison.y and not separate:  # luma's weights are positive, so intervals add
            distance = np.tensordot(WEIGHTS, distance, axes=(0, 1))[:, None]
        # Where the reference is outside of the bounds one of both is below 0, and the other, by the
        # width of the bounds, is larger.
        distance *= inside[rows]
        found.append(np.square(distance, dtype=np.result_type(distance, np.float32)))
    return found[0], found[1]


def _by_tile(squares: np.ndarray, side: int, separate: bool) -> np.ndarray:
    """Sort the values (L,P,h,W) of a row of tiles by tile and in groups of at most EXACT:
    (L,tiles,P,groups,p), or (L,tiles,1,groups,p) where channels need not be told apart.

    Args:
        squares: The values.
        side: Output width of a tile; where the last one is narrower, zeros fill it up, as they do
            the last group.
        separate: Whether channels are told apart.
    """
    count, channels, height, _ = squares.shape
    tiled = _filled(squares, side).reshape(count, channels, height, -1, side)
    tiled = tiled.transpose(0, 3, 1, 2, 4)
    flat = tiled.reshape(count, tiled.shape[1], channels if separate else 1, -1)
    group = min(EXACT, flat.shape[3])
    return _filled(flat, group).reshape(*flat.shape[:3], -1, group)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """Add zeros along the last axis up to a multiple of size."""
    missing = -values.shape[-1] % size
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]) if missing else values


def _expected_errors(above: np.ndarray, below: np.ndarray, lookups: Lookups) -> np.ndarray:
    """Sum max(a^2, b^2) over each group, and take its mean over the bins: (K,tiles,P,groups).

    Args:
        above: (L,tiles,P,groups,p), a^2.
        below: (M,tiles,P,groups,p), b^2.
        lookups: Which levels are looked up.
    """
    sums = np.zeros((len(above), len(below), *above.shape[1:-1]))
    for up in np.unique(lookups.up):
        down = lookups.down[lookups.up == up]
        needed = slice(down.min(), down.max() + 1)
        worst = np.maximum(above[up], below[needed])
        sums[up, needed] = np.einsum("...i->...", worst)  # faster than sum
    return np.tensordot(lookups.weights, sums[lookups.up, lookups.down], axes=(0, 1))
