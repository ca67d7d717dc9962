"""What the draws of each tile have shown, kept in part files: a certificate that processes share,
and that goes on where it was.
"""

import copy
from collections.abc import Sequence

from torch import Tensor

from smoothsr.certificates.evidence import Evidence
from smoothsr.engine.tiles import Tile
from smoothsr.files.parts import Parts

__all__ = ["TileParts"]


class TileParts:
    """An observer that keeps what each tile's draws have shown in a file of its own.

    Args:
        evidence: Shows it, and takes it back at the end.
        parts: The files.
        key: Tells all that the draws depend on but the tile.
        tiles: The whole grid.
    """

    def __init__(self, evidence: Evidence, parts: Parts, key: str, tiles: Sequence[Tile]) -> None:
        self.evidence, self.parts, self.failed = evidence, parts, f"{key}_failed"
        self.names = {tile: f"{key}_tile_{place}" for place, tile in enumerate(tiles)}

    def beside(self) -> "TileParts":
        """Return an observer of other tiles, which are drawn at the same time."""
        other = copy.copy(self)
        other.evidence = self.evidence.beside()
        return other

    @property
    def begun(self) -> bool:
        """Whether any part is there."""
        return len(self.parts.missing([*self.names.values()])) < len(self.names)

    def share(self) -> list[int]:
        """Return the places in the grid of the tiles that this process has still to draw."""
        mine = {*self.parts.share([*self.names.values()])}
        return [place for place, name in enumerate(self.names.values()) if name in mine]

    def add(self, outputs: Tensor) -> None:
        """Take draws (b,C,H,W) of the current tile, values in [0, 1]."""
        self.evidence.add(outputs)

    def finish(self, tile: Tile) -> None:
        """Keep what the draws of the current tile have shown, unless it is there already."""
        self.parts.add(self.names[tile], self.evidence.take(tile))

    def void(self) -> None:
        """Keep that an output was not finite: to draw it again would choose among draws."""
        self.parts.add(self.failed, {})

    def join(self) -> None:
        """Give the evidence what is kept of all tiles.

        Raises:
            NotLastError: If another process does so.
        """
        self.parts.wait_to_join([*self.names.values()])
        for tile, name in self.names.items():
            self.evidence.put(tile, self.parts.read(name))
