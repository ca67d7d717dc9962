"""The certificate's statements against known truth."""

import pytest
import torch
from oracle_checks import (
    ALPHA,
    CASES,
    TILED,
    Trap,
    chosen_values_hold,
    early_looks_hold,
    excess_is_that_of_order_statistics,
    flips_are_feared,
    ideal_bounds_hold,
    linf_psnr_is_never_above_the_truth,
    mean_bounds_hold,
    no_seed_helps,
    psnr_is_never_above_the_truth,
    ranks_are_exact,
    served_bounds_hold,
    steady,  # noqa: F401, a fixture for each test here
)
from oracles import Step, gentle, truth

from smoothsr import SmoothedSR


@pytest.mark.parametrize("case", CASES)
def test_ideal_bounds(case):
    assert ideal_bounds_hold(case)


@pytest.mark.parametrize("lucky", [False, True])
def test_rules_that_stop_at_a_look(lucky):
    assert early_looks_hold(lucky)


def test_miss_rates_are_those_of_the_binomial_distribution():
    assert ranks_are_exact()


@pytest.mark.parametrize("per", ["value", "image"])
@pytest.mark.parametrize("case", CASES)
def test_served_bounds(case, per):
    assert served_bounds_hold(case, per)


def test_a_uniform_change_leaves_no_certified_psnr():
    assert flips_are_feared()


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["ideal", "served"])
@pytest.mark.parametrize("case", CASES)
def test_certified_psnr(case, predictor):
    assert psnr_is_never_above_the_truth(case, predictor)


@pytest.mark.slow
def test_certified_linf_psnr():
    assert linf_psnr_is_never_above_the_truth()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["LinearSR", "LinearSR tiled", "Step"])
def test_mean_bounds(case):
    assert mean_bounds_hold(case)


def test_attackers_who_look_at_served_outputs():
    assert chosen_values_hold()


def test_networks_that_know_the_seed():
    assert no_seed_helps()


def test_a_known_seed_voids_the_certificate():
    lr = gentle(0)
    smoothed = SmoothedSR(Trap(lr, 0.1, 301, seed=7), 0.1)
    result = smoothed.certify(lr, n=301, alpha=ALPHA, void_guarantee_seed=7)
    assert result.bounds(0.0, "ideal")[1].max() == 0  # the output is 1, but for the 301 draws
    assert result.void
    assert "VOID" in repr(result)


def test_an_attack_on_one_patch_leaves_the_other_tiles():
    lr = gentle(0, side=8)
    attacked = lr.clone()
    attacked[..., 2, 5] += (
        3.0  # in rows 1 to 4 and columns 3 to 6: patches of tiles (0, 2), (1, 2), (0, 3) and (1, 3)
    )
    before, after = (SmoothedSR(Step(), 0.1, seed=1, **TILED)(x) for x in (lr, attacked))
    changed = (before != after).view(4, 4, 4, 4).any(dim=3).any(dim=1)
    reached = torch.zeros(4, 4, dtype=torch.bool)
    reached[0:2, 2:4] = True
    assert not changed[~reached].any()
    assert (after.view(4, 4, 4, 4).amin(dim=(1, 3))[reached] == 1).all()
    exact = truth(Step(), lr.shape, **TILED)
    assert (
        (exact.output(lr) == exact.output(attacked))
        .view(4, 4, 4, 4)
        .all(dim=3)
        .all(dim=1)[~reached]
        .all()
    )


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_excess_over_the_exact_worst_case(options):
    assert excess_is_that_of_order_statistics(options)
