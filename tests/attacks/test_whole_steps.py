"""Changes as files of 8 bits hold them."""

import pytest
import torch

from smoothsr.attacks.whole_steps import whole_steps


def change(size: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size / 255 * torch.randn(1, 3, 9, 7, generator=generator)


@pytest.mark.parametrize("size", [0.01, 0.3, 1, 5])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_they_are_whole_and_no_larger(size, norm):
    given = change(size)
    found = 255 * whole_steps(given, norm)
    assert torch.equal(found, found.round())
    assert found.norm() <= 255 * given.double().norm() + 1e-3
    assert (found * given >= 0).all()  # in the same direction, or none
    if norm == "linf":
        assert (found.abs() <= 255 * given.abs().double() + 1e-3).all()


def test_a_small_norm_goes_where_the_change_is_largest():
    """189 values changed by .3 of a step have a norm of 4.1 steps: 17 whole ones fit into it."""
    given = change(0.3)
    found = 255 * whole_steps(given, "l2")
    count = int((255 * given.double()).square().sum())
    assert int(found.abs().sum()) == count
    largest = given.abs().flatten().argsort(descending=True)[:count]
    assert {*found.flatten().nonzero().flatten().tolist()} == {*largest.tolist()}


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_steps_that_are_whole_stay(steps):
    given = (torch.tensor(0.3) + steps / 255) - torch.tensor(0.3)  # off by float32's rounding
    for norm in ("l2", "linf"):
        assert whole_steps(given.view(1), norm).item() == pytest.approx(steps / 255)


def test_nothing_becomes_nothing():
    assert not whole_steps(torch.zeros(1, 3, 2, 2), "l2").any()
