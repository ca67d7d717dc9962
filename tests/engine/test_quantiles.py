"""Ranks of draws that come in batches, and of draws that are all at hand."""

import numpy as np
import pytest
import torch

from smoothsr.engine.quantiles import Quantiles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [9, 1100])
def test_draws_at_hand_have_the_ranks_of_draws_in_batches(n, dtype):
    """As they are rounded in the precision of the input."""
    outputs = torch.rand(n, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    observer = Quantiles(n, [1, n // 2, n], torch.zeros(1, 2, 4, 3, dtype=dtype))
    for batch in outputs.split(7):
        observer.add(batch)
    expected = observer.take()
    assert np.array_equal(observer.of(outputs), expected)
    rounded = (outputs.to(dtype).float() * 255).round().byte().sort(dim=0).values
    assert np.array_equal(expected, rounded[[0, n // 2 - 1, n - 1]].numpy())
