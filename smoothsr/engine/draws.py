"""The engine: draws of a base predictor under Gaussian noise, tile by tile.

For each tile, noise goes on the patch's real pixels, the noisy patch is completed by reflection,
the predictor runs on batches of such patches, of one tile or of several, and the outputs are
cropped to their tiles. What happens to a tile's draws is up to who asks: `smooth` keeps one
statistic of few draws, `observe` shows many draws to observers such as `quantiles.Quantiles` and
`moments.Moments`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from itertools import chain, groupby
from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor

from smoothsr.engine import lattice, noise
from smoothsr.engine.batching import Batching, Kind
from smoothsr.engine.noise import Noise
from smoothsr.engine.order_statistics import order_statistics
from smoothsr.engine.side_by_side import Progress, among
from smoothsr.engine.tiles import Tile, output_slice, output_slices, ratio

__all__ = [
    "Network",
    "NotFiniteError",
    "Observer",
    "Progress",
    "Sampler",
    "completed",
    "observe",
    "require_finite",
    "smooth",
    "statistics",
]

Network = Callable[[Tensor, Tensor], Tensor]
"""A base predictor: (noisy patches (b,C,h,w), standard deviation of their noise) to outputs
(b,C,s*h,s*w). The deviation is (b,1,h,w), or of no axes where all pixels have the same.
"""


class NotFiniteError(ValueError):
    """An output has NaN or infinite values."""


def require_finite(outputs: Tensor) -> None:
    """Refuse outputs that are not numbers, before a clamp would hide infinite values.

    A finite sum has finite terms, and is one fast pass; an infinite one may be of huge terms.

    Raises:
        NotFiniteError: If so.
    """
    total = outputs.sum(dtype=None if outputs.dtype == torch.float64 else torch.float32)
    if not (total.isfinite() or outputs.isfinite().all()):
        raise NotFiniteError(
            "the model's output has NaN or infinite values; check its precision and its input range"
        )


class Sampler:
    """One image and all that its draws depend on.

    Args:
        f: The base predictor.
        lr: One image (1,C,h,w).
        tiles: The grid, row by row.
        how: What noise is added.
        batching: Chooses the batches.
    """

    def __init__(
        self,
        f: Network,
        lr: Tensor,
        tiles: Sequence[Tile],
        how: Noise,
        batching: Batching,
    ) -> None:
        self.f, self.lr, self.tiles, self.how, self.batching = f, lr, tiles, how, batching
        # Half precision would round the sums; what a network makes of them is another matter.
        self.exact = torch.float64 if how.on_lattice or lr.dtype == torch.float64 else torch.float32
        self.device = noise.device_of(lr.device, self.exact)
        self.source: noise.Source = noise.source(how.seed, self.device, self.exact, how.antithetic)
        self.add = lattice.noisy if how.on_lattice else noise.noisy
        self.places: Sequence[int] = range(len(tiles))

    def only(self, places: Sequence[int]) -> "Sampler":
        """Return the sampler of some of the tiles, whose noise is what it was among all."""
        other = copy.copy(self)
        other.tiles = [self.tiles[place] for place in places]
        other.places = [self.places[place] for place in places]
        return other

    def by(self, f: Network) -> "Sampler":
        """Return the sampler of the same tiles whose draws another predictor makes."""
        other = copy.copy(self)
        other.f = f
        return other

    def after(self, first: int) -> "Sampler":
        """Return the sampler whose draws follow the first so many of this one."""

        def later(tile: int, draws: range, shape: tuple[int, ...]) -> Tensor:
            return self.source(tile, range(draws.start + first, draws.stop + first), shape)

        other = copy.copy(self)
        other.source = later
        return other

    def draws(self, n: int) -> Iterator[tuple[int, Tensor]]:
        """Yield n outputs of every tile, tile by tile, as (the tile's place in the grid, some
        outputs (b,C,H,W) cropped to it).

        The patches of a grid are all alike, so a batch that the network runs goes on with the next
        tile's draws where those of one end.

        Raises:
            ValueError: If f's output is no integer multiple of its input's size.
        """
        done, total = 0, n * len(self.tiles)
        while done < total:
            rows, columns = self.tiles[0]
            sides = (len(rows.gather), len(columns.gather))
            kind = Kind((self.lr.shape[1], *sides), self.lr.dtype, self.lr.device, among())
            make = partial(self._noisy, n)
            outputs = self.batching.run(kind, range(done, total), make, partial(self._run, n, done))
            parts = [*by_tile(range(done, done + len(outputs)), n)]
            done += len(outputs)
            scale = ratio(sides, (*outputs.shape[-2:],))
            sizes = [len(draws) for _, draws in parts]
            for (index, _), part in zip(parts, outputs.split(sizes), strict=True):
                down, across = (output_slice(s, scale, s.offset) for s in self.tiles[index])
                yield index, part[..., down, across]

    def _run(self, n: int, first: int, patches: Tensor) -> Tensor:
        """Run f on the noisy patches (b,C,h,w) of places in the sequence from the first on."""
        if self.how.halo_noise == 1:
            return self.f(patches, patches.new_tensor(self.how.sigma))
        parts = by_tile(range(first, first + len(patches)), n)
        sigmas = [self._sigma_map(index).expand(len(draws), -1, -1, -1) for index, draws in parts]
        return self.f(patches, torch.cat(sigmas).to(patches))

    def _noisy(self, n: int, positions: range) -> Tensor:
        """Make the noisy patches (b,C,h,w) of some places in the sequence of n draws a tile."""
        return torch.cat([self._noisy_of(*part) for part in by_tile(positions, n)])

    def _noisy_of(self, index: int, draws: range) -> Tensor:
        """Make noisy patches of one tile, whose noise depends on its place in the grid."""
        rows, columns = tile = self.tiles[index]
        place = self.places[index]
        patch = self.lr[..., rows.first : rows.last, columns.first : columns.last].to(self.device)
        # The sum is made in float32 or better; what a network of lower precision makes of it is
        # part of the predictor.
        noisy = self.add(patch, self.source(place, draws, (*patch.shape[1:],)), self._sigma(tile))
        return completed(noisy, tile).to(self.lr)

    def _sigma_map(self, index: int) -> Tensor:
        """The noise's standard deviation on a tile's completed patch, (1,1,h,w)."""
        tile = self.tiles[index]
        return completed(torch.as_tensor(self._sigma(tile))[None, None], tile)

    def _sigma(self, tile: Tile) -> float | Tensor:
        """The noise's standard deviation on a patch: one number, or (h,w) if the halo differs."""
        if self.how.halo_noise == 1:
            return self.how.sigma
        sides = [span.last - span.first for span in tile]
        wide = self.how.halo_noise * self.how.sigma
        sigma = torch.full(sides, wide, dtype=self.exact, device=self.device)
        rows, columns = (slice(s.start - s.first, s.stop - s.first) for s in tile)
        sigma[rows, columns] = self.how.sigma
        return sigma


def completed(patch: Tensor, tile: Tile) -> Tensor:
    """Continue the real pixels (b,C,h,w) of a tile's patch beyond the image, as its spans say."""
    if not tile.padded:
        return patch
    down, across = (torch.tensor(span.gather, device=patch.device) for span in tile)
    return patch.index_select(2, down).index_select(3, across)


class Observer(Protocol):
    """Keeps what it needs of draws that pass by, tile by tile."""

    def add(self, outputs: Tensor) -> None:
        """Take draws (b,C,H,W) of the current tile."""

    def finish(self, tile: Tile) -> None:
        """Take note that these were all of the tile's draws."""


def smooth(sampler: Sampler, n: int, rank: int | None, progress: Progress | None = None) -> Tensor:
    """Compute the rank-th smallest of n draws of every output value, or their mean.

    Args:
        sampler: Makes the draws.
        n: Draws of every tile.
        rank: 1..n, or None for the mean.
        progress: Called after each batch.

    Returns:
        (1,C,s*h,s*w), through which gradients flow.
    """
    parts = list[Tensor]()
    result: Tensor | None = None
    for tile, value in statistics(sampler, n, rank, progress):
        if value.requires_grad:
            parts.append(value)
            continue
        scale = value.shape[-1] // (tile.columns.stop - tile.columns.start)
        if result is None:
            height, width = (scale * side for side in sampler.lr.shape[2:])
            result = value.new_empty((*value.shape[:2], height, width))
        result[(..., *output_slices(tile, scale))] = value
    return _joined(parts, sampler.tiles) if result is None else result


def statistics(
    sampler: Sampler, n: int, rank: int | None, progress: Progress | None = None
) -> Iterator[tuple[Tile, Tensor]]:
    """Yield each tile with the statistic (1,C,H,W) of its n draws that `smooth` computes."""
    for tile, outputs in _tile_by_tile(sampler, n, progress):
        yield tile, _mean(outputs, n) if rank is None else _ranked(outputs, n, rank)


def _tile_by_tile(
    sampler: Sampler, n: int, progress: Progress | None
) -> Iterator[tuple[Tile, Iterator[Tensor]]]:
    """Yield each tile with its n outputs, which come in batches, and tell how far they are."""

    def counted() -> Iterator[tuple[int, Tensor]]:
        done = 0
        for index, outputs in sampler.draws(n):
            done += len(outputs)
            if progress:
                progress(done, len(sampler.tiles) * n)
            yield index, outputs

    for index, group in groupby(counted(), key=itemgetter(0)):
        yield sampler.tiles[index], (outputs for _, outputs in group)


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
    # Laid out as the outputs are, which are then copied as they lie in memory.
    held, count = torch.empty_like(first[:1].expand(n, -1, -1, -1)), 0
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


def observe(
    sampler: Sampler, n: int, observers: Sequence[Observer], progress: Progress | None = None
) -> None:
    """Show n draws of every tile to each observer; memory is what they keep.

    Args:
        sampler: Makes the draws.
        n: Draws of every tile, at least 1.
        observers: Are shown all of them.
        progress: Called after each batch.

    Raises:
        ValueError: If n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    for tile, outputs in _tile_by_tile(sampler, n, progress):
        for batch in outputs:
            for observer in observers:
                observer.add(batch)
        for observer in observers:
            observer.finish(tile)


def by_tile(positions: range, n: int) -> Iterator[tuple[int, range]]:
    """Cut a run of places in the sequence of n draws a tile into (tile, which of its draws).

    Example:
        >>> [*by_tile(range(3, 8), 5)]
        [(0, range(3, 5)), (1, range(0, 3))]
    """
    for index in range(positions.start // n, -(-positions.stop // n)):
        first, last = positions.start - index * n, positions.stop - index * n
        yield index, range(max(0, first), min(n, last))
