"""The precision that a network runs in, and the one that it runs fastest in, found by running it.

Half precision is fast where a processor has units for it, and slow where they are emulated, or
where a network spends its time elsewhere; and some networks do not survive it. All of that shows
in a few passes.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["fastest", "precision_of", "precision_text"]

ROUNDS = 5
FASTER = 0.9  # a lower precision must take at most this share of the time
NEAR = 1 / 255  # and its outputs be as near, as a root mean square


@torch.no_grad()
def fastest(f: Callable[[Tensor], Tensor], batch: Tensor) -> torch.dtype:
    """Tell whether a network is worth running in bfloat16.

    Args:
        f: Maps images (b,C,h,w), values in [0, 1], to images.
        batch: What it is tried on.

    Returns:
        torch.bfloat16 where that takes at most nine tenths of the time, and its outputs differ from
        those of float32 by a root mean square of at most 1/255; otherwise torch.float32.
    """
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    outputs = dict[torch.dtype, Tensor]()
    for _ in range(ROUNDS + 1):
        for dtype, times in seconds.items():
            start = time.perf_counter()
            with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
                # Its mean is waited for, on every device.
                outputs[dtype] = f(batch).float().clamp(0, 1)
                float(outputs[dtype].mean())
            times.append(time.perf_counter() - start)
    full, half = (statistics.median(times[1:]) for times in seconds.values())  # the first warms up
    apart = (outputs[torch.bfloat16] - outputs[torch.float32]).square().mean().sqrt()
    worth = half <= FASTER * full and float(apart) <= NEAR
    return torch.bfloat16 if worth else torch.float32


def precision_of(lr: Tensor) -> torch.dtype:
    """Find the precision that a predictor runs in: the input's, or autocast's."""
    device = lr.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lr.dtype


def precision_text(lr: Tensor) -> str:
    """Write it down, and whether it is autocast's."""
    autocast = " (autocast)" if torch.is_autocast_enabled(lr.device.type) else ""
    return f"{precision_of(lr)}{autocast}".removeprefix("torch.")
