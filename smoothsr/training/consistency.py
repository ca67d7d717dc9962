"""How much outputs of one image differ from draw to draw, as numbers that training can push down.

What is certified is what the noise does to the output. The *trace* of the draws' covariance is the
mean variance of an output value: pushing it down makes the network damp noise, and so blur. The
*top singular value* is the variance along the direction in which a tile's output wanders most. It
is what the spectral certificate of the mean measures (docs/spectral.md), and a network may lower it
by spreading the same variance over more directions.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["ConsistencyPenalty", "Kind", "top_singular_value", "trace"]

Kind = Literal["trace", "top"]


def trace(outputs: Tensor) -> Tensor:
    """Estimate the mean variance of an output value, without bias.

    Args:
        outputs: (N,B,C,H,W) of N >= 2 draws.

    Returns:
        One number, in units of the values squared.

    Example:
        >>> trace(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)).item()
        2.0
    """
    return _in_single(outputs).var(0, correction=1).mean()


def top_singular_value(outputs: Tensor, tile: int) -> Tensor:
    """Estimate the variance of a tile along its first principal direction, as a share of each of
    its values; the mean over tiles.

    It is the top eigenvalue of the draws' covariance, divided by the number of values of a tile, so
    that it is at most `trace`. Estimated from N draws it is too large, by about trace / N where the
    variance is spread out.

    Args:
        outputs: (N,B,C,H,W) of N >= 2 draws.
        tile: Side of the tiles in pixels of the output; pixels beyond the last whole tile are left
            out.

    Returns:
        One number, in units of the values squared.

    Raises:
        ValueError: If the output is smaller than a tile.

    Example:
        >>> draws = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1, 1)
        >>> top_singular_value(draws.expand(3, 1, 1, 2, 2), 2).item()  # all four wander as one
        1.0
    """
    draws, height, width = len(outputs), *outputs.shape[-2:]
    if not 1 <= tile <= min(height, width):
        raise ValueError(f"tile must be 1 to {min(height, width)} output pixels, got {tile}")
    tiles = outputs.unfold(-2, tile, tile).unfold(-2, tile, tile)  # (N,B,C,rows,columns,t,t)
    parts = tiles.permute(1, 3, 4, 0, 2, 5, 6).flatten(4).flatten(0, 2)  # (tiles,N,values)
    parts = _in_single(parts)
    centred = parts - parts.mean(1, keepdim=True)
    # N draws span at most N - 1 directions, so their inner products tell all that the covariance
    # of thousands of values does.
    products = centred @ centred.transpose(1, 2) / (draws - 1)
    return torch.linalg.eigvalsh(products)[:, -1].mean() / parts.shape[2]


def _in_single(outputs: Tensor) -> Tensor:
    """Return outputs of half precision, as under autocast, in single precision for sums."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class ConsistencyPenalty:
    """A price on how much outputs of one image differ between draws.

    Args:
        weight: Factor.
        kind: "trace" or "top", the functions of this module.
        tile: Side of the tiles of "top", in output pixels. Training patches lie anywhere in an
            image, and so do these tiles.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, weight: float, kind: Kind = "trace", tile: int = 16) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number >= 0, got {weight}")
        if kind not in get_args(Kind):
            raise ValueError(f'kind must be "trace" or "top", got {kind!r}')
        if tile < 1:
            raise ValueError(f"tile must be at least 1, got {tile}")
        self.weight, self.kind, self.tile = weight, kind, tile

    def __call__(self, outputs: Tensor) -> Tensor:
        """Compute the penalty of draws (N,B,C,H,W), N >= 2."""
        if self.kind == "trace":
            return self.weight * trace(outputs)
        return self.weight * top_singular_value(outputs, self.tile)

    def __repr__(self) -> str:
        return f"ConsistencyPenalty({self.weight}, {self.kind!r}, {self.tile})"
