"""Bounds at several shifts at once: those of each shift, and of none but it."""

import numpy as np
import pytest
from synthetic_certificates import Z, made, trivial

UNEVEN = np.array([0, 0.1, 0.9, 1, 2])
SHIFTS = np.array([0.0, 0.95, 0.05, 0.1, 0.9, 0.15, 3.0, 0.95, np.inf, 1.05, 0.8, 2.0])


@pytest.mark.parametrize("agg", ["median", "mean"])
@pytest.mark.parametrize("z", [Z, UNEVEN], ids=["even", "uneven"])
def test_shifts_are_alike_only_where_all_bounds_are(agg, z):
    levels = made(agg=agg, z=z).levels
    some, index = levels.distinct(SHIFTS.reshape(3, 4))
    assert index.shape == (3, 4)
    for bounds in (levels.lower_bounds, levels.upper_bounds):
        whole = slice(None), slice(None)
        of_some, of_all = bounds(some, whole), bounds(SHIFTS, whole)
        np.testing.assert_array_equal(of_some[index.ravel()], of_all)
        assert len(np.unique(of_some, axis=0)) == len(some) < len(np.unique(SHIFTS))


@pytest.mark.parametrize("agg", ["median", "mean"])
def test_bounds_at_several_shifts_are_those_at_each_in_every_window(agg):
    levels = made(agg=agg, z=UNEVEN).levels
    window = slice(1, 6), slice(3, 4)
    lower, upper = levels.lower_bounds(SHIFTS, window), levels.upper_bounds(SHIFTS, window)
    for place, shift in enumerate(SHIFTS):
        for found, whole in zip((lower, upper), levels.interval(shift), strict=True):
            np.testing.assert_allclose(found[place], whole[(..., *window)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("agg", ["median", "mean"])
def test_no_levels_bound_nothing(agg):
    levels = made(agg=agg, z=trivial().z, upper=trivial().upper, lower=trivial().lower).levels
    some, index = levels.distinct(SHIFTS)
    assert len(some) == 1
    assert not index.any()
    lower, upper = levels.interval(0.0)
    assert not lower.any()
    assert (upper == 255).all()
