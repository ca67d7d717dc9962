"""Order statistics of many draws of every output value, in 8 bits: rounding commutes with ranks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from smoothsr.engine.order_statistics import in_chunks, order_statistics
from smoothsr.engine.tiles import Tile, output_slices
from smoothsr.metrics import to_8bit

__all__ = ["Quantiles"]

ROUNDED = 32  # draws that are brought to 8 bits at a time
DIRECT = 1024  # up to so many draws of a tile are kept as they are, more of them as histograms


class Quantiles:
    """An observer that keeps some ranks of n draws of every output value.

    Memory, beyond the result, is that of one tile's draws in 8 bits.

    Args:
        n: Draws of every tile.
        ranks: 1-based.
        lr: The input (1,C,h,w); draws are rounded in its precision.
    """

    def __init__(self, n: int, ranks: Sequence[int], lr: Tensor) -> None:
        self.n, self.ranks, self.lr = n, ranks, lr
        self._tile: _Draws | None = None
        self._result: np.ndarray | None = None

    def beside(self) -> "Quantiles":
        """Return an observer of the same ranks for tiles that are drawn at the same time."""
        return Quantiles(self.n, self.ranks, self.lr)

    def add(self, outputs: Tensor) -> None:
        """Take draws (b,C,H,W) of the current tile, values in [0, 1]."""
        self._tile = self._tile or _Draws(self.n, outputs[0])
        # As forward returns it: in the precision of lr, which is lower than that of the draws
        # where lr is bfloat16.
        self._tile.add(to_8bit(outputs.to(self.lr.dtype)))

    def finish(self, tile: Tile) -> None:
        """Compute the tile's ranks and put them in their place."""
        self.put(tile, self.take())

    def take(self) -> np.ndarray:
        """Compute the ranks of the current tile's values, and forget its draws.

        Returns:
            uint8 (len(ranks),C,H,W).
        """
        if self._tile is None:
            raise ValueError("a tile was finished before its first draw")
        found = self._tile.ranks(self.ranks)
        self._tile = None
        return found

    def of(self, draws: Tensor) -> np.ndarray:
        """Compute the ranks of values of which all draws (n,...) are at hand: uint8
        (len(ranks),...).
        """
        steps = torch.empty_like(draws, dtype=torch.uint8)
        for part, target in zip(draws.split(ROUNDED), steps.split(ROUNDED), strict=True):
            target.copy_(to_8bit(part.to(self.lr.dtype)))
        return order_statistics(steps, self.ranks).cpu().numpy()

    def put(self, tile: Tile, found: np.ndarray) -> None:
        """Put what `take` returned of a tile in its place."""
        scale = found.shape[-1] // (tile.columns.stop - tile.columns.start)
        if self._result is None:
            height, width = (scale * side for side in self.lr.shape[2:])
            self._result = np.empty((len(self.ranks), found.shape[1], height, width), np.uint8)
        self._result[(..., *output_slices(tile, scale))] = found

    @property
    def result(self) -> np.ndarray:
        """The ranks of all values: uint8 (len(ranks),C,s*h,s*w)."""
        if self._result is None:
            raise ValueError("there are no draws")
        return self._result


class _Draws:
    """One tile's draws in 8 bits: side by side up to DIRECT of them, beyond that a histogram of
    each value.
    """

    def __init__(self, n: int, like: Tensor) -> None:
        self.n, self.shape, self.held = n, (*like.shape,), 0
        self.block = torch.empty(
            (min(n, DIRECT), like.numel()), dtype=torch.uint8, device=like.device
        )
        self.histogram = np.zeros((like.numel() if n > DIRECT else 0, 256), np.uint32)

    def add(self, outputs: Tensor) -> None:
        for part in outputs.split(len(self.block)):
            if self.held + len(part) > len(self.block):
                self._flush()
            self.block[self.held : self.held + len(part)].view(part.shape).copy_(part)
            self.held += len(part)

    def ranks(self, ranks: Sequence[int]) -> np.ndarray:
        if self.n <= DIRECT:
            return (
                order_statistics(self.block, ranks).cpu().numpy().reshape(len(ranks), *self.shape)
            )
        self._flush()
        result = np.empty((len(ranks), self.block.shape[1]), np.uint8)
        index = np.asarray(ranks) - 1

        def look_up(part: slice) -> None:
            counts = self.histogram[part]
            values = np.tile(np.arange(256, dtype=np.uint8), len(counts))
            result[:, part] = (
                np.repeat(values, counts.ravel()).reshape(len(counts), self.n)[:, index].T
            )

        in_chunks(look_up, self.block.shape[1], self.n, torch.get_num_threads())
        return result.reshape(len(ranks), *self.shape)

    def _flush(self) -> None:
        block = self.block[: self.held].cpu().numpy()

        def count(part: slice) -> None:
            columns = block[:, part].astype(np.int64)
            columns += 256 * np.arange(columns.shape[1])
            counts = np.bincount(columns.ravel(), minlength=256 * columns.shape[1])
            self.histogram[part] += counts.reshape(-1, 256).astype(np.uint32)

        in_chunks(count, block.shape[1], 8 * max(1, self.held), torch.get_num_threads())
        self.held = 0
