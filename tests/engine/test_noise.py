"""Where noise comes from: its distribution, its independence, and that nothing global is
touched.
"""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from smoothsr.engine.noise import source

CPU = torch.device("cpu")
SHAPE = (3, 5, 4)


def seeded(seed, dtype=torch.float32):
    return source(seed, CPU, dtype)


@pytest.mark.parametrize("seed", [0, 7, -7, 2**32 + 7, 2**80])
def test_a_draw_is_the_same_in_every_batch(seed):
    whole = seeded(seed)(2, range(9), SHAPE)
    for size in (1, 2, 4):
        parts = [
            seeded(seed)(2, range(9)[start : start + size], SHAPE) for start in range(0, 9, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_every_seed_tile_and_draw_has_noise_of_its_own():
    draws = [
        seeded(seed)(tile, range(index, index + 1), SHAPE).numpy().tobytes()
        for seed in (
            0,
            1,
            -1,
            2**32,
            2**32 + 1,
            2**64,
        )  # torch's CPU generator uses 32 bits of a seed: some of these would agree
        for tile in (0, 1, 2)
        for index in (0, 1, 2)
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_normal_and_independent(seed, dtype):
    noise = seeded(seed, dtype)(0, range(200), (100,)).double().numpy()
    assert (
        stats.kstest(noise.ravel(), "norm").pvalue > 1e-6
    )  # 1e-6, since fresh noise may be unlucky
    # Sums over draws and over positions have the variance of independent terms; 100 and 200 sums, 6
    # standard errors.
    for axis in (0, 1):
        sums = noise.sum(axis) / np.sqrt(noise.shape[axis])
        assert abs(sums.var() - 1) < 6 * np.sqrt(2 / len(sums))


def test_precision_is_float32_unless_the_input_is_float64():
    for given, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ]:
        for seed in (None, 0):
            assert seeded(seed, given)(0, range(1), SHAPE).dtype == expected


def test_fresh_noise_is_new_each_time():
    fresh = seeded(None)
    draws = [fresh(0, range(2), SHAPE), fresh(0, range(2), SHAPE), seeded(None)(0, range(2), SHAPE)]
    assert len({one.numpy().tobytes() for batch in draws for one in batch}) == 6


@pytest.mark.parametrize("seed", [None, 0, -7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_opposite_whatever_batches_cut_them(seed, dtype):
    paired = source(seed, CPU, dtype, antithetic=True)
    whole = paired(2, range(9), SHAPE)
    assert (whole.dtype, whole.shape) == (dtype, (9, *SHAPE))
    assert torch.equal(whole[1::2], -whole[:8:2])
    assert len({one.abs().numpy().tobytes() for one in whole}) == 5
    for size in (1, 2, 3, 4, 5):
        starts = [*range(0, 9, size)]
        parts = {start: paired(2, range(9)[start : start + size], SHAPE) for start in starts[::-1]}
        assert torch.equal(torch.cat([parts[start] for start in starts]), whole)
    assert not torch.equal(paired(3, range(9), SHAPE), whole)


def test_pairs_are_standard_normal_and_independent_of_each_other():
    halves = source(None, CPU, torch.float64, antithetic=True)(0, range(400), (100,))[::2].numpy()
    assert stats.kstest(halves.ravel(), "norm").pvalue > 1e-6
    for axis in (0, 1):
        sums = halves.sum(axis) / np.sqrt(halves.shape[axis])
        assert abs(sums.var() - 1) < 6 * np.sqrt(2 / len(sums))


def test_fresh_pairs_are_new_for_each_source():
    first, second = (source(None, CPU, torch.float32, True)(0, range(2), SHAPE) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("seed", [None, 5])
def test_global_random_states_are_neither_read_nor_changed(seed):
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    torch.manual_seed(0)
    before = states()
    first = seeded(seed)(0, range(3), SHAPE)
    assert states() == before
    torch.manual_seed(0)
    assert torch.equal(seeded(seed)(0, range(3), SHAPE), first) == (seed is not None)
