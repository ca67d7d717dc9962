"""What would make the spectral certificate stronger? The ideas that were tried, on one line each.

Each idea's bound of the ideal mean's deviation at linf radii is computed from the same draws of the
same tiles, in dB. They are plug-in figures: the draws' own moments without confidence or tail, so
that an idea that does not pay here does not pay.

    python benchmarks/spectral_choices.py
    python benchmarks/spectral_choices.py --model builtin-clean --sigma 0.05 --grid 4/2

- plain: the largest eigenvalue of the covariance, times e^(t^2) - 1.
- fourth moments: Hoelder's inequality with exponents 4 and 4/3 in place of Cauchy and Schwarz's.
- control variate: f = A G + r with A fitted on half of the draws, ||A|| t for the first part. The
  ridge is the best of a grid for each tile and radius, which flatters it.
- median: how far the *median* can move, by the covariance of the indicators of 16 quantiles.
- halo x k: the noise is k times larger beyond the tile, which makes a patch's change smaller in its
  units; judge it by the mean's own quality, which falls, against noise that is larger everywhere.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from spectral import LINF, pictures
from torch import Tensor

from smoothsr import SmoothedSR, adapters, metrics
from smoothsr.engine.tiles import Tile, output_slice, output_slices

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the control variate, times the number of draws
RANKS = 16  # quantiles on each side of the median
BATCH = 125
NOISES = {  # how many times sigma the noise is: on the tile, and beyond it
    "": (1.0, 1.0),
    "halo x 1.5": (1.0, 1.5),
    "halo x 2": (1.0, 2.0),
    "all x 1.25": (1.25, 1.25),
}
HEADS = ("picture", "idea", *(f"linf {radius * 255:g}" for radius in LINF), "mean, Y dB")


class Draws(NamedTuple):
    """Draws of one tile."""

    noise: Tensor  # (n,d), in units of the standard deviation of each value
    outputs: Tensor  # (n,m)
    shift: float  # of a change of every value by 1


Bound = Callable[[Draws, float], float]
"""(draws, radius of each value) -> bound of the summed squares of a tile's deviation."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--images", nargs="+", default=["birdx4.png", "butterflyx4.png"])
    parser.add_argument("--crop", type=int, default=32, help="LR pixels a side, upper left")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--grid", default="8/2", help="TILE/HALO")
    parser.add_argument("-n", type=int, default=1000)
    args = parser.parse_args()

    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    model = adapters.load(args.model).model
    tile, halo = map(int, args.grid.split("/"))
    smoothed = SmoothedSR(model, args.sigma, 1, "mean", tile=tile, halo=halo)
    for name, lr, hr in pictures(args.images, args.crop):
        for idea, noise in NOISES.items():
            ideas: dict[str, Bound] = {idea: plain} if idea else IDEAS
            print_rows(name, ideas, smoothed, lr, hr, partial(tile_draws, n=args.n, factors=noise))


def print_rows(
    name: str,
    ideas: dict[str, Bound],
    smoothed: SmoothedSR,
    lr: Tensor,
    hr: Tensor | None,
    draw: Callable[[SmoothedSR, Tensor, Tile], Draws],
) -> None:
    """Print a row for each idea, all from the same draws."""
    tiles = smoothed.grid(lr)
    sums = {idea: np.zeros(len(LINF)) for idea in ideas}
    mean = torch.empty(0)
    for tile in tiles:
        draws = draw(smoothed, lr, tile)
        for idea, bound in ideas.items():
            sums[idea] += [bound(draws, radius) for radius in LINF]
        values = draws.outputs.mean(0).view(1, lr.shape[1], *sides(draws, lr, tile))
        scale = values.shape[-1] // (tile.columns.stop - tile.columns.start)
        if not mean.numel():
            mean = torch.empty(1, lr.shape[1], scale * lr.shape[2], scale * lr.shape[3])
        mean[(..., *output_slices(tile, scale))] = values
    quality = "" if hr is None else f"{metrics.psnr(mean, hr, border=4, y=True).item():.2f}"
    for idea, total in sums.items():
        cells = [f"{-10 * math.log10(value / mean.numel()):.2f}" for value in total]
        print(f"| {name} | {idea} | {' | '.join(cells)} | {quality} |", flush=True)


def sides(draws: Draws, lr: Tensor, tile: Tile) -> tuple[int, int]:
    """The sides of a tile's output."""
    height, width = (span.stop - span.start for span in tile)
    scale = math.isqrt(draws.outputs.shape[1] // (lr.shape[1] * height * width))
    return scale * height, scale * width


@torch.no_grad()
def tile_draws(
    smoothed: SmoothedSR, lr: Tensor, tile: Tile, n: int, factors: tuple[float, float]
) -> Draws:
    """Draw a tile's output; the noise is so many times sigma on the tile, and beyond it."""
    rows, columns = tile
    patch = lr[..., rows.first : rows.last, columns.first : columns.last]
    inside, beyond = (factor * smoothed.sigma for factor in factors)
    sigma = torch.full_like(patch, beyond)
    inner = [slice(span.start - span.first, span.stop - span.first) for span in tile]
    sigma[..., inner[0], inner[1]] = inside
    noise = torch.randn(n, *patch.shape[1:])
    outputs = list[Tensor]()
    for part in noise.split(BATCH):
        noisy = (patch + sigma * part)[:, :, list(rows.gather)][..., list(columns.gather)]
        output = smoothed.base(noisy)
        scale = output.shape[-1] // noisy.shape[-1]
        down, across = (output_slice(span, scale, span.offset) for span in tile)
        outputs.append(output[..., down, across].flatten(1))
    return Draws(noise.flatten(1), torch.cat(outputs), float(sigma.pow(-2).sum().sqrt()))


def plain(draws: Draws, radius: float) -> float:
    """The bound that is built."""
    return top(centred(draws.outputs)) * math.expm1((radius * draws.shift) ** 2)


def fourth(draws: Draws, radius: float) -> float:
    """By fourth moments: sup_u E<u,Z>^4 is at most the largest eigenvalue of the squared Gram."""
    z = centred(draws.outputs).double()
    gram = (z @ z.T).square()
    moment = float(torch.linalg.eigvalsh(gram)[-1]) / len(z)
    return math.sqrt(moment) * ratio_norm(radius * draws.shift, 4 / 3) ** 2


def ratio_norm(shift: float, power: float) -> float:
    """(E |L - 1|^power)^(1/power) of the likelihood ratio at a shift, by a sum over a fine grid."""
    x = np.linspace(-12, 12 + 2 * shift, 20001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    gap = np.abs(np.expm1(shift * x - shift**2 / 2))
    return float((density * gap**power).sum() ** (1 / power))


def control_variate(draws: Draws, radius: float) -> float:
    """With a linear map taken out; the best ridge, fitted on the first half of the draws.

    The map's share is ||A|| t in units of the noise.
    """
    half = len(draws.outputs) // 2
    noise, outputs = draws.noise[:half], centred(draws.outputs[:half])
    new, moved = draws.noise[half:], centred(draws.outputs[half:])
    shift = radius * draws.shift
    gram, product = noise.T @ noise, noise.T @ outputs
    found = [plain(Draws(new, moved, draws.shift), radius)]
    for ridge in RIDGES:
        linear = torch.linalg.solve(gram + ridge * half * torch.eye(len(gram)), product)
        norm = float(torch.linalg.matrix_norm(linear, 2))
        rest = math.sqrt(top(moved - centred(new @ linear)) * math.expm1(shift**2))
        found.append((norm * shift + rest) ** 2)
    return min(found)


def median(draws: Draws, radius: float) -> float:
    """Of the ideal median: few values can pass a quantile that is far from it.

    Let D be the changes of P(f_i <= y_i). ||D||^2 is at most lambda (e^(t^2) - 1), lambda the
    largest eigenvalue of the indicators' covariance, so that at most ||D||^2 / gap^2 medians pass
    the quantiles y that are a probability gap away. The worst are taken.
    """
    growth = math.expm1((radius * draws.shift) ** 2)
    ordered = draws.outputs.sort(dim=0).values
    n, m = ordered.shape
    middle = ordered[n // 2]
    total = 0.0
    for side in (-1, 1):
        within = torch.zeros(m)
        allowed = float(m)
        for step in range(1, RANKS + 1):
            rank = round(n / 2 + side * step * (n / 2) / RANKS)
            reached = (ordered[min(max(rank, 0), n - 1)] - middle).square()
            if step == RANKS:
                reached = torch.maximum(middle, 1 - middle).square()
            gains = (reached - within).sort(descending=True).values
            total += float(gains[: math.floor(allowed)].sum())
            within = reached
            below = (draws.outputs <= ordered[min(max(rank, 0), n - 1)]).float()
            gap = step / (2 * RANKS)
            allowed = min(allowed, top(centred(below)) * growth / gap**2)
    return total


def centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def top(rows: Tensor) -> float:
    """The largest eigenvalue of the second moment of rows (n,m)."""
    small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return float(torch.linalg.eigvalsh(small)[-1]) / len(rows)


IDEAS: dict[str, Bound] = {
    "plain": plain,
    "fourth moments": fourth,
    "control variate": control_variate,
    "median": median,
}

if __name__ == "__main__":
    main()
