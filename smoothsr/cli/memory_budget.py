"""Whether an image fits into the memory that may be taken, and how many draws do at once.

A computer whose memory runs out ends the process without a word, so what will be held is counted
before the work begins.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from smoothsr import SmoothedSR
from smoothsr.attacks.gradient_memory import patches
from smoothsr.certificates.evidence import tile_bytes
from smoothsr.certifying import ASIDE
from smoothsr.cli.errors import UserError
from smoothsr.engine import memory
from smoothsr.engine.batching import Batching
from smoothsr.engine.memory import Demand
from smoothsr.smoothing import variant

__all__ = ["bare_output", "certifying_bytes", "fitted"]

ANSWERS = 64  # bytes for each output value that answers and figures take, measured at 1024x1024


def certifying_bytes(demand: Demand, tile: int | None, n_cert: int, levels: int) -> float:
    """Count what a certificate holds besides the passes of a batch: the served output's part, then
    a tile's draws in 8 bits or as histograms, levels of a tile and of the image, and answers;
    of a spectrum a tile's draws in float32 or their second moments, and the mean.
    """
    height, width = demand.sides
    whole = demand.values * height * width
    kept = demand.values * min(height, tile or height) * min(width, tile or width)
    stored = 2 * levels * whole + ANSWERS * whole
    return max(demand.held(tile), tile_bytes(kept, n_cert, levels) + stored)


def fitted(
    smoothed: SmoothedSR, lr: Tensor, held: Callable[[Demand, int | None], float], advice: str
) -> SmoothedSR:
    """Choose tiles that fit into memory where they are to be chosen; where they are given, see to
    it that no more draws are made at once than fit.

    Args:
        smoothed: The smoother.
        lr: What it is to run on, (1,C,h,w).
        held: Counts the bytes besides the passes of a batch, by the side of a tile.
        advice: What the user can do where not even one draw fits.

    Raises:
        UserError: If so.
    """
    if smoothed.tile == "auto":
        return smoothed.fitted(lr)
    demand, room = smoothed.demand(lr), memory.room(smoothed.memory, lr.device)
    taken = held(demand, smoothed.tile)
    each = demand.pixel_bytes * patches(smoothed, lr)[1]
    needed = taken + each * (smoothed.batching.batch_size or 1)
    if needed > room:
        raise UserError(
            f"{lr.shape[3]}x{lr.shape[2]} pixels would take {needed / 2**30:.1f} GiB of memory, "
            f"and {max(room, 0) / 2**30:.1f} GiB are free: {advice}"
        )
    # Of what threads side by side hold, each of its own, a part was counted.
    smoothed.batching.most = max(1, memory.fitting(each, (1 - ASIDE) * room - taken))
    return smoothed


def bare_output(smoothed: SmoothedSR, lr: Tensor) -> Tensor:
    """Run the network without noise and denoiser on lr (1,C,h,w): whole if that fits into memory,
    else in tiles.

    Raises:
        ValueError: If not even these fit.
    """
    options = {"sigma": 0.0, "n": 1, "agg": "mean", "tile": "auto", "denoiser": None}
    with torch.no_grad():
        return variant(smoothed, batching=Batching(1, convolutional=False), **options)(lr)
