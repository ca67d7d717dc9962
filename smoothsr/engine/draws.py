"""The engine: draws of a base predictor under Gaussian noise, tile by tile, and their order
statistics.

For each tile, noise goes on the patch's real pixels, the noisy patch is completed by reflection,
the predictor runs on batches of such patches, and the outputs are cropped to the tile. What happens
to a tile's draws is up to the two consumers here: `smooth` keeps one statistic of few draws,
`quantiles` some ranks of many draws in 8 bits.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from smoothsr.engine import noise
from smoothsr.engine.batching import Batching
from smoothsr.engine.order_statistics import in_chunks, order_statistics
from smoothsr.engine.tiles import Span, Tile

__all__ = ["quantiles", "smooth"]

DIRECT = 1024  # up to so many draws of a tile are kept as they are, more of them as histograms
Network = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]


def draw(
    f: Network,
    lr: Tensor,
    index: int,
    tile: Tile,
    sigma: float,
    n: int,
    source: noise.Source,
    batching: Batching,
) -> Iterator[Tensor]:
    """Yield the n outputs of one tile in batches (b,C,H,W), cropped to the tile.

    Args:
        f: The predictor on patches, (b,C,h,w) to (b,C,s*h,s*w).
        lr: One image (1,C,h,w).
        index: The tile's place in the grid, which its noise depends on.
        tile: Its geometry.
        sigma: Noise standard deviation.
        n: How many draws.
        source: Where noise comes from.
        batching: Chooses the batches.

    Raises:
        ValueError: If f's output is no integer multiple of its input's size.
    """
    rows, columns = tile
    patch = lr[..., rows.first : rows.last, columns.first : columns.last]
    picks = [torch.tensor(span.gather, device=lr.device) for span in tile]

    def noisy(draws: range) -> Tensor:
        # The sum is made in float32 or better; what a network of lower precision makes of it is
        # part of the predictor.
        batch = patch + sigma * source(index, draws, (*patch.shape[1:],))
        if tile.padded:
            batch = batch[:, :, picks[0][:, None], picks[1]]
        return batch.to(lr.dtype)

    shape = (lr.shape[1], len(rows.gather), len(columns.gather))
    done = 0
    while done < n:
        outputs = batching.run((shape, lr.dtype, lr.device), range(done, n), noisy, f)
        done += len(outputs)
        scale = ratio((*shape[1:],), (*outputs.shape[-2:],))
        yield outputs[
            ...,
            output_slice(rows, scale, rows.offset),
            output_slice(columns, scale, columns.offset),
        ]


def ratio(lr: tuple[int, ...], sr: tuple[int, ...]) -> int:
    """Find the scale from the sides of an input and its output."""
    scale = sr[0] // lr[0]
    if scale < 1 or sr != (scale * lr[0], scale * lr[1]):
        raise ValueError(
            f"the model's output must be an integer multiple of its input, got {sr} from "
            f"{lr} pixels"
        )
    return scale


def output_slice(span: Span, scale: int, start: int) -> slice:
    """Where a tile's output pixels lie, if its first LR pixel is at start."""
    return slice(scale * start, scale * (start + span.stop - span.start))


def region(tile: Tile, scale: int) -> tuple[slice, slice]:
    """Where a tile lies in the whole output."""
    rows, columns = tile
    return output_slice(rows, scale, rows.start), output_slice(columns, scale, columns.start)


def smooth(
    f: Network,
    lr: Tensor,
    tiles: Sequence[Tile],
    sigma: float,
    n: int,
    rank: int | None,
    seed: int | None,
    batching: Batching,
    progress: Progress | None = None,
) -> Tensor:
    """Compute the rank-th smallest of n draws of every output value, or their mean if rank is None.

    Args:
        f: The predictor on patches.
        lr: One image (1,C,h,w).
        tiles: The grid, row by row.
        sigma: Noise standard deviation.
        n: Draws of every tile.
        rank: 1..n, or None.
        seed: None for fresh noise.
        batching: Chooses the batches.
        progress: Called with (draws done, draws in all), counted over tiles.

    Returns:
        (1,C,s*h,s*w), through which gradients flow.
    """
    source = noise.source(seed, lr.device, lr.dtype)
    parts = list[Tensor]()
    result: Tensor | None = None
    for index, tile in enumerate(tiles):
        outputs = draw(f, lr, index, tile, sigma, n, source, batching)
        outputs = _counted(outputs, index * n, len(tiles) * n, progress)
        value = _mean(outputs, n) if rank is None else _ranked(outputs, n, rank)
        if value.requires_grad:
            parts.append(value)
            continue
        scale = value.shape[-1] // (tile.columns.stop - tile.columns.start)
        if result is None:
            sides = (scale * lr.shape[2], scale * lr.shape[3])
            result = value.new_empty((*value.shape[:2], *sides))
        result[(..., *region(tile, scale))] = value
    return _joined(parts, tiles) if result is None else result


def _counted(
    batches: Iterator[Tensor], before: int, total: int, progress: Progress | None
) -> Iterator[Tensor]:
    """Hand batches on, and tell how many draws of all there have been."""
    for outputs in batches:
        before += len(outputs)
        if progress:
            progress(before, total)
        yield outputs


def _mean(batches: Iterator[Tensor], n: int) -> Tensor:
    """Average n outputs, which come in batches (b,C,H,W), to (1,C,H,W)."""
    return reduce(torch.add, (outputs.sum(0, keepdim=True) for outputs in batches)) / n


def _ranked(batches: Iterator[Tensor], n: int, rank: int) -> Tensor:
    """Find the rank-th smallest of n outputs, which come in batches (b,C,H,W): (1,C,H,W).

    All n are held once, unless gradients have to flow through them.
    """
    first = next(batches)
    if first.requires_grad:
        return order_statistics(torch.cat([first, *batches]), [rank])
    held, count = first.new_empty((n, *first.shape[1:])), 0
    for outputs in chain([first], batches):
        held[count : count + len(outputs)] = outputs
        count += len(outputs)
    return order_statistics(held, [rank])


def _joined(parts: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    """Put the tiles' outputs side by side, row by row; gradients flow."""
    rows: dict[int, list[Tensor]] = {}
    for part, tile in zip(parts, tiles, strict=True):
        rows.setdefault(tile.rows.start, []).append(part)
    return torch.cat([torch.cat(row, dim=-1) for row in rows.values()], dim=-2)


def quantiles(
    f: Network,
    lr: Tensor,
    tiles: Sequence[Tile],
    sigma: float,
    n: int,
    ranks: Sequence[int],
    seed: int | None,
    batching: Batching,
    progress: Progress | None = None,
) -> np.ndarray:
    """Compute order statistics of n draws of every output value, rounded to 8 bits (which commutes
    with ranks).

    Takes what `smooth` does, with several ranks. Memory, beyond the result, is that of one tile's
    draws.

    Returns:
        uint8 (len(ranks),C,s*h,s*w).
    """
    source = noise.source(seed, lr.device, lr.dtype)
    result: np.ndarray | None = None
    for index, tile in enumerate(tiles):
        store: _Draws | None = None
        for outputs in draw(f, lr, index, tile, sigma, n, source, batching):
            store = store or _Draws(n, outputs[0])
            # As forward returns it: in the precision of lr, which is lower than that of the draws
            # where lr is bfloat16.
            store.add(outputs.to(lr.dtype).to(outputs.dtype).mul(255).round().byte())
            if progress:
                progress(index * n + store.count, len(tiles) * n)
        if store is None:
            raise ValueError(f"n must be at least 1, got {n}")
        statistics = store.ranks(ranks)
        scale = statistics.shape[-1] // (tile.columns.stop - tile.columns.start)
        if result is None:
            result = np.empty(
                (len(ranks), statistics.shape[1], scale * lr.shape[2], scale * lr.shape[3]),
                np.uint8,
            )
        result[(..., *region(tile, scale))] = statistics
    if result is None:
        raise ValueError("there is no tile to draw")
    return result


class _Draws:
    """One tile's draws in 8 bits: side by side up to DIRECT of them, beyond that a histogram of
    each value.
    """

    def __init__(self, n: int, like: Tensor) -> None:
        self.n, self.shape, self.count, self.held = n, (*like.shape,), 0, 0
        self.block = torch.empty(
            (min(n, DIRECT), like.numel()), dtype=torch.uint8, device=like.device
        )
        self.histogram = np.zeros((like.numel() if n > DIRECT else 0, 256), np.uint32)

    def add(self, outputs: Tensor) -> None:
        for part in outputs.flatten(1).split(len(self.block)):
            if self.held + len(part) > len(self.block):
                self._flush()
            self.block[self.held : self.held + len(part)] = part
            self.held += len(part)
        self.count += len(outputs)

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
