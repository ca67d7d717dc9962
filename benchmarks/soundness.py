"""Does the certificate keep its promises, and how much does it give away? Counted on networks of which the exact worst case is known.

    python benchmarks/soundness.py [--certificates 200] [-n 1000]

Each certificate is made with fresh noise at alpha = 0.05 and beta = 0.05, so large that violations would show, and then faces the attacks
that are worst for the network. A row counts the certificates (for "served": the inferences) that were wrong, beside the largest number
that is no evidence against the promise (of a binomial variable, in 1 of 1000 runs). Excess is what bounds are wider than the exact
worst case, on each side: the price of knowing the network by n draws only. LR images are tiny, tiles have 2x2 pixels and a halo of 1.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor
from tqdm import trange

from smoothsr import SmoothedSR

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import LinearSR, Same, Step, Truth, allowed, gentle, leaves, truth

ALPHA = BETA = 0.05
SIGMA, SERVE = 0.1, 21
TILED = {"tile": 2, "halo": 1}
ORACLES = {
    "LinearSR, one tile": (LinearSR(channels=3), (1, 3, 4, 4), {}),
    "LinearSR, 4 tiles": (LinearSR(channels=3), (1, 3, 4, 4), TILED),
    "Same": (Same(), (1, 1, 8, 8), {}),
    "Step, 4 tiles": (Step(), (1, 1, 4, 4), TILED),
}


def main() -> None:
    """Print a row for each network and promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=200, help="of each network")
    parser.add_argument("-n", type=int, default=1000, help="draws of each")
    args = parser.parse_args()
    print(f"sigma {SIGMA}, n_cert {args.n}, n_serve {SERVE}, 32 levels, alpha {ALPHA}, beta {BETA}\n")
    print("| network | predictor | trials | violations | allowed | excess |\n|---|---|---|---|---|---|")
    broken = False
    for name, (net, shape, options) in ORACLES.items():
        exact = truth(net, shape, **options)
        smoothed = SmoothedSR(net, SIGMA, SERVE, batch_size=args.n, **options)
        wrong: dict[str, list[bool]] = defaultdict(list)
        excess: dict[str, list[float]] = defaultdict(list)
        for seed in trange(args.certificates, desc=name, leave=False, disable=None):
            lr = torch.full(shape, 0.5) if isinstance(net, Same) else gentle(seed, shape[1], shape[2])
            challenge(smoothed, exact, lr, args.n, seed, wrong, excess)
        for promise, found in wrong.items():
            limit = allowed(len(found), BETA if "served" in promise and "PSNR" not in promise else ALPHA)
            unit = "dB" if "PSNR" in promise else "/255"
            print(f"| {name} | {promise} | {len(found)} | {sum(found)} | {limit} | {np.mean(excess[promise]):.2f} {unit} |")
            broken |= sum(found) > limit
    if broken:
        sys.exit("a promise was broken")


def challenge(
    smoothed: SmoothedSR, exact: Truth, lr: Tensor, n: int, seed: int, wrong: dict[str, list[bool]], excess: dict[str, list[float]]
) -> None:
    """Make one certificate and hold it against the truth."""
    result = smoothed.certify(lr, n=n, alpha=ALPHA)
    wrong["ideal, every level"].append(leaves(result, exact, lr, SIGMA * result.z))
    # Of the radii the last is left out: its bounds are the extremes of all draws, and wider than any user would ask for.
    radius = SIGMA * result.z[seed % 24]
    excess["ideal, every level"].append(margin(result.bounds(radius, "ideal"), exact, lr, radius))

    index = seed % exact.constant.numel()
    attacked = lr + (exact.jacobian[index] * radius / exact.norm.flatten()[index]).view(lr.shape).float()
    for per, values in (("value", 1), ("image", exact.constant.numel())):
        lower, upper = result.bounds(radius, "served", BETA, per)
        strayed = SIGMA * ndtri(1 - betaincinv((SERVE + 1) / 2, (SERVE + 1) / 2, BETA / values / 2))
        excess[f"served, each {per}"].append(margin((lower, upper), exact, lr, radius + strayed))
        for _ in range(5):
            output = smoothed(attacked).mul(255).round() / 255
            outside = ((output < lower) | (output > upper)).flatten()
            wrong[f"served, each {per}"].append(bool(outside.any() if per == "image" else outside[index]))

    y = exact.output(lr)
    quantiles = torch.tensor(ndtri(betaincinv((SERVE + 1) / 2, (SERVE + 1) / 2, (np.arange(200) + 0.5) / 200)))
    strongest = torch.linalg.svd(exact.jacobian).Vh[0].view(lr.shape)
    everywhere = torch.ones_like(strongest) / lr.numel() ** 0.5
    for predictor, strayed in (("ideal", torch.zeros(1)), ("served", quantiles)):
        outputs = [
            exact.output(lr + sign * radius * direction, SIGMA * strayed.view(-1, 1, 1, 1))
            for direction in (strongest, everywhere)
            for sign in (-1, 1)
        ]
        reached = max(((output - y) / 255).square().mean().item() for output in outputs)
        certified = 10 ** (-result.psnr(radius, (y / 255).float(), predictor=predictor) / 10)
        wrong[f"{predictor}, PSNR"].append(certified < reached - 1e-9)
        if reached > 0:
            excess[f"{predictor}, PSNR"].append(10 * np.log10(certified / reached))


def margin(pair: tuple[Tensor, Tensor], exact: Truth, lr: Tensor, shift: float) -> float:
    """How far bounds lie beyond the exact ones on each side, on average, in 8-bit steps."""
    return float(((pair[1] - pair[0]) * 255 - (exact.output(lr, shift) - exact.output(lr, -shift))).mean()) / 2


if __name__ == "__main__":
    main()
