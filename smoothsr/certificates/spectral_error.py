"""Certified squared error of the smoothed mean: from a spectrum to one number for a whole image.

An attack enters by the largest shift of one tile and by how many tiles it can shift so far. Proofs:
docs/spectral.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from smoothsr.certificates import spectrum as mathematics
from smoothsr.certificates.options import Norm
from smoothsr.certificates.spectrum import Spectrum
from smoothsr.engine.tiles import Tile, multiplicity

__all__ = ["ROUNDING", "Attack", "attack", "rms_error"]

ROUNDING = 0.5 / 255  # the most by which rounding to 8 bits changes a value


class Attack(NamedTuple):
    """What every attack within a budget can do to the tiles."""

    shift: float  # the largest norm of the change on one patch, in units of sigma
    tiles_hit: int | None  # how many tiles it can shift so far; None is all of them


def attack(shift: float, norm: Norm, channels: int, tiles: Sequence[Tile]) -> Attack:
    """Translate a budget.

    Args:
        shift: Norm of the change of the LR image in units of sigma, at least 0.
        norm: "l2" or "linf".
        channels: Of the LR image.
        tiles: The grid.
    """
    if norm == "l2":
        return Attack(shift, multiplicity(list(tiles)))
    values = channels * max(tile.pixels for tile in tiles)
    return Attack(shift * math.sqrt(values), None)


def rms_error(
    spectrum: Spectrum,
    within: Attack,
    values: int,
    to_centre: float | None,
    n_serve: int | None = None,
) -> float:
    """Bound the root mean square error of the mean under attack, before it is rounded to 8 bits.

    Args:
        spectrum: Of the output's values.
        within: The attack.
        values: How many values are compared: all that the spectrum is of, or those inside a border.
        to_centre: Distance of the reference to the mean of the certification draws over these
            values, root of summed squares; None where the reference is the ideal mean without
            attack.
        n_serve: Draws of one served inference, whose *expected* squared error is bounded; None
            bounds the error of the ideal mean.

    Returns:
        In [0, 1] units; may exceed 1 where nothing is certified.
    """
    if to_centre is None:
        root = mathematics.ideal_deviation(spectrum, *within)
    else:
        root = mathematics.distance(spectrum, *within, to_centre)
    squares = root**2
    if n_serve is not None:
        squares += mathematics.variance(spectrum, *within) / n_serve
    return math.sqrt(squares / values)
