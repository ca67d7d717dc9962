"""Draws kept in part files, in blocks, so that processes share the draws of one tile: of a whole
image, that is, where it is not cut into tiles.

The blocks are joined as if one process had made them: whatever is made of draws, order statistics
and moments, is the same. Who needs all draws of some rows reads no others.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from smoothsr.engine.draws import Progress, Sampler
from smoothsr.files.parts import Parts

__all__ = ["DrawParts", "served_parts", "share_draws"]

BLOCKS = 64  # about so many are made of an image, however many processes there are


class DrawParts(Sampler):
    """A sampler whose draws are in files, float32 or wider: n times the output on the disk.

    Args:
        sampler: Makes them.
        n: Draws of every tile.
        parts: The files.
        key: Tells all that the draws depend on but tile and block.
        step: Blocks have a multiple of so many draws, but for the last one of a tile.
    """

    def __init__(self, sampler: Sampler, n: int, parts: Parts, key: str, step: int = 1) -> None:
        vars(self).update(vars(sampler))
        self.sampler, self.n, self.parts, self.key = sampler, n, parts, key
        blocks = max(1, BLOCKS // len(sampler.tiles)) * step
        self.size = step * -(-n // blocks)
        self._blocks = {
            self._name(index, first): (index, first)
            for first in range(0, n, self.size)
            for index in range(len(sampler.tiles))
        }

    @property
    def names(self) -> list[str]:
        """The names of all parts."""
        return [*self._blocks]

    @property
    def begun(self) -> bool:
        """Whether any part is there."""
        return len(self.parts.missing(self.names)) < len(self.names)

    @torch.no_grad()
    def make(self, name: str) -> int:
        """Make a part; return how many draws it has."""
        index, first = self._blocks[name]
        block = self.sampler.only([self.places[index]]).after(first)
        count = min(self.size, self.n - first)
        draws = torch.cat([outputs for _, outputs in block.draws(count)])
        self.parts.add(name, draws.contiguous().cpu().numpy())
        return count

    def draws(self, n: int) -> Iterator[tuple[int, Tensor]]:
        """Yield what is kept as `Sampler.draws` does.

        Raises:
            OSError: If a part is missing.
            ValueError: If n is not the number of draws that were made.
        """
        if n != self.n:
            raise ValueError(f"{self.n} draws are kept, asked for {n}")
        for index, first in product(range(len(self.tiles)), range(0, n, self.size)):
            draws = np.array(self.parts.array(self._name(index, first)))
            yield index, torch.from_numpy(draws).to(self.lr.device)

    def of_band(self, index: int, band: int, bands: int) -> Tensor:
        """Return all draws (n,C,h,W) of one of the bands that a tile's rows are cut into."""
        blocks = [self._name(index, first) for first in range(0, self.n, self.size)]
        arrays = [self.parts.array(block) for block in blocks]
        first, last = (arrays[0].shape[2] * edge // bands for edge in (band, band + 1))
        found = np.concatenate([array[:, :, first:last] for array in arrays])
        return torch.from_numpy(found).to(self.lr.device)

    def _name(self, index: int, first: int) -> str:
        return f"{self.key}_draws_{index}_{first}"


def served_parts(sampler: Sampler, n: int, rank: int | None, parts: Parts, key: str) -> DrawParts:
    """Keep the draws that a rank is served of, or, where it is None, the mean: in blocks that tear
    no pair of draws apart.
    """
    return DrawParts(sampler, n, parts, f"{key}_served", step=2 if rank is None else 1)


def share_draws(samplers: Sequence[DrawParts], progress: Progress | None = None) -> list[str]:
    """Make this process's share of the draws; return the names of all."""
    parts = samplers[0].parts
    makers = {name: sampler for sampler in samplers for name in sampler.names}
    total = sum(sampler.n * len(sampler.tiles) for sampler in samplers) // parts.ranks
    done = 0
    for name in parts.share([*makers]):
        done += makers[name].make(name)
        if progress:
            progress(done, max(done, total))
    return [*makers]
