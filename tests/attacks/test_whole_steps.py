"""Changes as files of 8 bits hold them."""

import pytest
import torch

from smoothsr.attacks.whole_steps import whole_steps


def change(size: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size / 255 * torch.randn(1, 3, 9, 7, generator=generator)


@pytest.mark.parametrize("size", [0.01, 0.3, 1, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_l2_budget_is_kept_and_used(size, layout):
    given = change(size).contiguous(memory_format=layout)
    eps = given.double().norm().item()
    found = 255 * whole_steps(given, eps, "l2")
    assert torch.equal(found, found.round())
    assert (found * given >= 0).all()  # in the same direction, or none
    left = (255 * eps) ** 2 - found.square().sum().item()
    assert left >= -1e-3
    short = (255 * given.double()).abs() > found.abs()  # values that more might be spent on
    assert left < (2 * found.abs() + 1)[short].amin().item() + 1e-3


@pytest.mark.parametrize("eps", [0.5, 1, 1.5, 4])
def test_an_linf_budget_is_kept_and_used(eps):
    given = change(3).clamp(-eps / 255, eps / 255)
    found = 255 * whole_steps(given, eps / 255, "linf")
    assert torch.equal(found, (255 * given.double()).round().clamp(-int(eps), int(eps)))


@pytest.mark.parametrize("eps", [0.00392, 0.9995 / 255])
def test_a_budget_that_is_nearly_a_step_allows_none(eps):
    for norm in ("l2", "linf"):
        assert not whole_steps(torch.full((1, 1, 1, 1), eps), eps, norm).any()


def test_a_small_norm_goes_where_the_change_is_largest():
    """189 values changed by .3 of a step: as many whole ones as the squared norm fit into it."""
    given = change(0.3).clamp(-0.9 / 255, 0.9 / 255)
    eps = given.double().norm().item()
    found = 255 * whole_steps(given, eps, "l2")
    count = int((255 * eps) ** 2)
    assert int(found.abs().sum()) == count
    largest = given.abs().flatten().argsort(descending=True)[:count]
    assert {*found.flatten().nonzero().flatten().tolist()} == {*largest.tolist()}


def test_a_uniform_change_stays_spread():
    given = torch.full((1, 3, 32, 32), 0.3 / 255)
    found = 255 * whole_steps(given, given.double().norm().item(), "l2")
    assert found.sum() == int(0.09 * 3072)
    assert (found.sum((0, 2, 3)) > 60).all()  # of each channel
    assert (found.view(3, 2, 16, 2, 16).sum((0, 2, 4)) > 40).all()  # and each quarter
    assert torch.equal(found, 255 * whole_steps(given, given.double().norm().item(), "l2"))


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_steps_that_are_whole_stay(steps):
    given = (torch.tensor(0.3) + steps / 255) - torch.tensor(0.3)  # off by float32's rounding
    for norm in ("l2", "linf"):
        found = whole_steps(given.view(1), steps / 255, norm)
        assert found.item() == pytest.approx(steps / 255)


def test_nothing_becomes_nothing():
    assert not whole_steps(torch.zeros(1, 3, 2, 2), 1.0, "l2").any()
