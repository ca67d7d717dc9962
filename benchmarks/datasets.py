"""The evaluation images: pairs of LR and HR, from the folder that SMOOTHSR_DATA names."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothsr import adapters
from smoothsr.evaluation.records import Image
from smoothsr.files import images
from smoothsr.metrics import to_8bit

Pair = tuple[str, Tensor, Tensor]
"""(name, lr (1,3,h,w), hr (1,3,4h,4w)), in [0, 1], 8-bit values."""


def place() -> Path:
    """Where the data folder is, if there is one."""
    return Path(os.environ.get("SMOOTHSR_DATA") or Path(__file__).parents[2] / "shared" / "data")


def folder() -> Path:
    """The data folder."""
    path = place()
    if not path.exists():
        raise SystemExit("set SMOOTHSR_DATA to the folder that holds images/ and checkpoints/")
    return path


def spec(name: str) -> str:
    """What `-m` and `adapters.load` take for a built-in network, or a checkpoint, whose name may
    leave out its .pth.
    """
    if name.startswith("builtin"):
        return name
    return str(folder() / "checkpoints" / f"{name.removesuffix('.pth')}.pth")


def network(name: str) -> nn.Module:
    """Load an x4 network by the name that `spec` knows; its weights want no gradients."""
    return adapters.load(spec(name), scale=4).model.requires_grad_(False)


def set5() -> Iterator[Pair]:
    """Set5, x4, with the LR images that papers use."""
    for path in sorted((folder() / "images/Set5").glob("*.png")):
        lr = images.read(folder() / f"images/Set5_LRx4/{path.stem}x4.png").pixels
        yield path.stem, lr, images.read(path).pixels


def b100() -> Iterator[Pair]:
    """Every fifth image of B100, x4, reduced here by an antialiased bicubic kernel and rounded to 8
    bits.
    """
    for path in sorted((folder() / "images/B100").glob("*.png")):
        hr = images.read(path).pixels
        size = (hr.shape[2] // 4, hr.shape[3] // 4)
        lr = F.interpolate(hr, size, mode="bicubic", antialias=True, align_corners=False)
        yield path.stem, to_8bit(lr) / 255, hr


def cropped(pair: Pair, side: int) -> Image:
    """Return the central crop of side x side LR pixels, x4; LR and HR show the same place."""
    name, lr, hr = pair
    top, left = ((length - side) // 2 for length in lr.shape[2:])
    lr = lr[..., top : top + side, left : left + side].contiguous()
    return Image(
        name, lr, hr[..., 4 * top : 4 * (top + side), 4 * left : 4 * (left + side)].contiguous()
    )


def noisy(lr: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Camera noise on an input, the same every time; not clamped."""
    return lr + sigma * torch.randn(lr.shape, generator=torch.Generator().manual_seed(seed))
