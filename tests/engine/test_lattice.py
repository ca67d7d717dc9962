"""Noise on the lattice: exact sums, and a network that reads what plain sums leak."""

import pytest
import torch

from smoothsr.engine import lattice
from smoothsr.engine.lattice import UNIT

SIGMA = 0.05


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
