"""Training patches: pairs of LR and HR from any folder of images, by way of a memory-mapped cache.

Images are decoded and reduced once, and kept as arrays in files, of which a patch reads only its
own part. Which patches a step has is a pure function of the seed and the step, so that a run that
was cut off goes on with those that it would have had.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smoothsr.files import images
from smoothsr.files.atomic import replacing
from smoothsr.files.reduction import reduced

__all__ = ["Degrade", "Pair", "Patches", "cache"]

CANDIDATES = 2  # places, of which the one with more detail is taken: much of a photo is blurred
Degrade = Callable[[Tensor, int], Tensor]
"""(LR (1,C,h,w) in [0, 1], seed) -> the same shape and range."""


class Pair:
    """An image's LR (C,h,w) and HR (C,s*h,s*w), 8 or 16 bits a value: arrays, or .npy files, which
    are open only while a patch is read, since a system lets a process have few files open.
    """

    def __init__(self, lr: np.ndarray | Path, hr: np.ndarray | Path) -> None:
        self._lr, self._hr = lr, hr

    @property
    def lr(self) -> np.ndarray:
        """LR, not yet read from the disk."""
        return _opened(self._lr)

    @property
    def hr(self) -> np.ndarray:
        """HR, not yet read from the disk."""
        return _opened(self._hr)

    def crop(self, top: int, left: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a patch of side LR pixels: LR and HR, not yet read from the disk."""
        lr, hr = self.lr, self.hr
        scale = hr.shape[1] // lr.shape[1]
        small, large = (
            array[:, factor * top : factor * (top + side), factor * left : factor * (left + side)]
            for array, factor in ((lr, 1), (hr, scale))
        )
        return small, large


@dataclass(frozen=True)
class Patches:
    """Where batches come from.

    Args:
        pairs: Of images whose LR has at least `side` pixels on both sides.
        side: Of a patch, in LR pixels.
        seed: Of all that is random.
        degradations: What may be done to an LR patch, one of them for each; none: nothing.
    """

    pairs: Sequence[Pair]
    side: int
    seed: int = 0
    degradations: Sequence[Degrade] = ()

    def batch(self, step: int, numbers: range) -> tuple[Tensor, Tensor]:
        """Return some images of a step's batch: LR (B,C,h,w) and HR (B,C,s*h,s*w), float32 in
        [0, 1].

        Args:
            step: Its number.
            numbers: Of the images in the batch; each is the same whoever asks for it.
        """
        lr, hr = zip(*(self._patch(step, number) for number in numbers), strict=True)
        return torch.cat(lr), torch.cat(hr)

    def _patch(self, step: int, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, step, number])
        lr, hr = max((self._place(rng) for _ in range(CANDIDATES)), key=lambda pair: _detail(*pair))
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        small, large = (_turned(_as_float(array), turns, flip) for array in (lr, hr))
        if self.degradations:
            degrade = self.degradations[int(rng.integers(len(self.degradations)))]
            small = degrade(small, int(rng.integers(2**31)))
        return small, large

    def _place(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Choose a place; images count by their area."""
        areas = np.cumsum([height * width for height, width in self._sides])
        chosen = int(np.searchsorted(areas, rng.integers(areas[-1]), side="right"))
        top, left = (int(rng.integers(side - self.side + 1)) for side in self._sides[chosen])
        return self.pairs[chosen].crop(top, left, self.side)

    @cached_property
    def _sides(self) -> list[tuple[int, int]]:
        """(h,w) of every LR."""
        shapes = [pair.lr.shape for pair in self.pairs]
        return [(height, width) for _, height, width in shapes]


def _opened(array: np.ndarray | Path) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else np.load(array, mmap_mode="r")


def _detail(lr: np.ndarray, _hr: np.ndarray) -> float:
    values = lr.astype(np.float32) / np.iinfo(lr.dtype).max
    return float(sum(np.abs(np.diff(values, axis=axis)).mean() for axis in (1, 2)))


def _as_float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max)[None]


def _turned(image: Tensor, turns: int, flip: bool) -> Tensor:
    turned = torch.rot90(image, turns, (2, 3))
    return (turned.flip(3) if flip else turned).contiguous()


def cache(
    paths: Sequence[Path], folder: Path, *, scale: int, channels: int, factors: Sequence[int] = (1,)
) -> Iterator[Pair]:
    """Yield each image's pair, decoded into the folder if it isn't there yet.

    Args:
        paths: Image files of 8 or 16 bits.
        folder: Where the arrays are kept; made where it is missing.
        scale: s.
        channels: C: 3, to which gray images are repeated, or 1.
        factors: By which HR is reduced first, each for an image of its own: 2 to 4 removes what
            JPEG left in photographs.

    Raises:
        ImageError: If a file is no image, or is in colour where the network is gray.
        OSError: If a file can't be read, or the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        decoded: images.Picture | None = None
        for factor in factors:
            files = _files(folder, path, scale, channels, factor)
            if not all(file.exists() for file in files):
                decoded = decoded or images.read(path)
                _decode(decoded, path, files, scale, channels, factor)
            yield Pair(*files)


def _files(folder: Path, path: Path, scale: int, channels: int, factor: int) -> list[Path]:
    """Name the arrays of LR and HR by the image file and what was made of it."""
    state = path.stat()
    what = [str(path.resolve()), state.st_size, state.st_mtime_ns, scale, channels, factor]
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
    return [folder / f"{path.stem}-{key}.{kind}.npy" for kind in ("lr", "hr")]


def _decode(
    picture: images.Picture,
    path: Path,
    files: Sequence[Path],
    scale: int,
    channels: int,
    factor: int,
) -> None:
    """Write the arrays of LR and HR."""
    hr = picture.pixels
    if hr.shape[1] > channels:
        raise images.ImageError(f"{path}: the network is gray, and the image in colour")
    height, width = (side // (factor * scale) for side in hr.shape[2:])
    if min(height, width) < 1:
        raise images.ImageError(f"{path}: {hr.shape[3]}x{hr.shape[2]} pixels are too few")
    hr = _shrunk(hr, (height * scale, width * scale)) if factor > 1 else hr
    hr = hr[..., : height * scale, : width * scale].expand(-1, channels, -1, -1)
    kind = np.uint16 if picture.bits == 16 else np.uint8
    lr = reduced(hr, scale)
    for image, file in zip((lr, hr), files, strict=True):
        steps = (image[0] * np.iinfo(kind).max).round().clamp(0, np.iinfo(kind).max)
        with replacing(file) as part, part.open("wb") as stream:
            np.save(stream, steps.numpy().astype(kind))


def _shrunk(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce an image by Pillow, whose kernel takes large factors in little memory."""
    channels = [
        np.asarray(
            Image.fromarray(channel.numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        )
        for channel in image[0]
    ]
    return torch.from_numpy(np.stack(channels))[None].clamp(0, 1)
