"""Precision: the lower one where it is faster and good enough, by a clock of the test's own."""

import pytest
import torch

from smoothsr.engine import precision


class Network:
    """Takes a given time in each precision, and is off by a given error in bfloat16."""

    def __init__(self, full, half, error=0.0):
        self.now, self.full, self.half, self.error = 0.0, full, half, error

    def __call__(self, batch):
        low = torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        self.now += self.half if low else self.full
        return batch + self.error if low else batch


@pytest.mark.parametrize(
    ("full", "half", "error", "expected"),
    [
        (1.0, 0.5, 0.0, torch.bfloat16),
        (1.0, 0.95, 0.0, torch.float32),  # not worth it
        (1.0, 2.0, 0.0, torch.float32),  # emulated
        (1.0, 0.5, 0.9 / 255, torch.bfloat16),
        (1.0, 0.5, 1.1 / 255, torch.float32),  # does not survive it
        (1.0, 0.5, float("nan"), torch.float32),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_and_near(full, half, error, expected, monkeypatch):
    network = Network(full, half, error)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: network.now)
    assert precision.fastest(network, torch.full((2, 3, 4, 4), 0.5)) == expected
