"""The spectral certificate of the smoothed mean: a few numbers a tile become one bound.

A value-by-value certificate lets every output value take its own worst case. No single change of
the input can do that to all of them at once. This module bounds the whole deviation of the smoothed
mean instead, by the largest eigenvalue of what the noise does to each tile (`Spectrum.total`,
`Spectrum.largest`) and by how often a tile strays far from its centre (`Spectrum.rare`).

The order of work: engine/moments.py fixes a centre and a radius for each tile from a few draws, and
reduces its certification draws to three numbers; `spectrum` turns those of all tiles into bounds
that hold at once with probability 1 - alpha; `ideal_deviation` and `variance` answer every question
about every attack from them.

Statements and proofs: docs/spectral.md. Sources: S. Boucheron, G. Lugosi and P. Massart, "A sharp
concentration inequality with applications" (2000) and "Concentration inequalities using the entropy
method" (2003); J. Neyman and E. Pearson (1933); for Cauchy and Schwarz between the noise at x and
at x + delta, K. Dvijotham et al., "A framework for robustness certification of smoothed classifiers
using f-divergences" (2020).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from smoothsr.engine.moments import TileMoments

__all__ = [
    "Spectrum",
    "ideal_deviation",
    "spectrum",
    "up",
    "variance",
]

Array = npt.NDArray[np.float64]

EVENTS = 5  # alpha is shared equally among so many
SAFETY = 1 + 1e-9  # what results are widened by, far more than float64 can have lost
SMALLEST = 1e-5  # in the tail smaller shifts count as this one: float64 can't tell them apart
LARGEST = 26.0  # e^(shift^2) overflows soon after


@dataclass(frozen=True)
class Spectrum:
    """What holds at once with probability at least 1 - alpha, whatever is asked afterwards.

    The probability is over the certification draws. Lengths are in output units (values in [0, 1]),
    over all values of all tiles, not divided by their number.

    Attributes:
        tiles: T, how many tiles.
        alpha: Failure probability, in (0, 1).
        total: At least the sum over tiles of the largest eigenvalue of E Z Z^T.
        largest: At least the largest of these eigenvalues.
        rare: At least the sum over tiles of the mean share by which a draw lies beyond the radius.
        fourth: At least the sum over tiles of weight * E||Z||^4.
        centre: At least the distance between the mean of the certification draws and the ideal one.
        gap: Largest reach - radius of a tile, known for certain, as all that follows.
        squared_gap: Largest reach^2 - radius^2 of a tile.
        inverse: Sum over tiles of 1 / weight.
        largest_inverse: Largest 1 / weight of a tile.
    """

    tiles: int
    alpha: float
    total: float
    largest: float
    rare: float
    fourth: float
    centre: float
    gap: float
    squared_gap: float
    inverse: float
    largest_inverse: float


def up(total: npt.ArrayLike, a: float) -> Array:
    """Bound the mean of a sum of independent terms in [0, 1], or of a supremum of such sums.

    With probability at least 1 - a over the sum W, its mean is at most up(W, a): the larger root mu
    of mu - W + W log(W / mu) = log(1 / a).

    Args:
        total: The observed value W, at least 0, any shape.
        a: Failure probability, in (0, 1).

    Returns:
        In the shape of total, rounded upwards; log(1 / a) where W is 0.

    Raises:
        ValueError: If total is negative or not finite, or a not in (0, 1).

    Example:
        >>> up([0, 1, 100], 0.05).round(3).tolist()
        [2.996, 5.744, 126.514]
    """
    total = np.asarray(total, np.float64)
    if not (np.isfinite(total).all() and (total >= 0).all()):
        raise ValueError(f"total must be finite and not negative, got {total}")
    _check_probability("a", a)
    level, w = -math.log(a), np.maximum(total, 1e-300)  # there the root is log(1/a) to the last bit

    # With gap = mu - W: gap - W log(1 + gap / W) >= gap^2 / (2 (W + gap)), so the first gap is at
    # least the root. The left side is convex in the gap, so Newton's steps stay above it.
    gap = level + np.sqrt(level**2 + 2 * level * w)
    for _ in range(50):
        excess = gap - w * np.log1p(gap / w) - level
        gap = gap - excess * (w + gap) / gap
    return np.where(total > 0, (w + gap) * SAFETY, level)


def spectrum(moments: TileMoments, alpha: float) -> Spectrum:
    """Turn what the draws of all tiles have shown into bounds that hold at once.

    With probability at least 1 - alpha all of `total`, `largest`, `rare`, `fourth` and `centre` are
    right: five events, each with failure probability alpha / 5.

    Args:
        moments: Of all tiles, whose draws are independent.
        alpha: In (0, 1).

    Raises:
        ValueError: If alpha or the moments are out of range.
    """
    _check_probability("alpha", alpha)
    radius, far, weight, top, clipped, fourth = _check_moments(moments)
    n, part = moments.n, alpha / EVENTS

    # Terms of each sum are divided by the largest value that one can take, and multiplied back.
    squared, quartic = (radius**2).max(), (weight * radius**4).max()
    total, largest = squared / n * up([n * top.sum() / squared, n * top.max() / squared], part)
    rare = float(up(clipped.sum(), part)) / n
    weighted = quartic / n * float(up((weight * fourth).sum() / quartic, part))

    gaps, inverse = np.maximum(far - radius, 0), 1 / weight
    trace = math.sqrt(weighted * inverse.sum())  # at least the sum over tiles of E||Z||^2
    wander = math.sqrt(n * trace) + _wander(n * largest, math.sqrt(squared), part)
    centre = wander / n + np.linalg.norm(gaps * clipped) / n + gaps.max() * rare
    return Spectrum(
        tiles=len(radius),
        alpha=float(alpha),
        total=float(total),
        largest=float(largest),
        rare=rare,
        fourth=float(weighted),
        centre=float(centre) * SAFETY,
        gap=float(gaps.max()),
        squared_gap=float(np.maximum(far**2 - radius**2, 0).max()),
        inverse=float(inverse.sum()),
        largest_inverse=float(inverse.max()),
    )


def ideal_deviation(spectrum: Spectrum, shift: float, tiles_hit: float | None) -> float:
    """Bound how far any attack within a budget moves the ideal mean: ||g(x + delta) - g(x)||.

    Args:
        spectrum: From `spectrum`.
        shift: The largest shift of one tile, the norm of delta on its patch over sigma. For linf it
            is e * sqrt(d_max) / sigma, for l2 it is eps / sigma.
        tiles_hit: None for linf, where every tile is shifted; for l2 the multiplicity M, the
            largest number of patches that one input value belongs to.

    Returns:
        Root of the summed squares over all output values (divide by the root of their number for a
        root mean square), at least 0; inf where the shift is too large for floating point.

    Raises:
        ValueError: If shift is negative or not a number, or tiles_hit less than 1.
    """
    hit = _check_attack(spectrum, shift, tiles_hit)
    if shift == 0:
        return 0.0
    growth = _growth(max(shift, SMALLEST))
    if math.isinf(growth):
        return growth

    shared = min(hit * spectrum.largest, spectrum.total) * growth
    alone = min(spectrum.largest, spectrum.total) * growth
    chances, effects = _tail(min(spectrum.rare, 1.0), max(shift, SMALLEST))
    effects = spectrum.gap * effects
    squares = _sum_of_squares(shared, alone, chances, effects, spectrum.rare, spectrum.tiles)
    return math.sqrt(squares) * SAFETY


def variance(spectrum: Spectrum, shift: float, tiles_hit: float | None) -> float:
    """Bound the sum of the variances of all output values of one draw at x + delta.

    Takes and raises what `ideal_deviation` does.
    """
    hit = _check_attack(spectrum, shift, tiles_hit)
    growth = _growth(shift)
    if math.isinf(growth):
        return growth

    # Cauchy-Schwarz for E[||Z||^2 L] in each tile, then over the tiles: the sum of E L^2 / weight.
    shifted = min(spectrum.inverse, hit * spectrum.largest_inverse)
    kept = math.sqrt(spectrum.fourth * (spectrum.inverse + growth * shifted))
    beyond = _struck(spectrum.rare, max(shift, SMALLEST), hit, spectrum.tiles)
    return (kept + spectrum.squared_gap * beyond) * SAFETY


def _growth(shift: float) -> float:
    """Compute the variance of the likelihood ratio, e^(shift^2) - 1; inf where it overflows."""
    return math.expm1(shift**2) if shift < LARGEST else math.inf


def _wander(summed: float, radius: float, a: float) -> float:
    """Bound how far the norm of a sum of centred, clipped draws exceeds its mean.

    It holds except with probability a. Every pair (y, s) gives a bound; the smallest on a grid is
    taken.

    Args:
        summed: n times `Spectrum.largest`.
        radius: The largest of all tiles.
        a: Failure probability.
    """
    y, s = np.meshgrid(np.geomspace(1e-5, 0.9, 100), np.geomspace(1e-5, 6, 100))
    cost = -np.log1p(-y) * summed / radius**2 * (np.expm1(s) + s)
    return radius * float(((cost - math.log(a)) / np.sqrt(s * y / 2)).min())


def _tail(rare: float, shift: float) -> tuple[Array, Array]:
    """Tabulate h(p), the supremum of E[V |L - 1|] over all shares 0 <= V <= 1 of mean p.

    Args:
        rare: The largest p, in (0, 1].
        shift: > 0.

    Returns:
        Of K cells that cover 0 to rare the lower ends p, and h at the upper ends; both (K,) and
        ascending.
    """
    # Thresholds c of |L - 1|: L = 1 + c at z, and where c < 1 also L = 1 - c further below.
    z = np.linspace(12 + shift, shift / 2, 1000)
    c = np.expm1(shift * z - shift**2 / 2)
    two_sided = c < 1
    low = np.log1p(-np.where(two_sided, c, 0)) / shift

    chance = ndtr(-z) + np.where(two_sided, ndtr(low + shift / 2), 0)
    excess = ndtr(shift - z) - (1 + c) * ndtr(-z)
    excess += np.where(two_sided, (1 - c) * ndtr(low + shift / 2) - ndtr(low - shift / 2), 0)

    # h(p) is the minimum over c of c p + E(|L - 1| - c)+, attained where p = P(|L - 1| > c).
    inside = chance < rare
    last = (c * rare + excess).min()
    effects = np.append((c * chance + excess)[inside], last)
    return np.append(0.0, chance[inside]), np.maximum(effects, 0)


def _sum_of_squares(
    shared: float, alone: float, chances: Array, effects: Array, rare: float, tiles: int
) -> float:
    """Bound the sum over tiles of (a + b)^2, a the spectral part of a tile and b its tail.

    sum_j a_j^2 <= shared and a_j^2 <= alone; b_j <= effect(p_j), where sum_j p_j <= rare. Every
    price on the a_j^2 gives a bound; the smallest of a few is taken. Price 1 lets the tail meet a
    single tile's deviation only, price 1 + max b / root of shared is Minkowski's inequality.
    """
    ratio = effects[-1] / math.sqrt(shared)
    extra = np.append(0.0, ratio * 2.0 ** np.linspace(-6, 3, 19))[:, None]

    # (a + b)^2 - (1 + extra) a^2 is largest at a = b / extra, or at the largest a that is allowed.
    best = np.minimum(effects / np.maximum(extra, 1e-300), math.sqrt(alone))
    values = (best + effects) ** 2 - (1 + extra) * best**2
    return float(((1 + extra[:, 0]) * shared + _split(values, chances, rare, tiles)).min())


def _split(values: Array, costs: Array, budget: float, tiles: int) -> Array:
    """Bound what tiles gain that share a budget: sum value(k_j) where sum cost(k_j) <= budget.

    Weak duality: every price on the cost gives a bound, price * budget + tiles * max_k (value(k) -
    price * cost(k)). It is convex in the price, whose best value is found by bisection.

    Args:
        values: (rows,K), at least 0, each row a question of its own.
        costs: (K,), ascending from 0.
        budget: > 0.
        tiles: How many.

    Returns:
        (rows,).
    """
    low, high = np.zeros(len(values)), tiles * values.max(axis=1) / budget
    for _ in range(40):
        price = (low + high) / 2
        best = (values - price[:, None] * costs).argmax(axis=1)
        dear = tiles * costs[best] < budget
        low, high = np.where(dear, low, price), np.where(dear, price, high)

    prices = np.stack([low, high])
    worst = (values - prices[:, :, None] * costs).max(axis=2)
    bounds: Array = (prices * budget + tiles * worst).min(axis=0)
    return bounds


def _struck(rare: float, shift: float, hit: float, tiles: int) -> float:
    """Bound the sum over tiles of the mean share beyond the radius, of a draw at x + delta.

    Neyman and Pearson: a share of mean p at x has a mean of at most c p + E(L - c)+ at x + delta,
    for every threshold c. Tiles share the squared shifts, hit * shift^2 in all: many tiles with a
    little of it each can be worse than `hit` tiles with all of it.

    Args:
        rare: `Spectrum.rare`.
        shift: > 0.
        hit: How many tiles can be shifted in full.
        tiles: How many there are.
    """
    squares = shift**2 * np.linspace(0, 1, 101) ** 2
    t = np.sqrt(squares[1:])
    log_c = (shift * np.linspace(-8, 12 + shift, 200) - shift**2 / 2)[:, None]

    # Each cell of squared shifts is charged at its lower end and counted at its upper end.
    excess = ndtr(t / 2 - log_c / t) - np.exp(log_c) * ndtr(-t / 2 - log_c / t)
    spread = _split(np.maximum(excess, 0), squares[:-1], hit * shift**2, tiles)
    return min(float((np.exp(log_c[:, 0]) * rare + spread).min()), float(tiles))


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


def _check_attack(spectrum: Spectrum, shift: float, tiles_hit: float | None) -> float:
    """Check an attack's budget and return how many tiles it can shift in full."""
    if not shift >= 0:
        raise ValueError(f"shift must not be negative, got {shift}")
    if tiles_hit is None:
        return spectrum.tiles
    if tiles_hit < 1:
        raise ValueError(f"tiles_hit must be at least 1, got {tiles_hit}")
    return min(tiles_hit, spectrum.tiles)


def _check_moments(moments: TileMoments) -> list[Array]:
    """Check the moments and return their arrays in float64, in the order of the fields."""
    if moments.n < 1:
        raise ValueError(f"n must be at least 1, got {moments.n}")
    arrays = [np.asarray(array, np.float64) for array in moments[1:]]
    for name, array in zip(moments._fields[1:], arrays, strict=True):
        if array.ndim != 1 or array.shape != arrays[0].shape or not array.size:
            raise ValueError(f"{name} must have one value for each tile, got shape {array.shape}")
        if not np.isfinite(array).all() or array.min() < 0:
            raise ValueError(f"{name} must be finite and not negative")
        if name in {"radius", "weight"} and array.min() == 0:
            raise ValueError(f"{name} must be greater than 0")
    return arrays
