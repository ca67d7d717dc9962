"""The images that evaluate and sweep measure on: HR files, and LR from files or by reduction."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from smoothsr.adapters import LoadedSR
from smoothsr.cli.errors import UserError
from smoothsr.evaluation.records import Image
from smoothsr.files import images
from smoothsr.files.reduction import reduced
from smoothsr.metrics import to_8bit

__all__ = ["PairOptions", "find_images", "read_pair"]


class PairOptions(Protocol):
    """Where images are: HR files or folders; the folder of LR files, or None; and the side of the
    central crop that is taken, in LR pixels, or None.
    """

    @property
    def hr(self) -> Sequence[str]: ...
    @property
    def lr(self) -> Path | None: ...
    @property
    def crop(self) -> int | None: ...


def find_images(options: PairOptions) -> list[Path]:
    """List the HR files.

    Raises:
        UserError: If there is none, or several have one name.
        OSError: If the folder of LR files is not there.
    """
    paths = images.find(options.hr)
    names = [path.stem for path in paths]
    if not paths:
        raise UserError(
            f"no images in {', '.join(options.hr)} "
            f"(looked for {', '.join(sorted(images.EXTENSIONS))})"
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"several HR images are called {sorted(twice)[0]}: rename one, since scores are "
            "kept by name"
        )
    if options.lr:
        images.find([options.lr])  # raises if it is not there
    return paths


def read_pair(options: PairOptions, path: Path, loaded: LoadedSR, device: torch.device) -> Image:
    """Read HR, cut to a multiple of the scale, and LR, from its file or by reduction; of one
    channel if both are gray.

    Raises:
        ValueError: If sizes or channels don't fit.
    """
    scale = loaded.scale
    hr = images.read(path).pixels
    height, width = (side // scale for side in hr.shape[2:])
    if not height or not width:
        raise ValueError(f"HR has {hr.shape[3]}x{hr.shape[2]} pixels, fewer than the scale {scale}")
    hr = hr[..., : height * scale, : width * scale]
    if options.lr is None:
        lr = to_8bit(reduced(hr, scale)) / 255  # as benchmarks' LR files are
    else:
        lr = _read_lr(options.lr, path.stem, hr, scale)
    channels = max(lr.shape[1], hr.shape[1])
    if channels > loaded.channels:
        raise ValueError(f"the networks take {loaded.channels} channel, the image has {channels}")
    if options.crop:
        lr, hr = _cropped(lr, hr, options.crop)
    return Image(
        path.stem,
        *(picture.expand(-1, channels, -1, -1).contiguous().to(device) for picture in (lr, hr)),
    )


def _read_lr(folder: Path, stem: str, hr: Tensor, scale: int) -> Tensor:
    lr = images.read(_lr_file(folder, stem, scale)).pixels
    height, width = (side // scale for side in hr.shape[2:])
    if lr.shape[2:] != (height, width):
        raise ValueError(
            f"LR has {lr.shape[3]}x{lr.shape[2]} pixels; x{scale} of them must give HR, "
            f"so {width}x{height}"
        )
    return lr


def _lr_file(folder: Path, stem: str, scale: int) -> Path:
    """Find the LR file of an HR file: of the same name, or with x4 or LR behind it."""
    for pattern in (re.escape(stem), re.escape(stem) + rf"([_-]?(x{scale}|lr|LR))+"):
        found = [path for path in images.find([folder]) if re.fullmatch(pattern, path.stem)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"several files in {folder} fit it, "
                f"{' and '.join(path.name for path in found)}: keep one"
            )
    raise ValueError(
        f"no file in {folder} fits it: name one {stem} or {stem}x{scale}, as HR is named"
    )


def _cropped(lr: Tensor, hr: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut both to the central crop of side x side LR pixels, or what there is."""
    scale = hr.shape[2] // lr.shape[2]
    top, left = (max(0, length - side) // 2 for length in lr.shape[2:])
    small = lr[..., top : top + side, left : left + side]
    bottom, right = top + side, left + side
    return small, hr[..., top * scale : bottom * scale, left * scale : right * scale]
