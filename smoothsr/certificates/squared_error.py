"""Certified squared error: from a certificate's levels to one number for a whole image.

A tile's error E_j(e), the largest that an attack of norm e on its patch can cause, is a sum of
one-value bounds. The box spends the attacker's whole budget on every tile; the collective bound
lets the tiles share it. Proofs: docs/certificates.md.
"""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from smoothsr.certificates import quantile_bounds
from smoothsr.engine.tiles import Tile
from smoothsr.metrics import LUMA

if TYPE_CHECKING:
    from smoothsr.certificates.certificate import Certificate

__all__ = ["mean_squared_error"]

STRIP = (
    2**14
)  # output pixels handled at a time, so that memory stays small where a tile is the whole image


def mean_squared_error(
    certificate: "Certificate",
    radius: float,
    reference: Tensor,
    method: str,
    served: bool,
    norm: str,
    y: bool,
    border: int,
) -> float:
    """Bound the mean squared error against every attack within radius; arguments as for
    `Certificate.psnr`.
    """
    shape = certificate.sr_bytes.shape
    if reference.shape != shape:
        raise ValueError(f"reference must be {shape}, got {(*reference.shape,)}")
    if not reference.isfinite().all():
        raise ValueError("reference has NaN or infinite values")
    if y and shape[1] != 3:
        raise ValueError(f"y=True needs three channels, got {shape[1]}")
    if border < 0 or 2 * border >= min(shape[2:]):
        raise ValueError(f"border {border} leaves nothing of {shape[2]}x{shape[3]} pixels")
    count = (1 if y else shape[1]) * (shape[2] - 2 * border) * (shape[3] - 2 * border)
    tiles = certificate.tiles

    if norm == "linf":
        # A patch of d real values is changed by at most radius * sqrt(d) in l2; the box takes the
        # whole image for a patch.
        pixels = [
            np.prod(certificate.lr_shape[1:]) if method == "box" else tile.pixels for tile in tiles
        ]
        radii = np.sqrt(certificate.lr_shape[0] * np.array(pixels, float)) * radius
        distinct, inverse = np.unique(radii, return_inverse=True)
        errors = _tile_errors(certificate, tiles, distinct, reference, served, y, border)
        return float(errors[np.arange(len(tiles)), inverse].sum()) / count
    if method == "box":
        return (
            float(
                _tile_errors(
                    certificate, tiles, np.array([radius]), reference, served, y, border
                ).sum()
            )
            / count
        )
    steps = certificate.sigma * certificate.z[1:]
    radii = np.array([0.0, *steps[steps < radius], radius]) if radius > 0 else np.zeros(1)
    errors = _tile_errors(certificate, tiles, radii, reference, served, y, border)
    return quantile_bounds.collective_error(errors, radii, certificate.multiplicity) / count


def _tile_errors(
    certificate: "Certificate",
    tiles: list[Tile],
    radii: np.ndarray,
    reference: Tensor,
    served: bool,
    y: bool,
    border: int,
) -> np.ndarray:
    """E_j(e) for every tile j and radius e: (T, K), in [0, 1] units squared, summed over the output
    values inside the border.
    """
    shifts = radii / certificate.sigma
    target = (
        reference[0].double().clamp(0, 1).mul(255).round().numpy()
    )  # to 8 bits, as metrics.py does
    height, width = target.shape[1:]
    inside = np.zeros((height, width))
    inside[border : height - border, border : width - border] = 1
    if certificate.agg == "mean":
        lower, upper = (
            np.stack(side) for side in zip(*map(certificate.interval, shifts), strict=True)
        )
        up = down = np.arange(len(shifts))[:, None]
        weights = np.ones(1)
    else:
        lower, upper = (
            _with_trivial(stack, value)
            for stack, value in ((certificate.lower, 0), (certificate.upper, 255))
        )
        weights, up_shift, down_shift = np.ones(1), np.zeros(1), np.zeros(1)
        if served:
            # Any step is sound. The levels' own fits them best, but few draws make it so small that
            # bins would fill the memory.
            step = max(float(certificate.z[1]), 0.02) if certificate.z.size else 0.1
            weights, up_shift, down_shift = quantile_bounds.served_bins(certificate.n_serve, step)
        up = quantile_bounds.level_index(certificate.z, shifts[:, None] + up_shift)
        down = quantile_bounds.level_index(certificate.z, shifts[:, None] + down_shift)

    scale = certificate.scale
    errors = np.zeros((len(tiles), len(radii)))
    for j, (rows, columns) in enumerate(tiles):
        strip = max(1, STRIP // (scale * (columns.stop - columns.start)))
        for top in range(scale * rows.start, scale * rows.stop, strip):
            bottom = min(top + strip, scale * rows.stop)
            where = (..., slice(top, bottom), slice(scale * columns.start, scale * columns.stop))
            above = (upper[where] - target[where]).astype(np.float32)
            below = (target[where] - lower[where]).astype(np.float32)
            errors[j] += [
                _error(above[u], below[d], weights, y, inside[where])
                for u, d in zip(up, down, strict=True)
            ]
    return errors / 255**2


def _error(
    above: np.ndarray, below: np.ndarray, weights: np.ndarray, y: bool, inside: np.ndarray
) -> float:
    """Sum of squared errors of one tile, given by how much it may lie above and below the target,
    (b,C,H,W), in each bin.
    """
    if not y:
        return float(
            weights
            @ (np.maximum(above**2, below**2) * inside).reshape(len(weights), -1).sum(axis=1)
        )
    luma = np.array(LUMA, np.float32)[:, None, None] / 255
    if len(weights) == 1:  # luma's weights are positive, so intervals add
        return float(
            (
                np.maximum((luma * above[0]).sum(axis=0) ** 2, (luma * below[0]).sum(axis=0) ** 2)
                * inside
            ).sum()
        )
    # Each channel has a random level of its own, so root mean squares add (Minkowski's inequality).
    squares = np.tensordot(weights, np.maximum(above**2, below**2), axes=1)
    return float(((luma * np.sqrt(squares)).sum(axis=0) ** 2 * inside).sum())


def _with_trivial(stack: np.ndarray, value: int) -> np.ndarray:
    """Levels (G,C,H,W) as bytes, and the trivial bound behind the last."""
    return np.concatenate([stack, np.full((1, *stack.shape[1:]), value, np.uint8)])
