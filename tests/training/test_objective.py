"""Noise of a training step: normal, independent, and that of an image whoever draws it."""

import numpy as np
import pytest
import torch
from torch import nn

from smoothsr.training.objective import StepSeed, gaussian, inner


def test_noise_is_standard_normal_and_independent():
    noise = gaussian(torch.zeros(4, 3, 50, 50), 3, StepSeed(0))
    assert noise.shape == (3, 4, 3, 50, 50)
    # 90000 values: standard errors .003 and .002; those of correlations of 7500 values are .012.
    assert abs(noise.mean()) < 0.015
    assert noise.std() == pytest.approx(1, abs=0.01)
    correlations = np.corrcoef(noise.flatten(2).flatten(0, 1).numpy())
    assert np.abs(correlations - np.eye(12)).max() < 0.06


def test_an_image_has_its_noise_in_whichever_process():
    whole = gaussian(torch.zeros(4, 1, 5, 5), 2, StepSeed(7))
    halves = [gaussian(torch.zeros(2, 1, 5, 5), 2, StepSeed(7, first)) for first in (0, 2)]
    assert torch.equal(torch.cat(halves, 1), whole)


def test_steps_have_noise_of_their_own():
    def first(seed, number=0):
        return gaussian(torch.zeros(1, 1, 8, 8), 1, StepSeed(seed, number)).numpy().tobytes()

    # Neither neighbours nor seeds that differ in high bits alone share anything.
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (2**33, 0), (2**32 + 1, 0), (-1, 0)]
    assert len({first(*each) for each in seeds}) == len(seeds)


def test_without_a_seed_noise_is_fresh():
    lr = torch.zeros(1, 1, 4, 4)
    assert not torch.equal(gaussian(lr, 1, None), gaussian(lr, 1, None))


def test_the_global_random_state_is_neither_read_nor_changed():
    before = torch.get_rng_state()
    noise = gaussian(torch.zeros(1, 1, 4, 4), 1, StepSeed(3))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(gaussian(torch.zeros(1, 1, 4, 4), 1, StepSeed(3)), noise)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_the_inputs(dtype):
    assert gaussian(torch.zeros(1, 1, 2, 2, dtype=dtype), 1, StepSeed(0)).dtype == dtype


def test_the_network_inside_data_parallel():
    network = nn.Conv2d(1, 1, 1)
    assert inner(nn.DataParallel(network)) is network
    assert inner(network) is network
