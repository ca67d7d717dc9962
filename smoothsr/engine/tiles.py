"""Integer geometry of tiles: which pixels a patch reads, which it yields, and how often a pixel is
read.

Along each axis the output is cut into runs of `tile` pixels, the last one shorter. The patch of a
tile is the tile and `halo` pixels on either side. Where that reaches beyond the image, the patch is
completed by reflecting its own real pixels, bouncing as often as needed, so that all patches of an
image have one shape. Or it is moved into the image, so that the network meets the image's edge as
it does in the whole image, at the cost of pixels that more patches read. Outputs are cropped to
their tiles, never blended: they partition the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Span", "Tile", "grid", "multiplicity", "output_slice", "output_slices", "ratio"]


REFLECTIONS = 4  # how often a patch may repeat the image on each side: more is a mistake


class Span(NamedTuple):
    """One tile along one axis, in LR pixels: yields start..stop, reads the real pixels first..last.

    `gather` lists for each position of the completed patch an index into first..last; start is at
    position `offset` of it.
    """

    start: int
    stop: int
    first: int
    last: int
    offset: int
    gather: tuple[int, ...]


class Tile(NamedTuple):
    """One tile: its spans along rows and columns."""

    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        """How many real pixels the patch reads."""
        return (self.rows.last - self.rows.first) * (self.columns.last - self.columns.first)

    def weight(self, halo_noise: float) -> float:
        """Sum over the patch's real pixels of sigma^2 over the variance of their noise, which is
        halo_noise times sigma beyond the tile.
        """
        rows, columns = (span.stop - span.start for span in self)
        return rows * columns + (self.pixels - rows * columns) / halo_noise**2

    @property
    def padded(self) -> bool:
        """Whether the patch reaches beyond the image."""
        return any(len(span.gather) != span.last - span.first for span in self)


def grid(
    height: int, width: int, tile: int | None, halo: int, *, inside: bool = False
) -> list[Tile]:
    """Cut an image into tiles, row by row; tile None gives one that is the whole image.

    Args:
        height: Of the image.
        width: Of the image.
        tile: Side of the tiles.
        halo: What patches read beyond their tile on every side.
        inside: Whether patches that reach beyond the image are moved into it, rather than completed
            by reflection.

    Raises:
        ValueError: If halo is many times the image, so that patches are reflections alone.

    Example:
        >>> [t.columns.gather for t in grid(1, 5, 4, 2)]
        [(2, 1, 0, 1, 2, 3, 4, 3), (0, 1, 2, 1, 0, 1, 2, 1)]
    """
    most = REFLECTIONS * max(height, width)
    if tile is not None and tile < max(height, width) and halo > most:
        raise ValueError(
            f"halo must be at most {most} for an image of {width}x{height} pixels, got {halo}"
        )
    cut = spans_inside if inside else spans
    return [
        Tile(rows, columns)
        for rows in cut(height, tile, halo)
        for columns in cut(width, tile, halo)
    ]


def spans(length: int, tile: int | None, halo: int) -> list[Span]:
    """Cut one axis; an axis no longer than a tile is one span, which needs no halo."""
    if tile is None or length <= tile:
        return [Span(0, length, 0, length, 0, tuple(range(length)))]
    cut = []
    for start in range(0, length, tile):
        first, last = max(0, start - halo), min(length, start + tile + halo)
        gather = tuple(
            reflect(i - first, last - first) for i in range(start - halo, start + tile + halo)
        )
        cut.append(Span(start, min(start + tile, length), first, last, halo, gather))
    return cut


def spans_inside(length: int, tile: int | None, halo: int) -> list[Span]:
    """Cut one axis as `spans` does, with every patch inside the image.

    Example:
        >>> [(span.first, span.last, span.offset) for span in spans_inside(10, 4, 1)]
        [(0, 6, 0), (3, 9, 1), (4, 10, 4)]
    """
    if tile is None or length <= tile:
        return spans(length, tile, halo)
    side = min(length, tile + 2 * halo)
    cut = []
    for start in range(0, length, tile):
        first = min(max(0, start - halo), length - side)
        stop = min(start + tile, length)
        cut.append(Span(start, stop, first, first + side, start - first, tuple(range(side))))
    return cut


def reflect(index: int, length: int) -> int:
    """Mirror an index into 0..length-1 without repeating the border, as often as needed."""
    if length == 1:
        return 0
    index %= 2 * (length - 1)
    return min(index, 2 * (length - 1) - index)


def multiplicity(tiles: Sequence[Tile], halo_noise: float = 1.0) -> float:
    """M: the largest number of patches that one input pixel belongs to, of which all but its own
    tile's count by 1 over the square of halo_noise.
    """
    most = 1
    for axis in (0, 1):
        reads = {tile[axis].start: (tile[axis].first, tile[axis].last) for tile in tiles}.values()
        # How many intervals cover a pixel is largest at the first pixel of one of them.
        most *= max(sum(a <= first < b for a, b in reads) for first, _ in reads)
    return 1 + (most - 1) / halo_noise**2


def ratio(lr: tuple[int, ...], sr: tuple[int, ...]) -> int:
    """Find the scale from the sides of an input and its output."""
    scale = sr[0] // lr[0]
    if scale < 1 or sr != (scale * lr[0], scale * lr[1]):
        raise ValueError(
            f"the model's output must be an integer multiple of its input, got {sr} from {lr} "
            "pixels"
        )
    return scale


def output_slice(span: Span, scale: int, start: int) -> slice:
    """Where a tile's output pixels lie along an axis, if its first LR pixel is at start."""
    return slice(scale * start, scale * (start + span.stop - span.start))


def output_slices(tile: Tile, scale: int) -> tuple[slice, slice]:
    """Where a tile's pixels lie in the image's output: rows and columns."""
    rows, columns = tile
    return output_slice(rows, scale, rows.start), output_slice(columns, scale, columns.start)
