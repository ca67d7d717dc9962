"""The largest eigenvalue is never below the truth, whatever the estimate is."""

import math

import pytest
import torch

from smoothsr.engine import eigenvalue
from smoothsr.engine.eigenvalue import largest_eigenvalue


@pytest.mark.parametrize("rank", [1, 3, 30])
@pytest.mark.parametrize("size", [1, 2, 30, 100, eigenvalue.ALIGNED])
def test_the_largest_eigenvalue_is_never_below_the_truth(size, rank):
    generator = torch.Generator().manual_seed(size + rank)
    factors = torch.rand(size, rank, generator=generator, dtype=torch.float64) - 0.5
    matrix = factors @ factors.T
    exact = torch.linalg.eigvalsh(matrix)[-1].item()
    assert exact <= largest_eigenvalue(matrix) <= 1.01 * exact


@pytest.mark.parametrize("others", [1, eigenvalue.ALIGNED - 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_an_estimate_that_is_short_is_not_believed(shift, others, monkeypatch):
    diagonal = torch.tensor([*[0.5 / others] * others, 1.0, 2.0, 3.0], dtype=torch.float64)
    matrix = torch.diag(diagonal.roll(shift))
    monkeypatch.setattr(eigenvalue, "_lanczos", lambda _: 2.0)
    assert 3 <= largest_eigenvalue(matrix) <= 2 * 2.001
    monkeypatch.setattr(eigenvalue, "_lanczos", lambda _: 0.01)
    assert largest_eigenvalue(matrix) == pytest.approx(6.5)  # the trace, which is never wrong


def test_a_start_without_any_part_in_the_top_direction_is_found_out():
    matrix = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    matrix[0, 0], matrix[1, 1] = 1.0, 1.0 + 1e-9
    assert largest_eigenvalue(matrix) >= 1 + 1e-9


def test_matrices_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        largest_eigenvalue(torch.full((2, 2), math.nan, dtype=torch.float64))


def test_what_the_factorization_may_be_off_by_is_counted(monkeypatch):
    monkeypatch.setattr(eigenvalue, "_lanczos", lambda _: 3.0)
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64))
    units = (largest_eigenvalue(matrix) / (3.0 * 1.001) - 1) / torch.finfo(torch.float64).eps
    assert units == pytest.approx(36, abs=2)
