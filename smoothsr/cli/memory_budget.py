"""Whether an image fits into the memory that is really free, and how many draws do at once.

A computer whose memory runs out ends the process without a word, so what will be held is counted
before the work begins.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from smoothsr import SmoothedSR
from smoothsr.adapters import LoadedSR
from smoothsr.cli.errors import UserError
from smoothsr.cli.smoother import SmootherOptions, smoother
from smoothsr.engine import draws
from smoothsr.engine.batching import FIXED, Batching
from smoothsr.engine.forward_memory import forward_bytes
from smoothsr.engine.moments import BLOCK
from smoothsr.engine.quantiles import DIRECT
from smoothsr.engine.tiles import Tile, grid
from smoothsr.files.images import Picture

__all__ = [
    "bare_output",
    "certifying_bytes",
    "fitting_smoother",
    "free_bytes",
    "serving_bytes",
]

BATCH = 4 * 2**30  # bytes that the passes of one batch take at most, however much is free
BARE_TILE, BARE_HALO = 128, 24  # of the bare network, where the whole image does not fit
CGROUPS = (  # a container's limit, and what it uses of it
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(device: torch.device) -> float:
    """How much memory a device has left; infinite where nothing tells, or its shortage is an error
    that can be told.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return float("inf")
    left = [
        float(limit) - float(used)
        for limit, used in ((_word(limit), _word(used)) for limit, used in CGROUPS)
        if limit.isdecimal() and used.isdecimal()
    ]
    if found := re.search(r"MemAvailable: *(\d+) kB", _word("/proc/meminfo")):
        left.append(1024.0 * int(found[1]))
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        left.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(left, default=float("inf"))


def serving_bytes(options: SmootherOptions, picture: Picture, scale: int) -> float:
    """Count what an output holds besides the passes of a batch: a tile's draws, and the output in
    float32 twice, since it is rounded to be written.
    """
    whole, tile = _values(options, picture, scale)
    return 4 * tile * (2 if options.agg == "mean" else options.n + 1) + 8 * whole


def certifying_bytes(
    options: SmootherOptions, picture: Picture, scale: int, n_cert: int, levels: int
) -> float:
    """Count what a certificate holds besides the passes of a batch: the served output's part, then
    a tile's draws in 8 bits or as histograms, levels of a tile and of the image, and answers;
    of a spectrum a tile's draws in float32 or their second moments, and the mean.
    """
    whole, tile = _values(options, picture, scale)
    draws = min(n_cert, DIRECT) + (1024 if n_cert > DIRECT else 0)
    stored = 2 * levels * (whole + tile)
    moments = 4 * tile * min(n_cert, max(tile, BLOCK)) * 4 / 3 + 16 * min(n_cert, tile) ** 2
    served = serving_bytes(options, picture, scale)
    return max(served, tile * draws + stored + moments + 44 * whole)


def fitting_smoother(
    options: SmootherOptions, loaded: LoadedSR, picture: Picture, held: float, advice: str
) -> SmoothedSR:
    """Wrap the network so that no more draws are made at once than fit into memory.

    Args:
        options: Of the smoother.
        loaded: The network, on its device.
        picture: What it is to run on.
        held: Bytes besides the passes of a batch.
        advice: What the user can do where not even one draw fits.

    Raises:
        UserError: If so.
    """
    smoothed = smoother(options, loaded, picture)
    device = next((weight.device for weight in smoothed.parameters()), torch.device("cpu"))
    height, width = picture.pixels.shape[2:]
    each = _patch(grid(height, width, options.tile, options.halo)[0]) * forward_bytes(
        smoothed, smoothed.base, picture.pixels.to(device)
    )
    free = free_bytes(device)
    needed = held + each * (options.batch_size or 1)
    if needed > free:
        raise UserError(
            f"{width}x{height} pixels would take {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free: {advice}"
        )
    at_once = int(min(free - held, BATCH) // each)
    if options.batch_size or at_once >= options.n:
        return smoothed
    return smoother(replace(options, batch_size=max(1, min(at_once, FIXED))), loaded, picture)


def bare_output(smoothed: SmoothedSR, lr: Tensor, scale: int) -> Tensor:
    """Run the network without noise on lr (1,C,h,w): whole if that fits into memory, else in large
    tiles, whose seams hardly show.

    Raises:
        UserError: If not even these fit.
    """
    height, width = lr.shape[2:]
    each, free = forward_bytes(smoothed, smoothed.base, lr), free_bytes(lr.device)
    output = 8 * lr.shape[1] * height * width * scale**2
    for tile in (None, BARE_TILE):
        tiles = grid(height, width, tile, BARE_HALO)
        needed = output + each * _patch(tiles[0])
        if needed <= free:
            with torch.no_grad():
                batching = Batching(1, convolutional=False)
                sampler = draws.Sampler(smoothed.base, lr, tiles, 0.0, None, batching)
                return draws.smooth(sampler, 1, None)
    raise UserError(
        f"it would take {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
    )


def _values(options: SmootherOptions, picture: Picture, scale: int) -> tuple[int, int]:
    """Count the output values of a picture, and of a tile."""
    _, channels, height, width = picture.pixels.shape
    cut = [min(side, options.tile or side) for side in (height, width)]
    each = channels * scale**2
    return each * height * width, each * cut[0] * cut[1]


def _patch(tile: Tile) -> int:
    """How many pixels the network is given for a tile; all of a grid are alike."""
    return len(tile.rows.gather) * len(tile.columns.gather)


def _word(path: str) -> str:
    """Read a file of the system's, or nothing where it has none."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
