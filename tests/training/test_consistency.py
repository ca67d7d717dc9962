"""What differs between draws: the trace and the top singular value against numpy and known
covariances.
"""

import numpy as np
import pytest
import torch

from smoothsr.training import ConsistencyPenalty
from smoothsr.training.consistency import top_singular_value, trace


def draws_of(count: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_trace_is_the_mean_variance(count):
    outputs = draws_of(count, (2, 3, 4, 4))
    expected = np.var(outputs.numpy(), axis=0, ddof=1).mean()
    assert trace(outputs).item() == pytest.approx(expected)


def test_the_trace_has_no_bias():
    found = [trace(0.3 * draws_of(2, (1, 1, 8, 8), seed)).item() for seed in range(200)]
    # The standard error of the mean of 200 * 64 variances from two draws each is .0011.
    assert np.mean(found) == pytest.approx(0.09, abs=0.005)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_top_is_that_of_the_covariance_of_each_tile(count):
    outputs = draws_of(count, (2, 3, 5, 8))
    expected = []
    for image in range(2):
        for left in (0, 4):  # row 4 is no whole tile
            tile = outputs[:, image, :, :4, left : left + 4].flatten(1).numpy()
            expected.append(np.linalg.eigvalsh(np.cov(tile.T))[-1] / tile.shape[1])
    assert top_singular_value(outputs, 4).item() == pytest.approx(np.mean(expected))


def test_of_two_draws_all_variance_is_in_one_direction():
    outputs = draws_of(2, (1, 1, 4, 4))
    assert top_singular_value(outputs, 4).item() == pytest.approx(trace(outputs).item())


def test_variance_that_is_spread_out_has_a_small_top():
    spread = draws_of(200, (1, 1, 8, 8))
    as_one = draws_of(200, (1, 1, 1, 1)).expand(-1, -1, -1, 8, 8)
    assert trace(spread).item() == pytest.approx(trace(as_one).item(), rel=0.3)
    assert top_singular_value(as_one, 8).item() == pytest.approx(trace(as_one).item())
    assert top_singular_value(spread, 8) < 0.06 * top_singular_value(as_one, 8)


@pytest.mark.parametrize("kind", ["trace", "top"])
def test_gradients_against_finite_differences(kind):
    penalty = ConsistencyPenalty(0.7, kind, tile=2)
    outputs = draws_of(3, (2, 1, 4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(penalty, outputs)


@pytest.mark.parametrize("kind", ["trace", "top"])
def test_the_weight_is_a_factor(kind):
    outputs = draws_of(4, (1, 1, 4, 4))
    single, triple = (ConsistencyPenalty(weight, kind, 4)(outputs) for weight in (1, 3))
    assert triple.item() == pytest.approx(3 * single.item())
    assert single > 0
    assert ConsistencyPenalty(0, kind, 4)(outputs) == 0


def test_half_precision_is_summed_in_single():
    outputs = draws_of(4, (1, 3, 64, 64)).to(torch.bfloat16)
    expected = top_singular_value(outputs.double(), 64)
    assert top_singular_value(outputs, 64).item() == pytest.approx(expected.item(), rel=1e-4)
    assert trace(outputs).item() == pytest.approx(trace(outputs.double()).item(), rel=1e-4)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"tile must be 1 to 4 output pixels, got 5"):
        top_singular_value(draws_of(2, (1, 1, 4, 4)), 5)
    with pytest.raises(ValueError, match=r"weight must be a finite number >= 0, got -1"):
        ConsistencyPenalty(-1)
    with pytest.raises(ValueError, match=r'kind must be "trace" or "top"'):
        ConsistencyPenalty(1, "largest")
    with pytest.raises(ValueError, match=r"tile must be at least 1, got 0"):
        ConsistencyPenalty(1, "top", 0)
