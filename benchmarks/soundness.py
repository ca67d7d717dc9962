"""Does the certificate keep its promises, and how much does it give away? Counted on networks whose
exact worst case is known.

    python benchmarks/soundness.py [--certificates 200] [-n 1000]

Each certificate is made with fresh noise at alpha = 0.05 and beta = 0.05, so large that violations
would show, and then faces the attacks that are worst for the network, of up to 0.8 sigma. A row
counts the certificates (for served bounds: the inferences) that were wrong, beside the largest
number that is no evidence against the promise (a promise that is just kept exceeds it in 1 of 1000
runs). Excess is by how much the bounds are wider than the exact worst case, on each side, which is
the price of knowing the network by n draws only; for a PSNR, by how much it is below what the
attacks reach. LR images are tiny, tiles have 2x2 pixels, halo 1.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor
from tqdm import trange

from smoothsr import SmoothedSR
from smoothsr.certificates.options import Per, Predictor
from smoothsr.metrics import to_8bit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import LinearSR, Same, Step, Truth, allowed, gentle, leaves, truth

ALPHA = BETA = 0.05
SIGMA, SERVE = 0.1, 21
TILED = {"tile": 2, "halo": 1}
ORACLES: dict[str, tuple[Any, tuple[int, int, int, int], dict[str, Any]]] = {
    "LinearSR, one tile": (LinearSR(channels=3), (1, 3, 4, 4), {}),
    "LinearSR, 4 tiles": (LinearSR(channels=3), (1, 3, 4, 4), TILED),
    "Same": (Same(), (1, 1, 8, 8), {}),
    "Step, 4 tiles": (Step(), (1, 1, 4, 4), TILED),
}


def main() -> None:
    """Print a row for each network and promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=200, help="of each network")
    parser.add_argument("-n", type=int, default=1000, help="draws of each")
    args = parser.parse_args()
    print(
        f"sigma {SIGMA}, n_cert {args.n}, n_serve {SERVE}, 32 levels, alpha {ALPHA}, beta {BETA}\n"
    )
    print(
        "| network | promise | trials | violations | allowed | exact worst case | excess "
        "|\n|---|---|---|---|---|---|---|"
    )
    broken = False
    for name, (net, shape, options) in ORACLES.items():
        exact = truth(net, shape, **options)
        smoothed = SmoothedSR(net, SIGMA, SERVE, batch_size=args.n, **options)
        wrong: dict[str, list[bool]] = defaultdict(list)
        widths: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for seed in trange(args.certificates, desc=name, leave=False, disable=None):
            lr = (
                torch.full(shape, 0.5)
                if isinstance(net, Same)
                else gentle(seed, shape[1], shape[2])
            )
            challenge(smoothed, exact, lr, args.n, seed, wrong, widths)
        for promise, found in wrong.items():
            limit = allowed(len(found), BETA if "served bounds" in promise else ALPHA)
            unit = " dB" if "PSNR" in promise else "/255"
            reached, beyond = np.mean(widths[promise], axis=0)
            print(
                f"| {name} | {promise} | {len(found)} | {sum(found)} | {limit} | "
                f"{reached:.1f}{unit} | {beyond:.1f}{unit} |"
            )
            broken |= sum(found) > limit
    if broken:
        sys.exit("a promise was broken")


def challenge(
    smoothed: SmoothedSR,
    exact: Truth,
    lr: Tensor,
    n: int,
    seed: int,
    wrong: dict[str, list[bool]],
    widths: dict[str, list[tuple[float, float]]],
) -> None:
    """Make one certificate and hold it against the truth; append to wrong, and to widths the exact
    worst case and the excess.
    """
    result = smoothed.certify(lr, n=n, alpha=ALPHA)
    wrong["ideal bounds, all levels"].append(leaves(result, exact, lr, SIGMA * result.z))
    radius = SIGMA * result.z[seed % 12]
    widths["ideal bounds, all levels"].append(
        width(result.bounds(radius, "ideal"), exact, lr, radius)
    )

    index = seed % exact.constant.numel()
    attacked = (
        lr + (exact.jacobian[index] * radius / exact.norm.flatten()[index]).view(lr.shape).float()
    )
    scopes: list[tuple[Per, int]] = [("value", 1), ("image", exact.constant.numel())]
    for per, values in scopes:
        lower, upper = result.bounds(radius, "served", BETA, per)
        strayed = SIGMA * ndtri(1 - betaincinv((SERVE + 1) / 2, (SERVE + 1) / 2, BETA / values / 2))
        promise = f"served bounds, each {per}"
        widths[promise].append(width((lower, upper), exact, lr, radius + strayed))
        for _ in range(5):
            output = to_8bit(smoothed(attacked)) / 255
            outside = ((output < lower) | (output > upper)).flatten()
            wrong[promise].append(bool(outside.any() if per == "image" else outside[index]))

    y = exact.output(lr)
    quantiles = torch.tensor(
        ndtri(betaincinv((SERVE + 1) / 2, (SERVE + 1) / 2, (np.arange(200) + 0.5) / 200))
    )
    strongest = torch.linalg.svd(exact.jacobian).Vh[0].view(lr.shape)
    everywhere = torch.ones_like(strongest) / lr.numel() ** 0.5
    predictors: list[tuple[Predictor, Tensor]] = [("ideal", torch.zeros(1)), ("served", quantiles)]
    for predictor, strayed in predictors:
        outputs = [
            exact.output(lr + sign * radius * direction, SIGMA * strayed.view(-1, 1, 1, 1))
            for direction in (strongest, everywhere)
            for sign in (-1, 1)
        ]
        reached = max(((output - y) / 255).square().mean().item() for output in outputs)
        certified = 10 ** (-result.psnr(radius, (y / 255).float(), predictor=predictor) / 10)
        wrong[f"{predictor} PSNR"].append(certified < reached - 1e-9)
        if reached > 0:
            widths[f"{predictor} PSNR"].append(
                (-10 * np.log10(reached), 10 * np.log10(certified / reached))
            )


def width(
    pair: tuple[Tensor, Tensor], exact: Truth, lr: Tensor, shift: float
) -> tuple[float, float]:
    """Half the exact width between the worst attacks up and down, and by how much bounds exceed it:
    means, in 8-bit steps.
    """
    reached = float((exact.output(lr, shift) - exact.output(lr, -shift)).mean()) / 2
    return reached, float((pair[1] - pair[0]).mean()) * 255 / 2 - reached


if __name__ == "__main__":
    main()
