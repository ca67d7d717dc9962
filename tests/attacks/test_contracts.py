"""What every attack promises: the exact budget, right gradients, independent images, no side
effects, clear errors.
"""

import re

import numpy as np
import pytest
import torch
from attack_networks import SIDE, Curved, LinearSR, blind_to_shifts, images, one_value, size
from torch.nn import functional as F

from smoothsr.attacks import bim, cw, fgsm, l2_budget, objective, pgd, strongest

ALL = [fgsm, bim, pgd, cw]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_the_budget_holds_exactly_after_rounding_to_the_dtype(attack, norm, dtype):
    lr = images(batch=3, channels=2, low=-0.1, high=1.1, dtype=dtype)
    eps = l2_budget(8 / 255, lr) if norm == "l2" else 8 / 255
    attacked = attack(Curved(), lr, eps=eps, norm=norm)
    assert attacked.shape == lr.shape
    assert attacked.dtype == dtype
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert (size(attacked, lr, norm) <= eps).all()
    assert (
        size(attacked, lr, norm) > (0.5 if dtype in (torch.float16, torch.bfloat16) else 0.9) * eps
    ).all()


@pytest.mark.parametrize("eps", [1e-4, 1 / 255, 0.3, 0.9, 30.0])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_budget_holds_from_tiny_to_larger_than_the_range(norm, eps):
    lr = images(low=-0.2, high=1.2)
    for attack in ALL:
        attacked = attack(LinearSR(), lr, eps=eps, norm=norm)
        assert (size(attacked, lr, norm) <= eps).all()
        assert ((attacked >= 0) & (attacked <= 1)).all()


@pytest.mark.parametrize("loss", ["l1", "l2", one_value])
@pytest.mark.parametrize("goal", ["reference", "target"])
def test_the_slope_is_that_of_finite_differences(loss, goal):
    lr = images(channels=2, dtype=torch.float64)
    model, goals = Curved().double(), {"reference": None, "target": None}
    goals[goal] = torch.rand(
        2, 2, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    gain = objective.gain_of(model, lr, goals["reference"], goals["target"], loss, 1)
    delta = 0.01 * images(channels=2, dtype=torch.float64)
    value, slope = objective.slope(gain, delta, 1)
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        direction = torch.randn(lr.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = (gain(delta + 1e-6 * direction) - gain(delta - 1e-6 * direction)) / 2e-6
            assert torch.equal(value, gain(delta))
        expected = (slope * direction).sum(dim=(1, 2, 3), keepdim=True)
        torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-7)


def test_draws_average_the_loss_and_its_slope():
    calls = iter(range(100))
    model = lambda x: x * next(calls)
    lr = images(batch=1)
    gain = objective.gain_of(
        model, lr, torch.zeros_like(lr), None, lambda output, _: output.sum(dim=(1, 2, 3)), 4
    )
    value, slope = objective.slope(gain, torch.zeros_like(lr), 4)
    torch.testing.assert_close(value.item(), 1.5 * lr.sum().item())
    torch.testing.assert_close(slope, torch.full_like(lr, 1.5))
    assert next(calls) == 4


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_an_image_is_attacked_as_if_it_were_alone(attack, norm):
    model, lr = Curved().double(), images(batch=3, channels=2, dtype=torch.float64)
    eps = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    together = attack(model, lr, eps=eps, norm=norm)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], attack(model, lr[i : i + 1], eps=eps[i].item(), norm=norm)
        )


@pytest.mark.parametrize("attack", [*ALL, strongest])
def test_nothing_is_left_behind(attack):
    model, lr = Curved().train(), images(channels=2).requires_grad_()
    before, state = lr.detach().clone(), torch.random.get_rng_state()
    with torch.no_grad():
        attacked = attack(model, lr, eps=0.05)
    assert not torch.equal(attacked, lr)
    assert not attacked.requires_grad
    assert torch.equal(lr, before)
    assert lr.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_seed_fixes_the_start():
    model, lr = blind_to_shifts, images(channels=2)
    assert torch.equal(pgd(model, lr, eps=0.05, seed=1), pgd(model, lr, eps=0.05, seed=1))
    assert not torch.equal(pgd(model, lr, eps=0.05, seed=1), pgd(model, lr, eps=0.05, seed=2))


@pytest.mark.parametrize("attack", ALL)
def test_the_clean_output_as_explicit_reference_is_no_dead_point(attack):
    # The loss is 0 and flat at lr, for the first image only.
    model, lr = Curved(), images(channels=2)
    reference = model(lr).detach()
    reference[1] += 0.5
    attacked = attack(model, lr, reference, eps=0.05)
    assert (size(attacked, lr, "linf") > 0.049).all()
    assert ((model(attacked) - model(lr)).flatten(1).norm(dim=1) > 1).all()


def test_fgsm_is_one_full_step_along_the_gradient():
    model, lr = Curved(), images(channels=2)
    reference = torch.zeros(2, 2, 2 * SIDE, 2 * SIDE)
    x = lr.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(fgsm(model, lr, reference, eps=0.01), lr + 0.01 * slope.sign())
    unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(fgsm(model, lr, reference, eps=0.01, norm="l2"), lr + 0.01 * unit)


def test_the_relative_budget():
    assert l2_budget(0.01, torch.zeros(4, 3, 20, 15)) == pytest.approx(0.3)


BAD = {
    "lr must be": {"lr": torch.full((1, 1, SIDE, SIDE), 127.0)},
    "lr must be (B,C,h,w)": {"lr": torch.zeros(1, SIDE, SIDE)},
    "lr must be (B,C,h,w), floating-point": {
        "lr": torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    },
    "in [0, 1]": {"lr": torch.full((1, 1, SIDE, SIDE), float("nan"))},
    "eps must be greater than 0 and finite": {"eps": 0},
    "eps must be greater than 0": {"eps": -0.1},
    "finite": {"eps": float("inf")},
    "one for each of 2 images": {"eps": torch.tensor([0.1, 0.2, 0.3])},
    "eps must be greater than what rounding": {"eps": 1e-9},
    'norm must be "l2" or "linf"': {"norm": "l3"},
    'loss must be "l1", "l2" or a function': {"loss": "lpips"},
    "loss must return one value for each of 2": {
        "loss": lambda output, reference: (output - reference).norm()
    },
    "not both": {"reference": torch.zeros(2, 1, 20, 20), "target": torch.zeros(2, 1, 20, 20)},
    "must have the output's shape (2, 1, 20, 20), got (2, 1, 10, 10)": {
        "reference": torch.zeros(2, 1, 10, 10)
    },
    "draws and evaluations must be at least 1": {"draws": 0},
    "steps must be at least 1, got 0": {"steps": 0},
    "restarts must be at least 1, got 0": {"restarts": 0},
    "step_size must be greater than 0": {"step_size": 0.0},
    "each of starts must be finite, of shape (2, 1, 10, 10) or (1, 1, 10, 10), got (1, 1, 9, 9)": {
        "starts": [torch.zeros(1, 1, 9, 9)]
    },
    "each of starts must be finite": {"starts": [torch.full((2, 1, SIDE, SIDE), torch.inf)]},
    "carries no gradient": {"model": lambda x: F.interpolate(x.detach(), scale_factor=2.0)},
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_named(message):
    arguments = {"model": LinearSR(), "lr": images(), "eps": 0.1} | BAD[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        pgd(arguments.pop("model"), arguments.pop("lr"), **arguments)


def test_a_model_that_detaches_its_input_is_named_although_its_weights_have_gradients():
    model = LinearSR()
    with pytest.raises(ValueError, match="carries no gradient"):
        bim(lambda x: model(x.detach()), images(), eps=0.1)


def test_the_default_steps_and_momentum_find_more_than_others_would():
    """In ten steps; without momentum they reach 125.1, from 8*eps on quadratically 124.8, and
    constant ones less than either.
    """
    model, lr = Curved(), images(batch=8, channels=2, low=0.1, high=0.9)
    reference = torch.full((8, 2, 2 * SIDE, 2 * SIDE), 0.2)

    def reached(**options):
        with torch.no_grad():
            return (
                (model(pgd(model, lr, reference, eps=0.1, steps=10, **options)) - reference)
                .flatten(1)
                .norm(dim=1)
                .mean()
                .item()
            )

    assert reached() > 126
    assert max(reached(step_size=0.1 * share) for share in (0.1, 0.25, 0.5, 1.0)) < 125.5


def test_what_a_random_model_loses_is_judged_by_more_draws_than_a_step_has():
    calls, lr = [], images(channels=2)

    def model(x):
        calls.append(len(x))
        return Curved()(x)

    black = torch.zeros(2, 2, 2 * SIDE, 2 * SIDE)
    bim(model, lr, black, eps=0.1, steps=3, draws=2)
    # Whether the loss is flat at lr, the steps, then the best and the last iterate.
    assert len(calls) == 1 + 3 * 2 + 2 * 4 * 2
    calls.clear()
    pgd(model, lr, black, eps=0.1, steps=3, draws=2, restarts=2, starts=[torch.zeros_like(lr)])
    # Two shifts against each other, 2 + 1 + 1 ascents, then that shift and what these found.
    assert len(calls) == 2 * 4 * 2 + 4 * 3 * 2 + (1 + 4 * 2) * 4 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_images_keep_to_an_l2_budget(dtype):
    """A sum of three million squares in float32 is off by more than the rounding that the budget
    allows for.
    """
    lr = torch.full((1, 3, 1024, 1024), 0.5, dtype=dtype)
    attacked = fgsm(lambda x: x, lr, torch.zeros_like(lr), eps=1.0, norm="l2")
    assert 0.999 < np.linalg.norm((attacked - lr).double().numpy()) <= 1.0
