"""The mathematics of the certificate: pure functions on numbers and arrays.

One inequality carries everything. If F(y) = P(f(x + G) <= y) with G ~ N(0, sigma^2 I), and F' is
the same at x + delta with ||delta||_2 <= t sigma, then Phi(Phi^-1(F) - t) <= F' <= Phi(Phi^-1(F) +
t). The median under attack therefore lies between the Phi(-t) and the Phi(t) quantile without
attack, and order statistics of draws bound those with known confidence. Ranks are 1-based; a
quantile is the lower one, inf{y: F(y) >= p}.

References: J. Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", 2019; P.
Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing", 2020
(arXiv 2007.03730), Lemma 1. Proofs: docs/certificates.md.
"""

import math

import numpy as np
from scipy.special import betainc, betaincinv, log_ndtr, ndtr, ndtri, ndtri_exp

__all__ = [
    "collective_error",
    "draws_needed",
    "level_index",
    "level_ranks",
    "levels",
    "served_bins",
    "served_shift",
]

# Levels are claimed this much higher than they are stored, so that lookups may forgive rounding
# errors
SLACK = 1e-9


def levels(n: int, alpha: float, count: int, values: int) -> np.ndarray:
    """Choose the shifts z_1 = 0 < ... < z_G at which n draws are to bound `values` output values at
    once.

    Args:
        n: Number of certification draws.
        alpha: Failure probability of the whole certificate, in (0, 1); each of the 2 * G * values
            one-sided bounds gets an equal share.
        count: G, at least 2.
        values: How many output values one failure may spoil: all of the image's, or one pixel's
            channels.

    Returns:
        (G,) equally spaced up to the largest level that n draws support; (0,) where they support
        none.

    Example:
        >>> float(levels(1000, 0.001, 32, 512 * 512 * 3)[-1].round(2))
        1.97
        >>> levels(21, 0.001, 32, 512 * 512 * 3).size
        0
    """
    # The largest of n draws is below the p quantile with probability at most p**n: p = a**(1/n) is
    # as far as n draws reach; in logarithms, since it is next to 1 for many draws.
    top = ndtri_exp(_log_share(alpha, count, values) / n) - SLACK
    return np.linspace(0.0, top, count) if top >= 0 else np.empty(0)


def level_ranks(z: np.ndarray, n: int, alpha: float, values: int) -> np.ndarray:
    """Find for each level the rank u whose order statistic is at least the Phi(z) quantile, but for
    an equal share of alpha.

    By symmetry the order statistic of rank n + 1 - u is at most the Phi(-z) quantile, with the same
    confidence.

    Args:
        z: (G,) from `levels`, for the same n, alpha and values.
        n: Number of draws.
        alpha: Failure probability of the whole certificate.
        values: As for `levels`.

    Returns:
        (G,) integers in 1..n, the last one n.
    """
    if z.size == 0:
        return np.empty(0, int)
    a = math.exp(_log_share(alpha, z.size, values))
    p = ndtr(z + SLACK)
    low, high = np.ones(z.size, int), np.full(z.size, n)
    while (low < high).any():
        # X_(u) < q_p happens only if at least u of n draws fall below q_p: probability at most
        # P(Bin(n, p) >= u).
        middle = (low + high) // 2
        enough = betainc(middle, n - middle + 1.0, p) <= a
        high = np.where(enough, middle, high)
        low = np.where(enough, low, np.minimum(middle + 1, high))
    high[-1] = n  # by construction of the last level; the search may miss it by a rounding error
    return high


def level_index(z: np.ndarray, shift: np.ndarray | float) -> np.ndarray:
    """Round shifts up to levels.

    Args:
        z: (G,) levels.
        shift: Any shape; below 0 counts as 0.

    Returns:
        Index of the smallest level >= shift, of the shape of shift; G, which stands for the trivial
        bound, beyond the last.
    """
    return np.searchsorted(z, np.asarray(shift, float) - SLACK / 2, side="left")


def draws_needed(shift: float, alpha: float, count: int, values: int) -> int:
    """Compute the smallest number of draws whose last level reaches shift, or 37 where that is
    less: 10**300 draws are no answer.

    Example:
        >>> n = draws_needed(1.97, 0.001, 32, 512 * 512 * 3)
        >>> [bool(levels(draws, 0.001, 32, 512 * 512 * 3)[-1] >= 1.97) for draws in (n - 1, n)]
        [False, True]
    """
    shift = min(max(shift, 0.0), 37.0) + SLACK
    n = max(1, math.floor(_log_share(alpha, count, values) / log_ndtr(shift)))
    while True:
        z = levels(n, alpha, count, values)
        if z.size and z[-1] >= shift - SLACK:
            return n
        n += max(1, n >> 40)  # floats can't tell the next one where there are so many


def served_shift(n: int, beta: float, values: int = 1) -> float:
    """Compute how far, in units of z, the median of n fresh draws strays from the population's with
    probability beta.

    The median of n draws is the V quantile for V ~ Beta(k, k), k = (n + 1) / 2; outside [1 - r, r]
    it falls with probability beta.

    Args:
        n: Draws of one inference, odd.
        beta: Failure probability of one inference, in (0, 1).
        values: How many output values must hold at once; 1 speaks of each value by itself.

    Returns:
        Phi^-1(r), which adds to the attacker's shift on both sides.

    Example:
        >>> round(served_shift(21, 0.001), 2), round(served_shift(101, 0.001), 2)
        (0.89, 0.41)
    """
    k = (n + 1) / 2
    return float(-ndtri(betaincinv(k, k, beta / values / 2)))


def served_bins(n: int, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partition the random level at which the median of n fresh draws sits.

    Any partition is sound. Edges at the levels, on both sides of 0, suit lookups in them: finer
    bins would be rounded to the same levels, and beyond the last all is trivial.

    Args:
        n: Draws of one inference, odd.
        z: (G,) levels.

    Returns:
        weights (b,), which sum to 1, and the shifts (b,) that bins add to the attacker's, upwards
        and downwards. The outermost bins are unbounded, with infinite shifts.
    """
    k = (n + 1) / 2
    edges = np.concatenate([[-np.inf], -z[:0:-1], z, [np.inf]])
    return np.diff(betainc(k, k, ndtr(edges))), edges[1:], -edges[:-1]


def collective_error(errors: np.ndarray, radii: np.ndarray, multiplicity: float) -> float:
    """Bound a sum of errors over tiles against one attacker whose budget all tiles share.

    Tile j is hit by eps_j with sum_j eps_j^2 <= M eps^2. On the grid 0 = e_0 < ... < e_K = eps,
    weak duality gives for every lambda >= 0

        sum_j E_j(eps_j) <= lambda M eps^2 + sum_j max(E_j(0), max_k (E_j(e_k) - lambda e_{k-1}^2)),

    so the smallest value found by a numerical search over lambda is sound; lambda = 0 is the box.

    Args:
        errors: (T, K + 1), E_j(e_k), which does not decrease in k.
        radii: (K + 1,), e_k, beginning with 0.
        multiplicity: M, the largest number of patches that one input pixel belongs to.

    Returns:
        The bound on sum_j E_j(eps_j).
    """
    eps = radii[-1]
    if eps == 0:
        return float(errors[:, 0].sum())
    paid = np.concatenate([[0.0], radii[:-1]]) ** 2

    def dual(price: float) -> float:
        return price * multiplicity * eps**2 + float((errors - price * paid).max(axis=1).sum())

    best = dual(0.0)
    # Above this price no tile is worth more than its first step. The dual is convex, so a golden
    # section finds its minimum.
    first = max(radii[1] ** 2, 1e-300)  # the square of a tiny step is 0 in floating point
    high = float((errors.max() - errors[:, :1].min()) / first) if errors.max() > 0 else 0.0
    low, ratio = 0.0, (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        at_left, at_right = dual(left), dual(right)
        best = min(best, at_left, at_right)
        if at_left <= at_right:
            high = right
        else:
            low = left
    return best


def _log_share(alpha: float, count: int, values: int) -> float:
    """The logarithm of each one-sided bound's share of alpha."""
    return math.log(alpha / (2 * count * values))
