"""What shared draws show, band by band of a tile's rows, kept in part files: statistics that
processes share as they do the draws.
"""

from smoothsr.certificates.draw_parts import DrawParts
from smoothsr.certificates.evidence import Evidence

__all__ = ["BandParts", "bands_of"]

BANDS = 8  # that a tile is cut into


def bands_of(n: int, values: int) -> int:
    """Return into how many bands n draws of a tile of so many values are cut, or 1 where products
    of all draws, which each band keeps, would be more than the draws themselves.
    """
    return BANDS if values >= 4 * BANDS * n else 1


class BandParts:
    """The statistics of all bands.

    Args:
        evidence: Makes them, and takes them at the end.
        draws: Of which they are made.
        bands: Into how many a tile is cut.
    """

    def __init__(self, evidence: Evidence, draws: DrawParts, bands: int) -> None:
        self.evidence, self.draws, self.parts, self.bands = evidence, draws, draws.parts, bands
        self._places = {
            f"{draws.key}_band_{index}_{band}": (index, band)
            for index in range(len(draws.tiles))
            for band in range(bands)
        }

    def share(self) -> None:
        """Make this process's share of them, or all that are missing if no process waits."""
        names = [*self._places]
        for name in self.parts.share(names) if self.parts.together else self.parts.missing(names):
            draws = self.draws.of_band(*self._places[name], self.bands)
            self.parts.add(name, self.evidence.of_band(draws))

    def join(self) -> None:
        """Give the evidence what is kept of all bands.

        Raises:
            NotLastError: If another process does so.
        """
        self.parts.wait_to_join([*self._places])
        for index, tile in enumerate(self.draws.tiles):
            names = [name for name, place in self._places.items() if place[0] == index]
            self.evidence.put(tile, self.evidence.of_bands(tile, map(self.parts.read, names)))
