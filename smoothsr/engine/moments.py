"""Moments of a tile's outputs about a centre: what the spectral certificate of the mean is made of.

The first draws of a tile, its pilot draws, fix a centre and a radius, and are not used again. Every
later draw is shortened to that radius, so that its moments can be bounded with known confidence
from the draws alone; how far draws lie beyond the radius is kept apart. Why these numbers are
enough: docs/spectral.md.

References: N. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.5 (rounding
errors of products); R. Freivalds, "Probabilistic machines can use less running time", 1977 (the
check of products).
"""

import math
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from smoothsr.engine.eigenvalue import largest_eigenvalue
from smoothsr.engine.tiles import Tile, output_slices

__all__ = [
    "BandMoments",
    "Centre",
    "MomentSum",
    "Moments",
    "TileMoments",
    "mean_of",
    "moments_of_band",
    "moments_of_tile",
    "pilot",
]

MARGIN = 1.25  # a tile's radius, in largest distances of its pilot draws
FLOOR = 1e-3  # least radius, as a root mean square over values: a quarter of an 8-bit step
BLOCK = 1024  # draws held as they are while a second moment is summed up
CHUNK = 4096  # products that are summed in the precision of the rows
ADDED = 32  # draws that are summed in their own precision
WIDENED = 2**18  # values that are brought to the widest precision at a time
FAR_LESS = 1 / 8  # of the errors that are allowed for: float32 makes fewer, but of a few values
STRIPES = 6  # of a symmetric product, each computed up to its diagonal: 7/12 of all sums


class Centre(NamedTuple):
    """What the pilot draws of a tile fix.

    Attributes:
        values: (m,), the mean of the pilot draws, float64.
        radius: R, to which later draws are shortened, greater than 0.
        reach: The farthest that an output with values in [0, 1] can be from the centre.
        weight: 1 over the root of the mean fourth power of the pilot draws' distances.
    """

    values: Tensor
    radius: float
    reach: float
    weight: float


class TileMoments(NamedTuple):
    """What the certification draws of T tiles have shown; arrays are (T,), for values in [0, 1].

    F is a draw of a tile, c its centre, R its radius; Z is F - c, shortened to length R where it is
    longer.

    Attributes:
        n: Certification draws of each tile, at least 1.
        radius: R, fixed before the certification draws.
        reach: The farthest that an output can be from c.
        weight: Fixed before the certification draws, greater than 0.
        top: At least the largest eigenvalue of the mean of Z Z^T over the draws.
        clipped: Sum over the draws of how far beyond R they lie, as a share of reach - R: 1 for a
            draw at full reach. A mere count of the draws beyond R is sound too, and weaker.
        fourth: Sum over the draws of ||Z||^4.
    """

    n: int
    radius: np.ndarray
    reach: np.ndarray
    weight: np.ndarray
    top: np.ndarray
    clipped: np.ndarray
    fourth: np.ndarray


def pilot(draws: Tensor) -> Centre:
    """Choose centre, radius and weight of a tile from its pilot draws, to be used for nothing else.

    Any choice is sound; this one makes certificates strong. A tile whose pilot draws are all alike
    gets the radius of a root mean square of 0.001, below what 8 bits show.

    Args:
        draws: (n,m), values in [0, 1].

    Example:
        >>> pilot(torch.tensor([[0.5, 0.4], [0.5, 0.6]])).radius
        0.125...
    """
    centre = mean_of(draws)
    distances = _lengths(draws - centre.to(draws.dtype))
    return Centre(centre, *_sizes(distances, _reach(centre), draws.shape[1]))


class MomentSum:
    """The moments of one tile's certification draws, added batch by batch.

    Holds the draws as they are where there are no more of them than values, for their matrix of
    inner products, and otherwise the matrix of second moments. Both have the same largest
    eigenvalue.

    Args:
        centre: From `pilot`.
        n: How many draws there will be.
    """

    def __init__(self, centre: Centre, n: int) -> None:
        self.centre, self.n = centre, n
        self._by_draw = n <= len(centre.values)
        self._rows: Tensor | None = None
        self._second: Tensor | None = None
        self._held = self._count = 0
        self._clipped, self._fourth, self._trace = 0.0, 0.0, 0.0

    def add(self, draws: Tensor) -> None:
        """Add draws (b,...) of m values each."""
        if self._rows is None:
            count = self.n if self._by_draw else min(self.n, BLOCK)
            dtype = draws.dtype if draws.device.type == "cpu" else _exact(draws)
            self._rows = draws.new_empty((count, len(self.centre.values)), dtype=dtype)
            self._origin = self.centre.values.to(dtype).view(draws.shape[1:])
        self._count += len(draws)
        if self._count > self.n:
            raise ValueError(f"there must be {self.n} draws, got {self._count}")
        for part in draws.split(len(self._rows)):
            if self._held + len(part) > len(self._rows):
                self._reduce(self._rows)
            rows = self._rows[self._held : self._held + len(part)]
            self._held += len(part)
            torch.sub(part, self._origin, out=rows.view(part.shape))
            self._shorten(rows)

    def result(self) -> tuple[float, float, float]:
        """Return (top, clipped, fourth) as `TileMoments` has them."""
        if self._rows is None or self._count != self.n:
            raise ValueError(f"there must be {self.n} draws, got {self._count}")
        matrix = _gram(self._rows[: self._held]) if self._by_draw else self._reduce(self._rows)
        terms = self._rows.shape[1] if self._by_draw else self.n
        rounding = _rounding(terms, self._rows.dtype) * self._trace
        top = (largest_eigenvalue(matrix) + rounding) / self.n
        clipped = _share(self._clipped, self.centre.radius, self.centre.reach)
        return top, clipped, self._fourth

    def _shorten(self, rows: Tensor) -> None:
        """Turn draws about the centre into Z, in place, and take note of their lengths."""
        lengths = _lengths(rows)
        kept = lengths.clamp_max(self.centre.radius)
        beyond = lengths > kept
        if bool(beyond.any()):
            rows[beyond] *= (kept[beyond] / lengths[beyond]).to(rows.dtype)[:, None]
        self._clipped += float((lengths - kept).sum())
        self._fourth += float((kept**4).sum())
        self._trace += float((kept**2).sum())

    def _reduce(self, rows: Tensor) -> Tensor:
        """Move the rows that are held into the second moment."""
        product = _gram(rows[: self._held].T.contiguous())
        self._second = product if self._second is None else self._second.add_(product)
        self._held = 0
        return self._second


class BandMoments(NamedTuple):
    """What p pilot draws and n more show of a band of a tile's values; nothing is shortened, since
    that takes the whole lengths. Arrays are float64.

    Attributes:
        values: (), how many there are.
        reach: (), the farthest that an output can be from the mean of the pilot draws, squared.
        distances: (p,), of the pilot draws to that mean, squared.
        lengths: (n,), of the other draws about that mean, squared.
        products: (n,n), inner products of these.
        rounding: (), what the products are off by at most, in products of lengths.
    """

    values: np.ndarray
    reach: np.ndarray
    distances: np.ndarray
    lengths: np.ndarray
    products: np.ndarray
    rounding: np.ndarray

    def and_of(self, other: "BandMoments") -> "BandMoments":
        """Return the moments of two bands together."""
        sums = BandMoments(*(one + two for one, two in zip(self, other, strict=True)))
        return sums._replace(rounding=np.maximum(self.rounding, other.rounding))


def moments_of_band(draws: Tensor, pilots: int) -> BandMoments:
    """Compute what all draws (p + n,...) show of a band of a tile's values, p of them pilots; the
    draws may be overwritten.
    """
    flat = draws.flatten(1).to(draws.dtype if draws.device.type == "cpu" else _exact(draws))
    centre = mean_of(flat[:pilots])
    rows = flat.sub_(centre.to(flat.dtype))
    squares = (_lengths(rows) ** 2).double().cpu().numpy()
    return BandMoments(
        np.array(rows.shape[1]),
        np.array(_reach(centre) ** 2),
        squares[:pilots],
        squares[pilots:],
        _gram(rows[pilots:]).double().cpu().numpy(),
        np.array(_rounding(rows.shape[1], rows.dtype)),
    )


def moments_of_tile(whole: BandMoments) -> np.ndarray:
    """Return the row of `TileMoments` (6,) that all bands of a tile make together."""
    distances = torch.from_numpy(whole.distances).sqrt()
    sizes = _sizes(distances, math.sqrt(whole.reach), float(whole.values))
    radius, reach, _ = sizes
    lengths = torch.from_numpy(whole.lengths).sqrt()
    kept = lengths.clamp_max(radius)
    shares = torch.where(lengths > kept, kept / lengths, 1)
    matrix = torch.from_numpy(whole.products) * shares * shares[:, None]
    top = largest_eigenvalue(matrix) + float(whole.rounding) * float((kept**2).sum())
    clipped = _share(float((lengths - kept).sum()), radius, reach)
    return np.array([*sizes, top / len(kept), clipped, float((kept**4).sum())])


class Moments:
    """An observer that keeps the moments of every tile, and the mean of its certification draws.

    Memory, beyond the mean, is that of one tile's draws.

    Args:
        n: Draws of every tile, the pilot draws included.
        pilots: How many of them are pilot draws, at least 1 and less than n.
        lr_sides: (h,w) of the input.
    """

    def __init__(self, n: int, pilots: int, lr_sides: tuple[int, int]) -> None:
        if not 1 <= pilots < n:
            raise ValueError(f"pilots must be from 1 to n - 1 = {n - 1}, got {pilots}")
        self.n, self.pilots, self.lr_sides = n, pilots, lr_sides
        self._rows: dict[Tile, list[float]] = {}
        self._mean: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()
        self._first: list[Tensor] = []
        self._sum: MomentSum | None = None
        self._total: Tensor | float = 0.0

    def beside(self) -> "Moments":
        """Return an observer of as many draws for tiles that are drawn at the same time."""
        return Moments(self.n, self.pilots, self.lr_sides)

    def add(self, outputs: Tensor) -> None:
        """Take draws (b,C,H,W) of the current tile, values in [0, 1]."""
        self._shape = (*outputs.shape[1:],)
        if self._sum is None:
            missing = self.pilots - sum(map(len, self._first))
            self._first.append(outputs[:missing].flatten(1))
            outputs = outputs[missing:]
            if not len(outputs):
                return
            self._begin()
        if self._sum and len(outputs):
            self._sum.add(outputs)
            self._total = self._total + outputs.sum(0).to(_exact(outputs))

    def finish(self, tile: Tile) -> None:
        """Keep the tile's moments and mean."""
        self.put(tile, *self.take())

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute what the current tile's draws have shown, and forget them.

        Returns:
            The tile's row of `TileMoments` (6,), and the mean of its draws, float32 (C,H,W).
        """
        if self._sum is None:
            raise ValueError("a tile was finished before its certification draws")
        row = np.array([*self._sum.centre[1:], *self._sum.result()])
        mean = torch.as_tensor(self._total / self._sum.n).float().view(self._shape).cpu().numpy()
        self._sum, self._total = None, 0.0
        return row, mean

    def put(self, tile: Tile, row: np.ndarray, mean: np.ndarray) -> None:
        """Keep what `take` returned of a tile."""
        # Numbers alone: what shares memory with a tile's draws would keep them, and small pieces
        # all over the heap keep what lies between them from being used again.
        self._rows[tile] = row.tolist()
        scale = mean.shape[-1] // (tile.columns.stop - tile.columns.start)
        if self._mean is None:
            height, width = (scale * side for side in self.lr_sides)
            self._mean = np.empty((1, len(mean), height, width), np.float32)
        self._mean[(..., *output_slices(tile, scale))] = mean

    @property
    def mean(self) -> np.ndarray:
        """The mean of the certification draws: float32 (1,C,s*h,s*w)."""
        if self._mean is None:
            raise ValueError("there are no draws")
        return self._mean

    @property
    def tiles(self) -> TileMoments:
        """The moments of all tiles, row by row of the grid."""
        rows = [self._rows[tile] for tile in sorted(self._rows)]
        return TileMoments(self.n - self.pilots, *np.array(rows).T)

    def _begin(self) -> None:
        """Fix the centre, once the pilot draws are there."""
        self._sum = MomentSum(pilot(torch.cat(self._first)), self.n - self.pilots)
        self._first = []


def _gram(rows: Tensor) -> Tensor:
    """Compute all inner products of rows (a,b): (a,a), in float64 where there is such."""
    if rows.device.type not in ("cpu", "mps"):
        return rows @ rows.T
    rows = rows.cpu()
    with torch.autocast("cpu", enabled=False):  # which is meant for the network
        product = _by_stripes(rows)
        if rows.dtype == torch.float32 and not _accurate(product, rows):
            return _by_stripes(rows.double())
        return product


def _by_stripes(rows: Tensor) -> Tensor:
    """Compute all inner products of rows (a,b) on the CPU: (a,a), float64."""
    product = rows.new_zeros((len(rows), len(rows)), dtype=torch.float64)
    step = math.ceil(len(rows) / STRIPES)
    for first in range(0, len(rows), step):
        last = first + step
        for part in rows.split(CHUNK, dim=1):  # whose sums are float64
            product[first:last, :last] += _products(part[first:last], part[:last])
        product[:first, first:last] = product[first:last, :first].T
    return product


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Compute the inner products of rows (a,m) and rows (b,m) on the CPU: (a,b).

    By oneDNN, as convolutions are: torch's own product does not use the widest vectors of every
    processor. Not by numpy, whose threads and torch's get into each other's way.
    """
    by_onednn = first.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if by_onednn and first.numel():
        return linear(first.to_mkldnn(), second).to_dense()
    return first @ second.T


def _accurate(product: Tensor, rows: Tensor) -> bool:
    """Whether inner products of float32 rows (a,b) are off by far less than is allowed for: torch
    may be set to round factors to bfloat16 before, whatever the setting is called.

    By Freivalds' check: whether both make the same of random signs, here always the same ones. An
    error as large as what is allowed for is missed by chance in a tenth of cases, or less.
    """
    signs = np.random.default_rng(0).choice([-1, 1], len(rows)).astype(np.float32)
    mixed = rows.T @ torch.from_numpy(signs)
    parts = zip(rows.split(CHUNK, dim=1), mixed.split(CHUNK), strict=True)
    expected = reduce(torch.add, ((part @ some).double() for part, some in parts))
    error = torch.linalg.vector_norm(product @ torch.from_numpy(signs).double() - expected)
    allowed = _rounding(rows.shape[1], rows.dtype) * product.diagonal().sum()
    return bool(error <= FAR_LESS * allowed)


def _sizes(distances: Tensor, reach: float, values: float) -> tuple[float, float, float]:
    """Return radius, reach and weight of a `Centre` of so many values, from the distances of the
    pilot draws.
    """
    floor = FLOOR * math.sqrt(values)
    radius = min(max(MARGIN * float(distances.max()), floor), reach)
    fourth = float((distances.clamp_min(floor) ** 4).mean())
    return radius, reach, fourth**-0.5


def _reach(centre: Tensor) -> float:
    """The farthest that values in [0, 1] can be from a centre."""
    return float(torch.linalg.vector_norm(torch.maximum(centre, 1 - centre)))


def _share(beyond: float, radius: float, reach: float) -> float:
    """How far draws lie beyond the radius, as a share of the farthest that one can."""
    return beyond / (reach - radius) if reach > radius else 0.0


def _rounding(terms: int, dtype: torch.dtype) -> float:
    """What a sum of products is off by at most: so many units of rounding as it has terms, of the
    factors' lengths.
    """
    return (min(terms, CHUNK) + 8) * torch.finfo(dtype).eps / 2


def mean_of(draws: Tensor) -> Tensor:
    """Average draws (n,...) in the widest precision, of which a few at a time are added up."""
    sums = (part.sum(0).to(_exact(draws)) for part in draws.split(ADDED))
    return reduce(torch.add, sums) / len(draws)


def _lengths(rows: Tensor) -> Tensor:
    """Lengths of rows (n,m) in the widest precision, to which a few at a time are brought."""
    parts = rows.split(max(1, WIDENED // max(1, rows.shape[1])))
    return torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=_exact(rows)) for part in parts])


def _exact(tensor: Tensor) -> torch.dtype:
    """The widest precision of the tensor's device."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
