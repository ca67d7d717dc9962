"""Certified squared error of the smoothed mean: from a spectrum to one number for a whole image.

An attack enters by the largest shift of one tile and by how many tiles it can shift so far. Proofs:
docs/spectral.md.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from smoothsr.certificates import spectrum as mathematics
from smoothsr.certificates.options import Norm
from smoothsr.certificates.spectrum import SAFETY, Spectrum
from smoothsr.engine.tiles import Tile, multiplicity
from smoothsr.metrics import LUMA

__all__ = [
    "ROUNDING",
    "Attack",
    "Compared",
    "attack",
    "compared",
    "independent_draws",
    "rms_error",
    "rms_to_ideal",
]

# The most by which rounding to 8 bits changes a value, and what float32 may add to it.
ROUNDING = (0.5 + 2**-14) / 255
STORED = 2**-20  # more than float32 loses where the mean is summed and stored


class Attack(NamedTuple):
    """What every attack within a budget can do to the tiles."""

    shift: float  # the largest norm of the change on one patch, in units of sigma
    tiles_hit: float | None  # how many tiles it can shift so far; None is all of them


class Compared(NamedTuple):
    """Of what a root mean square is taken."""

    values: int  # how many values
    gain: float  # the most by which taking them lengthens a difference of outputs


def attack(
    shift: float, norm: Norm, channels: int, tiles: Sequence[Tile], halo_noise: float
) -> Attack:
    """Translate a budget.

    Args:
        shift: Norm of the change of the LR image in units of sigma, at least 0.
        norm: "l2" or "linf".
        channels: Of the LR image.
        tiles: The grid.
        halo_noise: How many times sigma the noise beyond a tile is.
    """
    if norm == "l2":
        return Attack(shift, multiplicity(tiles, halo_noise))
    values = channels * max(tile.weight(halo_noise) for tile in tiles)
    return Attack(shift * math.sqrt(values), None)


def compared(values: int, y: bool) -> Compared:
    """Describe a comparison of so many values, of all channels or of BT.601 luma.

    Luma adds the channels of each pixel by weights, so no difference between images is longer in
    luma than the weights' norm times what it is over all channels.
    """
    return Compared(values, math.hypot(*LUMA) / 255 if y else 1.0)


def independent_draws(n: int, antithetic: bool) -> float:
    """Tell as how many independent draws a mean of n counts: 1 / (sum of squared weights).

    A pair x + G, x - G has weight 2 / n and counts as one draw, since its mean varies no more than
    a draw does; of an odd n one draw has weight 1 / n.

    Args:
        n: At least 1.
        antithetic: Whether the draws come in pairs.

    Example:
        >>> independent_draws(21, False), independent_draws(6, True), independent_draws(1, True)
        (21.0, 3.0, 1.0)
    """
    return n**2 / (4 * (n // 2) + n % 2) if antithetic else float(n)


def rms_error(
    spectrum: Spectrum,
    within: Attack,
    what: Compared,
    to_centre: float | None,
    draws: float | None = None,
) -> float:
    """Bound the root mean square error of the mean under attack, before it is rounded to 8 bits.

    Args:
        spectrum: Of the output's values.
        within: The attack.
        what: Which values are compared.
        to_centre: Distance of the reference to the mean of the certification draws over these
            values, root of summed squares; None where the reference is the ideal mean without
            attack.
        draws: Of one served inference, as many as count as independent, whose *expected* squared
            error is bounded; None bounds the error of the ideal mean.

    Returns:
        In [0, 1] units; may exceed 1 where nothing is certified.
    """
    root = what.gain * mathematics.ideal_deviation(spectrum, *within)
    if to_centre is not None:
        root += what.gain * spectrum.centre + to_centre + STORED * math.sqrt(what.values)
    squares = root**2
    if draws is not None:
        squares += what.gain**2 * mathematics.variance(spectrum, *within) / draws
    return math.sqrt(squares / what.values) * SAFETY


def rms_to_ideal(spectrum: Spectrum, what: Compared, to_centre: float) -> float:
    """Bound the root mean square distance of a reference to the ideal mean without attack.

    Args:
        spectrum: Of the output's values.
        what: Which values are compared.
        to_centre: As for `rms_error`.
    """
    distance = (what.gain * spectrum.centre + to_centre) / math.sqrt(what.values)
    return (distance + STORED) * SAFETY
