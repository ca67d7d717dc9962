"""Mutations of the mathematics, each of which the known truth must expose."""

import numpy as np
import pytest
from oracle_checks import (
    TILED,
    chosen_values_hold,
    early_looks_hold,
    excess_is_that_of_order_statistics,
    flips_are_feared,
    from_generator,
    ideal_bounds_hold,
    no_seed_helps,
    psnr_is_never_above_the_truth,
    ranks_are_exact,
    served_bounds_hold,
    steady,  # noqa: F401, a fixture for each test here
)

from smoothsr import certifying
from smoothsr.certificates import looks, quantile_bounds, squared_error
from smoothsr.certificates.levels import Levels
from smoothsr.engine import draws, noise


def one_lower(z, n, alpha, values, original=quantile_bounds.level_ranks):
    return np.maximum(original(z, n, alpha, values) - 1, 1)


def one_higher(z, n, alpha, values, original=quantile_bounds.level_ranks):
    return np.minimum(original(z, n, alpha, values) + 1, n)


def one_value(alpha, count, _):
    return np.log(alpha / (2 * count))


def one_side(alpha, count, values):
    return np.log(alpha / (count * values))


def lower_at_rest(self, shift, original=Levels.interval):
    return original(self, 0.0)[0], original(self, shift)[1]


def error_above(above, below, *rest, original=squared_error._expected_errors):
    return original(above, np.zeros_like(below), *rest)


def error_below(above, below, *rest, original=squared_error._expected_errors):
    return original(np.zeros_like(above), below, *rest)


def one_patch(*_):
    return 1


def no_shift(*_):
    return 0.0


def shift_of_one_value(n, beta, *_, original=quantile_bounds.served_shift):
    return original(n, beta)


def always_the_median(*_):
    return np.ones(1), np.zeros(1), np.zeros(1)


def same_again(*_):
    return from_generator(np.random.default_rng(1))


def by_known_seed(sampler, *arguments, original=draws.observe):
    sampler.source = noise.source(7, sampler.lr.device, sampler.lr.dtype)
    original(sampler, *arguments)


def all_of_alpha(request, *rest, original=looks.plan):
    return [each._replace(alpha=request.alpha) for each in original(request, *rest)]


def noise_on_copies(sampler, index, some):
    rows, columns = sampler.tiles[index]
    patch = sampler.lr[..., rows.first : rows.last, columns.first : columns.last][
        ..., list(rows.gather), :
    ][..., list(columns.gather)]
    return patch + sampler.how.sigma * sampler.source(index, some, (*patch.shape[1:],))


@pytest.mark.parametrize(
    ("where", "name", "mutant", "check"),
    [
        (quantile_bounds, "level_ranks", one_lower, ranks_are_exact),
        (quantile_bounds, "level_ranks", one_higher, ranks_are_exact),
        (quantile_bounds, "_log_share", one_side, ranks_are_exact),
        (quantile_bounds, "_log_share", one_value, lambda: ideal_bounds_hold("Same", 100)),
        (Levels, "interval", lower_at_rest, lambda: ideal_bounds_hold("LinearSR", 50)),
        (squared_error, "_expected_errors", error_above, flips_are_feared),
        (squared_error, "_expected_errors", error_below, flips_are_feared),
        (squared_error, "multiplicity", one_patch, flips_are_feared),
        (
            draws.Sampler,
            "_noisy_of",
            noise_on_copies,
            lambda: excess_is_that_of_order_statistics(TILED),
        ),
        (
            quantile_bounds,
            "served_shift",
            no_shift,
            lambda: served_bounds_hold("LinearSR", "value"),
        ),
        (quantile_bounds, "served_shift", no_shift, lambda: served_bounds_hold("Same", "value")),
        (
            quantile_bounds,
            "served_shift",
            shift_of_one_value,
            lambda: served_bounds_hold("Same", "image"),
        ),
        (
            quantile_bounds,
            "served_bins",
            always_the_median,
            lambda: psnr_is_never_above_the_truth("Same", "served", 100, 1000),
        ),
        (noise, "_fresh", same_again, chosen_values_hold),
        (draws, "observe", by_known_seed, no_seed_helps),
        (certifying, "plan", all_of_alpha, early_looks_hold),
    ],
)
def test_the_oracles_catch(where, name, mutant, check, monkeypatch):
    monkeypatch.setattr(where, name, mutant)
    assert not check()
