"""Noise on the lattice: exact sums, and a network that reads what plain sums leak."""

import math

import pytest
import torch
from oracles import LinearSR, allowed, gentle, truth
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.engine import lattice
from smoothsr.engine.lattice import UNIT

SIGMA, TRIALS = 0.05, 300


def noise(seed=0, shape=(64, 3, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("step", [0, 1, 127, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_change_by_whole_steps_shifts_the_noisy_values_by_exactly_so_much(step, dtype):
    first = lattice.noisy(torch.zeros(3, 4, 4, dtype=dtype), noise(), SIGMA)
    second = lattice.noisy(torch.full((3, 4, 4), step / 255, dtype=dtype), noise(), SIGMA)
    in_units = (first.double() * UNIT).round(), (second.double() * UNIT).round()
    assert torch.equal(in_units[1] - in_units[0], torch.full_like(first, 256 * step).double())
    # Each value is the one that its number of fine steps stands for, to the last bit.
    assert torch.equal((in_units[1] / UNIT).to(dtype), second)


def test_noise_is_rounded_to_the_nearest_fine_step():
    found = lattice.noisy(torch.zeros(3, 4, 4), noise(), SIGMA).double()
    assert (found - SIGMA * noise()).abs().max() <= 0.5 / UNIT + 1e-7
    assert (found * UNIT).round().unique().numel() > 1000


def test_gradients_pass_as_if_nothing_were_rounded():
    patch = torch.full((1, 1, 2, 2), 0.3, requires_grad=True)
    total = lattice.noisy(patch, noise(shape=(5, 1, 2, 2)), SIGMA).sum()
    (gradient,) = torch.autograd.grad(total + 7 * lattice.snapped(patch).sum(), patch)
    assert torch.equal(gradient, torch.full_like(patch, 12.0))


def test_snapped_rounds_to_what_a_file_holds():
    values = torch.tensor([-0.001, 0.0019, 0.002, 1.0])
    assert torch.equal(lattice.snapped(values) * 255, torch.tensor([0.0, 0.0, 1.0, 255.0]))


def test_noise_of_low_precision_is_refused():
    with pytest.raises(ValueError, match="made in float64"):
        lattice.noisy(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1), SIGMA)


class Leaky(nn.Module):
    """1 where some value near 0 has bits that a sum with a step or more has lost, else 0."""

    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, x):
        lost = x * 2.0**32
        told = (x.abs() < 2.0**-9) & (lost != lost.round())
        return told.flatten(1).any(1).to(x.dtype).view(-1, 1, 1, 1).expand_as(x)


@pytest.mark.parametrize("on_lattice", [False, True])
def test_low_bits_tell_nothing_of_the_input(on_lattice):
    """Without the lattice a change by one step switches the output, against all that is proved."""
    lr = torch.zeros(1, 3, 4, 4)
    smoothed = SmoothedSR(Leaky(), SIGMA, 301, "mean", lattice=on_lattice)
    attacked = smoothed(lr + 1 / 255).mean().item()
    certificate = smoothed.certify(lr, n=400, kind="spectral")
    moved = abs(smoothed(lr).mean().item() - attacked)
    assert (moved <= certificate.deviation(1 / 255, "linf")) == on_lattice
    assert on_lattice or attacked < 0.01


@pytest.mark.parametrize("agg", ["median", "mean"])
def test_certificates_on_the_lattice_hold(agg):
    """300 of the worst change by whole steps of one patch, at alpha = .1."""
    net, radius = LinearSR(channels=1), math.sqrt(9) / 255
    exact = truth(net, (1, 1, 4, 4), 2, 1)
    worst = radius * exact.norm
    wrong = 0
    for seed in range(TRIALS):
        lr = lattice.snapped(gentle(seed))
        smoothed = SmoothedSR(net, SIGMA, 21, agg, tile=2, halo=1, lattice=True)
        found = smoothed.certify(lr, n=100, alpha=0.1, kind="levels")
        lower, upper = (bound * 255 for bound in found.bounds(radius, "ideal"))
        mean = (exact.jacobian @ lr.double().flatten()).view_as(worst) + exact.constant
        wrong += bool(((mean - worst) * 255 < lower - 0.51).any())
        wrong += bool(((mean + worst) * 255 > upper + 0.51).any())
    assert wrong <= allowed(TRIALS, 0.1)


def test_what_is_no_whole_step_is_not_certified_but_served_as_the_nearest():
    smoothed = SmoothedSR(LinearSR(channels=3), SIGMA, 3, seed=0, lattice=True)
    lr = torch.full((1, 3, 4, 4), 100.4 / 255)
    with pytest.raises(ValueError, match="of whole 8-bit steps is certified"):
        smoothed.certify(lr, n=20)
    assert torch.equal(smoothed(lr), smoothed(torch.full_like(lr, 100 / 255)))
    assert smoothed.certify(lattice.snapped(lr), n=200, kind="spectral").lattice
