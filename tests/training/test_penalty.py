"""GradientPenalty: its value, its second derivatives, and that it trains everywhere."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from training_networks import (
    Smooth,
    batch,
    gradients,
    in_two_processes,
    normalized,
    slopes_are_right,
)

from smoothsr.training import GradientPenalty
from smoothsr.training.penalty import gradient_norm


@pytest.mark.parametrize("weight", [0.001, 1.0])
def test_the_value_is_the_loss_and_the_mean_norm_of_single_images_slopes(weight):
    model, (lr, hr) = Smooth(torch.float64), batch(3, dtype=torch.float64)
    norms = []
    for each, truth in zip(lr.split(1), hr.split(1), strict=True):
        x = each.clone().requires_grad_()
        (slope,) = torch.autograd.grad((model(x) - truth).square().mean(), x)
        norms.append(slope.norm().item())
    expected = (model(lr) - hr).square().mean() + weight * sum(norms) / 3
    torch.testing.assert_close(GradientPenalty(nn.MSELoss(), weight)(model, lr, hr), expected)


@pytest.mark.parametrize("base", [nn.MSELoss(), nn.SmoothL1Loss(beta=0.1)])
def test_gradients_are_those_of_finite_differences(base):
    lr, hr = batch(side=4, dtype=torch.float64)
    model, objective = Smooth(torch.float64), GradientPenalty(base, 1.0)
    assert slopes_are_right(objective, model, lr, hr, None)

    def penalty(*weights):
        return objective(model, weights[0], hr)

    assert torch.autograd.gradcheck(penalty, [lr.requires_grad_()], eps=1e-6, atol=1e-6)


def test_the_penalty_alone_has_gradients_of_its_own():
    """Of the penalty by itself, where a base loss a thousand times as large can't hide it."""
    lr, hr = batch(side=4, dtype=torch.float64)

    def penalty(model, lr, hr, _at):
        lr = lr.clone().requires_grad_()
        return gradient_norm((model(lr) - hr).square().mean(), lr)

    model = Smooth(torch.float64)
    assert slopes_are_right(penalty, model, lr, hr, None)
    penalty(model, lr, hr, None).backward()
    assert model.first.weight.grad.abs().max() > 1e-3


def test_training_on_it_flattens_the_loss():
    """The same steps with and without: the slope falls further with it."""

    def slope_after(weight: float) -> float:
        model, (lr, hr) = Smooth(seed=1), batch(4)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            GradientPenalty(nn.MSELoss(), weight)(model, lr, hr).backward()
            optimizer.step()
        lr.requires_grad_()
        return gradient_norm((model(lr) - hr).square().mean(), lr).item()

    assert slope_after(1.0) < 0.8 * slope_after(0.0)


def test_a_flat_loss_has_no_gradient_and_no_nan():
    model, (lr, hr) = Smooth(), batch()
    with torch.no_grad():
        model.first.weight.zero_()
    GradientPenalty(nn.MSELoss(), 1.0)(model, lr, hr).backward()
    assert all(each.isfinite().all() for each in gradients(model))


def test_batchnorm_trains_and_the_input_is_left_alone():
    model, (lr, hr) = normalized().train(), batch()
    GradientPenalty(nn.L1Loss(), 1.0)(model, lr, hr).backward()
    assert all(each.isfinite().all() for each in gradients(model))
    assert not lr.requires_grad
    assert lr.grad is None


def test_it_can_be_looked_at_without_gradients():
    model, (lr, hr) = Smooth(), batch()
    objective = GradientPenalty(nn.MSELoss())
    with torch.no_grad():
        value = objective(model, lr, hr)
    torch.testing.assert_close(value, objective(model, lr, hr))


def stepped(model, lr, hr):
    value = GradientPenalty(nn.MSELoss(), 1.0)(model, lr, hr)
    value.backward()
    return value.detach()


def as_member(rank: int, options: dict) -> torch.Tensor:
    model, (lr, hr) = Smooth(), batch(4)
    half = slice(2 * rank, 2 * rank + 2)
    stepped(DistributedDataParallel(model, **options), lr[half], hr[half])
    return torch.cat([each.flatten() for each in gradients(model)])


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}])
def test_two_processes_train_as_one(options):
    model = Smooth()
    stepped(model, *batch(4))
    whole = torch.cat([each.flatten() for each in gradients(model)])
    for member in in_two_processes(as_member, options):
        torch.testing.assert_close(member, whole, rtol=1e-5, atol=1e-7)


def refused(_rank: int) -> torch.Tensor:
    model = DistributedDataParallel(Smooth(), static_graph=True)
    with pytest.raises(ValueError, match="static_graph=True does not share: leave that option out"):
        stepped(model, *batch())
    return torch.ones(())


def test_a_static_graph_would_not_be_shared_and_is_refused():
    assert len(in_two_processes(refused)) == 2


def test_data_parallel_and_autocast_change_nothing():
    model, wrapped, half = Smooth(), Smooth(), Smooth()
    value = stepped(model, *batch())
    assert torch.equal(stepped(DataParallel(wrapped), *batch()), value)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stepped(half, *batch()), value)
    torch.testing.assert_close(gradients(wrapped), gradients(model))
    torch.testing.assert_close(gradients(half), gradients(model))


def test_compiled_networks_are_refused_in_one_line():
    model, part, whole = Smooth(), Smooth(), Smooth()
    part.first.compile(backend="eager")
    whole.compile(backend="eager")
    for compiled in (torch.compile(model, backend="eager"), part, DataParallel(whole)):
        with pytest.raises(ValueError, match=r"second derivatives, which torch\.compile has not"):
            GradientPenalty(nn.MSELoss())(compiled, *batch())


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        GradientPenalty(nn.MSELoss(), weight)
