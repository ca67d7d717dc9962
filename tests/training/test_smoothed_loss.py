"""SmoothedLoss: its statistics against direct sums, its bias against known truth, its gradients
against finite differences.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from training_networks import Smooth, batch, slopes_are_right

from smoothsr.training import ConsistencyPenalty, SmoothedLoss, StepSeed
from smoothsr.training.objective import gaussian
from smoothsr.training.smoothed import squared_error_of_expectation


def outputs_of(network, lr, sigma, draws, at):
    """Draw by draw, as a reader of the docstring would."""
    noise = gaussian(lr, draws, at)
    return torch.stack([network(lr + sigma * each) for each in noise])


def test_the_unbiased_error_is_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 2, 1, 3, 3, generator=generator, dtype=torch.float64)
    hr = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    pairs = [
        ((outputs[i] - hr) * (outputs[j] - hr)).mean().item()
        for i, j in itertools.permutations(range(4), 2)
    ]
    assert squared_error_of_expectation(outputs, hr).item() == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("agg", "expected"), [("expectation", 0.04), ("mean", 0.05), ("single", 0.08)]
)
def test_what_is_unbiased_and_what_is_not(agg, expected):
    # The identity, .2 away from the truth: its expectation has that error alone, the mean of four
    # draws a quarter of the noise's variance besides, and a single draw all of it.
    loss = SmoothedLoss(nn.MSELoss(), [0.2], draws=4, agg=agg)
    lr = torch.full((1, 1, 16, 16), 0.5)
    found = [loss(nn.Identity(), lr, lr + 0.2, StepSeed(seed)).item() for seed in range(200)]
    # Standard errors of these means of 200 are below .0006.
    assert np.mean(found) == pytest.approx(expected, abs=0.0025)


@pytest.mark.parametrize("agg", ["mean", "median", "single"])
@pytest.mark.parametrize("draws", [1, 2, 3, 4])
def test_each_statistic_is_what_it_says(agg, draws):
    network, (lr, hr) = Smooth(torch.float64), batch(side=4, dtype=torch.float64)
    loss = SmoothedLoss(nn.L1Loss(), [0.1], draws, agg)
    outputs = outputs_of(network, lr, 0.1, draws, StepSeed(3))
    if agg == "single":
        expected = (outputs - hr).abs().mean()
    else:
        ordered = outputs.sort(0).values
        middle = ordered[(draws - 1) // 2]
        statistic = outputs.mean(0) if agg == "mean" or draws == 2 else middle
        expected = (statistic - hr).abs().mean()
    assert loss(network, lr, hr, StepSeed(3)).item() == pytest.approx(expected.item())


def test_mrs_averages_the_losses_at_its_sigmas():
    network, (lr, hr) = Smooth(torch.float64), batch(side=4, dtype=torch.float64)
    loss = SmoothedLoss(nn.L1Loss(), (0.03, 0.2), draws=2)
    noise = gaussian(lr, 4, StepSeed(0))
    parts = []
    for sigma, two in zip((0.03, 0.2), noise.split(2), strict=True):
        mean = (network(lr + sigma * two[0]) + network(lr + sigma * two[1])) / 2
        parts.append((mean - hr).abs().mean().item())
    assert loss(network, lr, hr, StepSeed(0)).item() == pytest.approx(np.mean(parts))


def test_the_penalty_is_added():
    network, (lr, hr) = Smooth(torch.float64), batch(side=4, dtype=torch.float64)
    plain = SmoothedLoss(nn.MSELoss(), [0.1], agg="expectation")
    priced = SmoothedLoss(
        nn.MSELoss(), [0.1], agg="expectation", penalty=ConsistencyPenalty(2.0, "trace")
    )
    outputs = outputs_of(network, lr, 0.1, 4, StepSeed(0))
    difference = priced(network, lr, hr, StepSeed(0)) - plain(network, lr, hr, StepSeed(0))
    assert difference.item() == pytest.approx(2 * outputs.var(0).mean().item())


@pytest.mark.parametrize("agg", ["mean", "median", "single", "expectation"])
@pytest.mark.parametrize("penalty", [None, "trace", "top"])
def test_gradients_against_finite_differences(agg, penalty):
    network, (lr, hr) = Smooth(torch.float64), batch(side=4, dtype=torch.float64)
    price = ConsistencyPenalty(0.5, penalty, tile=4) if penalty else None
    loss = SmoothedLoss(nn.MSELoss(), (0.05, 0.2), draws=3, agg=agg, penalty=price)
    assert slopes_are_right(loss, network, lr, hr, StepSeed(1))


def test_the_network_runs_once():
    calls = []
    network = nn.Identity()
    network.register_forward_hook(lambda *_: calls.append(1))
    lr = torch.rand(2, 1, 4, 4)
    SmoothedLoss(nn.L1Loss(), (0.03, 0.2), draws=2)(network, lr, lr)
    assert len(calls) == 1  # as DistributedDataParallel wants


def test_training_undoes_what_smoothing_blurs():
    # f(x) = a x^2 under noise of variance .01: the expectation is a (x^2 + .01), so the best a
    # for y = x^2 + .01 is 1; the loss of single draws puts it below.
    def best(agg):
        a = torch.tensor(1.5, requires_grad=True)
        loss = SmoothedLoss(nn.MSELoss(), [0.1], draws=4, agg=agg)
        x = torch.linspace(0.1, 0.4, 32).view(1, 1, 4, 8)
        optimizer = torch.optim.Adam([a], 0.02)
        for step in range(400):
            optimizer.zero_grad()
            loss(lambda noisy: a * noisy**2, x, x**2 + 0.01, StepSeed(step)).backward()
            optimizer.step()
        return a.item()

    assert best("expectation") == pytest.approx(1, abs=0.06)
    assert best("single") < 0.9


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="sigmas must be finite numbers greater than 0"):
        SmoothedLoss(nn.L1Loss(), [0.1, 0.0])
    with pytest.raises(ValueError, match="sigmas must be finite numbers greater than 0"):
        SmoothedLoss(nn.L1Loss(), [])
    with pytest.raises(ValueError, match="agg must be one of mean, median, single, expectation"):
        SmoothedLoss(nn.L1Loss(), [0.1], agg="max")
    with pytest.raises(ValueError, match="unbiased loss for squared errors alone"):
        SmoothedLoss(nn.L1Loss(), [0.1], agg="expectation")
    with pytest.raises(ValueError, match="draws must be at least 2 here, got 1"):
        SmoothedLoss(nn.MSELoss(), [0.1], draws=1, agg="expectation")
    with pytest.raises(ValueError, match="draws must be at least 2 here, got 1"):
        SmoothedLoss(nn.L1Loss(), [0.1], draws=1, penalty=ConsistencyPenalty(1))
