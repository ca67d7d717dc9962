"""Memory: how much is free, what an output takes, and the largest tile that fits.

At its peak an output of V values, made by n draws in tiles of v values, holds beside the program

    8 V + 4 (n + 1) v + b p a   bytes,

the output twice (it is rounded to be written), the draws of one tile and their statistic (for the
mean 2 v in place of (n + 1) v), and b patches of p pixels in the network, which takes `a` bytes for
each pixel: `forward_memory.footprint`.
"""

import os
import re
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["Demand", "fitting", "free_bytes", "largest_tile", "room"]

BATCH = 4 * 2**30  # bytes that the passes of one batch take at most, however much is free
USED = 0.9  # of a budget that is counted on: allocators hold up to a tenth more than is in use
LEAST = 8  # side of the smallest tile that is chosen
CGROUPS = (  # a container's limit, and what it uses of it
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class Demand(NamedTuple):
    """What an output asks of memory.

    Attributes:
        sides: (h,w) of the input.
        values: Output values for each input pixel: channels times scale squared.
        draws: How many outputs of a tile are held at once, the result included.
        pixel_bytes: What the network takes for each pixel of a patch.
    """

    sides: tuple[int, int]
    values: int
    draws: int
    pixel_bytes: float

    def held(self, tile: int | None) -> float:
        """Count the bytes besides the network's passes."""
        height, width = self.sides
        kept = min(height, tile or height) * min(width, tile or width)
        return self.values * (8 * height * width + 4 * self.draws * kept)

    def a_pass(self, tile: int | None, halo: int) -> float:
        """Count the bytes that the network takes for one patch inside the image."""
        rows, columns = (min(side, (tile or side) + 2 * halo) for side in self.sides)
        return self.pixel_bytes * rows * columns

    def at_once(self, tile: int | None, halo: int, room: float) -> int:
        """Tell how many patches fit into so many bytes, together with all that is held."""
        return fitting(self.a_pass(tile, halo), room - self.held(tile))


def fitting(each: float, room: float) -> int:
    """Tell how many passes of so many bytes each are made at once, 0 if not even one fits.

    Example:
        >>> fitting(BATCH / 3, 4 * BATCH), fitting(2 * BATCH, 3 * BATCH), fitting(2 * BATCH, BATCH)
        (3, 1, 0)
    """
    return max(1, int(min(room, BATCH) // each)) if each <= room else 0


def largest_tile(demand: Demand, halo: int, room: float) -> int | None:
    """Find the side of the largest tile that fits into so many bytes; None if none does.

    Example:
        >>> demand = Demand((100, 60), values=0, draws=1, pixel_bytes=1)
        >>> largest_tile(demand, 2, 1000)  # patches of 31 x 31 fit; as many tiles do with 29 x 29
        25
    """
    low, high = 0, max(demand.sides)
    while high - low > 1:  # low fits, high doesn't
        middle = (low + high) // 2
        low, high = (middle, high) if demand.at_once(middle, halo, room) else (low, middle)
    if low < min(LEAST, *demand.sides):
        return None
    # As many tiles, but alike: a short last one would cost as much as the others.
    return max(ceil(side / ceil(side / low)) for side in demand.sides)


def room(budget: float | None, device: torch.device) -> float:
    """How many more bytes may be taken: of a budget for the whole process, or of what is free,
    which torchrun's processes on one computer share.
    """
    free = free_bytes(device) / (_processes() if device.type == "cpu" else 1)
    return free if budget is None else min(free, USED * budget - _taken(device))


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


def _processes() -> int:
    """How many processes torchrun has started on this computer."""
    word = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(word)) if word.isdecimal() else 1


def _taken(device: torch.device) -> float:
    """How much memory of a device this process has taken, as far as that shows."""
    if device.type == "cuda":
        return float(torch.cuda.memory_reserved(device))
    found = re.search(r"VmRSS:\s*(\d+) kB", _word("/proc/self/status"))
    return 1024.0 * int(found[1]) if found and device.type == "cpu" else 0.0


def _word(path: str) -> str:
    """Read a file of the system's, or nothing where it has none."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
