"""The certificate's mathematics, against scipy.stats, linear programming and exhaustive search."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog
from scipy.special import betaincinv

from smoothsr.certificates import quantile_bounds

IMAGE = 512 * 512 * 3
CASES = list(itertools.product((21, 100, 1000), (0.05, 0.001), (2, 32), (1, 3, 10_000)))


@pytest.mark.parametrize(
    ("n", "one_05", "one_001", "image_001"),
    [
        (21, 0.56, 0.23, None),
        (101, 1.49, 1.26, 0.78),
        (1000, 2.45, 2.29, 1.97),
        (10000, 3.19, 3.06, 2.81),
    ],
)
def test_last_level_of_the_specification(n, one_05, one_001, image_001):
    for alpha, values, expected in [
        (0.05, 1, one_05),
        (0.001, 1, one_001),
        (0.001, IMAGE, image_001),
    ]:
        z = quantile_bounds.levels(n, alpha, 32, values)
        assert z.size == (0 if expected is None else 32)
        if expected is not None:
            assert z[-1] == pytest.approx(expected, abs=0.0051)
            assert z[-1] == pytest.approx(
                stats.norm.ppf((alpha / (2 * 32 * values)) ** (1 / n)), abs=1e-7
            )


@pytest.mark.parametrize(("n", "alpha", "count", "values"), CASES)
def test_levels_are_equally_spaced_from_0(n, alpha, count, values):
    z = quantile_bounds.levels(n, alpha, count, values)
    if (alpha / (2 * count * values)) ** (1 / n) < 0.5:
        assert z.size == 0
    else:
        assert z[0] == 0
        assert np.allclose(np.diff(z), z[-1] / (count - 1))


@pytest.mark.parametrize(("n", "alpha", "count", "values"), CASES)
def test_rank_is_the_smallest_that_holds(n, alpha, count, values):
    z = quantile_bounds.levels(n, alpha, count, values)
    u = quantile_bounds.level_ranks(z, n, alpha, values)
    assert u.shape == z.shape
    if not z.size:
        return
    share = alpha / (2 * count * values)
    p = stats.norm.cdf(z + quantile_bounds.SLACK)
    assert u[-1] == n
    assert (np.diff(u) >= 0).all()
    # P(X_(u) < q_p) is at most P(Bin >= u); a smaller rank would break it.
    assert (stats.binom.sf(u - 1, n, p) <= share * (1 + 1e-6)).all()
    assert (stats.binom.sf(u - 2, n, p)[:-1] > share).all()


def test_level_index_rounds_up():
    z = np.linspace(0, 1.5, 7)
    shifts = np.random.default_rng(0).uniform(0, 2, 500)
    expected = [next((i for i, level in enumerate(z) if level >= shift), 7) for shift in shifts]
    assert quantile_bounds.level_index(z, shifts).tolist() == expected
    assert quantile_bounds.level_index(z, z).tolist() == [*range(7)]
    assert quantile_bounds.level_index(z, z + 1e-6).tolist() == [*range(1, 8)]
    assert quantile_bounds.level_index(z, np.array([-np.inf, -1, np.inf])).tolist() == [0, 0, 7]
    assert quantile_bounds.level_index(np.empty(0), 0.0) == 0  # which stands for trivial


def test_level_index_forgives_rounding_no_more_than_levels_claim():
    z = quantile_bounds.levels(1000, 0.001, 32, 1)
    sigma = 0.1
    assert (quantile_bounds.level_index(z, sigma * z / sigma + 1e-16) == np.arange(32)).all()
    assert quantile_bounds.level_index(z, z[3] + quantile_bounds.SLACK) == 4


@pytest.mark.parametrize("shift", [0, 0.3, 1, 2])
@pytest.mark.parametrize(
    ("alpha", "count", "values"), [*itertools.product((0.05, 0.001), (2, 32), (1, IMAGE))]
)
def test_draws_needed_is_the_smallest(shift, alpha, count, values):
    n = quantile_bounds.draws_needed(shift, alpha, count, values)
    share = alpha / (2 * count * values)
    # Independently: the largest of n draws must be at least the Phi(shift) quantile.
    p = stats.norm.cdf(shift)
    assert p**n <= share < p ** (n - 1)
    assert quantile_bounds.levels(n, alpha, count, values)[-1] >= shift
    fewer = quantile_bounds.levels(n - 1, alpha, count, values)
    assert not fewer.size or fewer[-1] < shift


def test_draws_needed_answers_where_probabilities_are_next_to_1():
    share = np.log(0.001 / 64000)
    shifts = [6.5, 8.0, 9.5, 36.31203007518797, *np.linspace(30, 37, 200)]
    needed = [quantile_bounds.draws_needed(shift, 0.001, 32, 1000) for shift in shifts]
    assert np.allclose(
        [n * stats.norm.logcdf(shift) for n, shift in zip(needed, shifts, strict=True)],
        share,
        rtol=1e-6,
    )
    assert (
        quantile_bounds.draws_needed(400.0, 0.001, 32, 1000) == needed[-1]
    )  # no end of draws, but no error


@pytest.mark.parametrize(
    ("n", "shift"), [(5, 1.78), (11, 1.23), (21, 0.89), (51, 0.58), (101, 0.41)]
)
def test_served_shift_of_the_specification(n, shift):
    assert quantile_bounds.served_shift(n, 0.001) == pytest.approx(shift, abs=0.0051)


@pytest.mark.parametrize(
    ("n", "beta", "values"), [(1, 0.1, 1), (5, 0.001, 1), (21, 0.05, 1), (21, 0.001, 256 * 256 * 3)]
)
def test_served_median_leaves_with_probability_beta(n, beta, values):
    r = stats.norm.cdf(quantile_bounds.served_shift(n, beta, values))
    # The median exceeds the r quantile when at least k of n draws do.
    assert stats.binom.sf((n + 1) // 2 - 1, n, 1 - r) == pytest.approx(beta / values / 2, rel=1e-6)


def test_served_shift_of_a_whole_image():
    assert quantile_bounds.served_shift(21, 0.001, 256 * 256 * 3) == pytest.approx(1.60, abs=0.0051)
    assert quantile_bounds.served_shift(51, 0.001, 256 * 256 * 3) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("n", "top"), [(1, 0.5), (5, 0.06), (21, 2.3), (101, 0.3), (21, None)])
def test_served_bins_partition_the_level_of_a_median(n, top):
    z = np.empty(0) if top is None else np.linspace(0, top, 7)
    weights, up, down = quantile_bounds.served_bins(n, z)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()
    assert up[-1] == down[0] == np.inf
    assert np.allclose(up[:-1], -down[1:])  # one bin's upper edge is the next one's lower edge
    assert np.array_equal(up[:-1], np.unique([*-z, *z]))
    # P(median's level <= edge) is the probability that at least k of n draws lie below.
    below = stats.binom.sf((n + 1) // 2 - 1, n, stats.norm.cdf(up[:-1]))
    assert np.allclose(np.cumsum(weights)[:-1], below, atol=1e-12)


def instance(seed, tiles, steps):
    rng = np.random.default_rng(seed)
    radii = np.concatenate([[0.0], np.sort(rng.uniform(0.02, 1, steps))])
    jumps = rng.exponential(size=(tiles, steps + 1)) * rng.integers(0, 2, size=(tiles, steps + 1))
    return jumps.cumsum(axis=1), radii


@pytest.mark.parametrize("multiplicity", [1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_collective_error_is_never_below_an_attack(seed, multiplicity):
    errors, radii = instance(seed, 4, 4)
    paid = np.concatenate([[0.0], radii[:-1]]) ** 2
    # An attacker who spends just over e_{k-1} on a tile may cause E(e_k) there, if the error is the
    # worst that the grid allows.
    best = max(
        sum(errors[j, k] for j, k in enumerate(choice))
        for choice in itertools.product(range(5), repeat=4)
        if sum(paid[k] for k in choice) <= multiplicity * radii[-1] ** 2
    )
    found = quantile_bounds.collective_error(errors, radii, multiplicity)
    assert best * (1 - 1e-12) <= found <= errors[:, -1].sum() * (1 + 1e-12)


@pytest.mark.parametrize("multiplicity", [1, 4])
@pytest.mark.parametrize(
    ("seed", "tiles", "steps"),
    [(0, 1, 1), (1, 1, 6), (2, 8, 1), (3, 8, 6), (4, 40, 12), (5, 40, 12)],
)
def test_collective_error_is_the_linear_programs_value(seed, tiles, steps, multiplicity):
    errors, radii = instance(seed, tiles, steps)
    paid = np.concatenate([[0.0], radii[:-1]]) ** 2
    # The dual's minimum is the best attack that may mix radii: max <E, p>, a distribution p for
    # each tile, its cost <= M eps^2.
    solved = linprog(
        -errors.ravel(),
        A_ub=np.tile(paid, tiles)[None],
        b_ub=[multiplicity * radii[-1] ** 2],
        A_eq=np.kron(np.eye(tiles), np.ones(steps + 1)),
        b_eq=np.ones(tiles),
    )
    assert quantile_bounds.collective_error(errors, radii, multiplicity) == pytest.approx(
        -solved.fun, rel=1e-7
    )


def test_collective_error_has_the_minimum_over_prices():
    errors, radii = instance(6, 30, 8)
    paid = np.concatenate([[0.0], radii[:-1]]) ** 2
    prices = np.linspace(0, errors.max() / radii[1] ** 2, 20_001)
    grid = [
        price * 2 * radii[-1] ** 2 + (errors - price * paid).max(axis=1).sum() for price in prices
    ]
    found = quantile_bounds.collective_error(errors, radii, 2)
    assert found <= min(grid) * (1 + 1e-9)
    assert found == pytest.approx(min(grid), rel=1e-3)


def test_collective_error_shares_one_budget():
    # 100 tiles, each of which breaks at cost 1: a budget of 10 breaks 10 of them, the box all.
    errors, radii = np.tile([0.0, 0.0, 1.0], (100, 1)), np.array([0.0, 1.0, np.sqrt(10)])
    assert quantile_bounds.collective_error(errors, radii, 1) == pytest.approx(10)
    assert quantile_bounds.collective_error(errors, radii, 4) == pytest.approx(40)
    assert quantile_bounds.collective_error(errors, radii, 1000) == pytest.approx(100)


def test_collective_error_without_attack_or_error():
    errors, radii = instance(7, 3, 2)
    assert quantile_bounds.collective_error(errors[:, :1], np.zeros(1), 4) == pytest.approx(
        errors[:, 0].sum()
    )
    assert quantile_bounds.collective_error(np.zeros((3, 3)), radii, 4) == 0


def test_ranks_hold_at_levels_that_lookups_forgive():
    """Lookups round a shift down to a level that is less by half of SLACK: ranks allow for it."""
    n, rank, values, alpha = 1000, 700, 1, 0.03
    share = alpha / (2 * 2 * values)
    # At this level rank 700 just holds; half of SLACK above it no longer does.
    z = np.array([stats.norm.ppf(betaincinv(rank, n - rank + 1, share)) - 1e-13, 2.0])
    shift = z[0] + quantile_bounds.SLACK / 2 - 1e-12
    assert quantile_bounds.level_index(z, shift) == 0
    found = quantile_bounds.level_ranks(z, n, alpha, values)[0]
    assert stats.binom.sf(found - 1, n, stats.norm.cdf(shift)) <= share
    assert found == rank + 1
