"""Does any attack leave a certificate? Attacks of all kinds against certificates of the same
smoother.

    python benchmarks/certified_attacks.py [--attacks 200] [--certificates 10] [--shrink 0.5]

Each attack has a kind, norm, loss (of the whole output or one value), budget up to 1.25 sigma,
number of restarts and way to see the smoother (its median, the mean of draws, single draws, the
bare network) drawn at random. Bounds are those for the attack's norm on each tile's patch, with
alpha .001 and beta .05. Counted are

- ideal: attacks after which the ideal median of some value is outside of its bounds. None may be.
  On LinearSR the median is known; that of the built-in network is between two order statistics of
  further draws at the attacked input, for all values and attacks at once but for a probability of
  alpha, and is outside only where the whole interval is. Used is the largest share of the way from
  the middle between a value's bounds to half a step beyond them that the median has certainly gone:
  above 1 it is outside;
- each value: served outputs of which one value is outside, the one whose ideal median came closest
  to its bound; beside the largest count that agrees with a probability of beta (it is exceeded in 1
  of 1000 runs of a promise that is just kept);
- all at once: served outputs of which any value is outside of the bounds that hold for all values
at once, likewise.

--shrink takes the bounds at that share of each norm, as a mistaken certificate would have them, and
must find them broken.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smoothsr import Certificate, SmoothedSR, adapters, attacks
from smoothsr.attacks.budget import Norm
from smoothsr.attacks.views import View, views
from smoothsr.certificates.check import bounds_under
from smoothsr.files import images
from smoothsr.metrics import to_8bit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import LinearSR, Truth, allowed, gentle, truth

ALPHA, BETA = 1e-3, 0.05
RADII = (0.25, 0.5, 0.75, 1.0, 1.25)  # l2, in units of sigma
CHECK = 1000  # draws that show where the ideal median of the built-in network is
SERVED = 3  # outputs for each attack
EDGE = 1e-6  # for the rounding of k / 255
NETWORKS = ("LinearSR", "builtin")


class Case(NamedTuple):
    """A smoother, an image (1,C,h,w), its certificate, and the smoother's truth where it is
    known.
    """

    smoothed: SmoothedSR
    lr: Tensor
    certificate: Certificate
    exact: Truth | None


class Seen(NamedTuple):
    """What became of one attack."""

    ideal: bool  # whether the ideal median left its bounds
    used: float
    value: list[bool]  # for each served output: whether the chosen value left its bounds
    image: list[bool]  # and whether any value did, of the bounds that hold at once
    bounded: tuple[float, ...]  # shares of the values that have bounds: ideal, each, at once


def main() -> None:
    """Print a row for each network and promise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--attacks", type=int, default=200, help="on each network (default 200)")
    parser.add_argument(
        "--certificates", type=int, default=10, help="of each network, one an image (default 10)"
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="of each iterated attack (default 10)"
    )
    parser.add_argument(
        "--shrink",
        type=float,
        default=1.0,
        help="take bounds at this share of each norm (default 1)",
    )
    args = parser.parse_args()
    print(
        "| network | promise | bounded | trials | outside | allowed | used "
        "|\n|---|---|---|---|---|---|---|"
    )
    broken = False
    for name in args.network:
        made = [prepare(name, index) for index in range(args.certificates)]
        numbers = tqdm(range(args.attacks), desc=name, leave=False, disable=None)
        seen = list[Seen]()
        for number in numbers:
            case = made[number % len(made)]
            seen.append(
                confront(
                    case,
                    attack(case.smoothed, case.lr, number, args.steps),
                    args.attacks,
                    args.shrink,
                )
            )
        broken |= print_rows(name, seen)
    if broken:
        sys.exit("a promise was broken")


def prepare(name: str, index: int) -> Case:
    """Certify the index-th image for a network."""
    if name == "LinearSR":
        smoothed, lr = (
            SmoothedSR(LinearSR(), 0.1, tile=4, halo=1, batch_size=500),
            gentle(index, side=8),
        )
        return Case(
            smoothed,
            lr,
            smoothed.certify(lr, alpha=ALPHA),
            truth(smoothed.model, (1, 1, 8, 8), 4, 1),
        )
    smoothed = SmoothedSR(
        adapters.load("builtin").model.requires_grad_(False), 0.05, tile=8, halo=2
    )
    top, left = np.random.default_rng(index).integers(0, (56, 48))
    lr = images.read(Path(__file__).parents[1] / "examples/cat.png").pixels[
        ..., top : top + 8, left : left + 16
    ]
    return Case(smoothed, lr, smoothed.certify(lr, alpha=ALPHA), None)


def attack(smoothed: SmoothedSR, lr: Tensor, number: int, steps: int) -> Tensor:
    """Attack lr in a way that a number stands for."""
    rng = np.random.default_rng(number)
    ways: list[View] = ["served", "mean", "draw", "bare"]
    norms: list[Norm] = ["l2", "linf"]
    way, norm = ways[rng.integers(4)], norms[rng.integers(2)]
    restarts = int(rng.integers(1, 4))
    kinds: list[Any] = [
        attacks.fgsm,
        partial(attacks.bim, steps=steps),
        partial(attacks.pgd, steps=steps, restarts=restarts),
    ]
    kind = [*kinds, partial(attacks.cw, steps=steps)][rng.integers(4)]
    radius = smoothed.sigma * rng.choice(RADII)
    most = max(tile.pixels for tile in smoothed.grid(lr)) * lr.shape[1]
    view = views(smoothed, lr, 5, number)[way]
    place, sign = rng.random(), rng.choice([-1, 1])

    def one_value(output: Tensor, reference: Tensor) -> Tensor:
        change = (output - reference).flatten(1)
        return sign * change[:, int(place * change.shape[1])]

    options = {
        "norm": norm,
        "eps": float(radius if norm == "l2" else radius / most**0.5),
        "draws": 5 if way == "draw" else 1,
    }
    return kind(view, lr, loss=one_value if rng.random() < 0.5 else "l2", seed=number, **options)


@torch.no_grad()
def confront(case: Case, attacked: Tensor, count: int, shrink: float = 1.0) -> Seen:
    """Hold one of count attacks against the certificate."""
    smoothed, lr, certificate, exact = case
    change = shrink * (attacked.double() - lr.double())
    if exact:
        low = high = exact.output(attacked) / 255
    else:  # a certificate of the attacked image at radius 0
        low, high = smoothed.certify(attacked, n=CHECK, alpha=ALPHA / count, levels=2).bounds(
            0.0, "ideal"
        )
    lower, upper = bounds_under(certificate, change, "ideal")
    middle, half = (lower + upper) / 2, (upper - lower) / 2 + 0.5 / 255
    used = torch.maximum(low - middle, middle - high) / half
    outside = (low > upper + EDGE) | (high < lower - EDGE)
    closest = used.argmax()

    outputs = [to_8bit(smoothed(attacked)) / 255 for _ in range(SERVED)]
    each, at_once = (
        bounds_under(certificate, change, "served", BETA, per) for per in ("value", "image")
    )
    value = [
        bool(((output < each[0]) | (output > each[1])).flatten()[closest]) for output in outputs
    ]
    image = [bool(((output < at_once[0]) | (output > at_once[1])).any()) for output in outputs]
    bounded = (
        float(((least > 0) | (most < 1)).float().mean())
        for least, most in ((lower, upper), each, at_once)
    )
    return Seen(bool(outside.any()), float(used.max()), value, image, tuple(bounded))


def print_rows(name: str, seen: Sequence[Seen]) -> bool:
    """Print what attacks on a network came to; return whether a promise was broken."""
    value, image = (
        [left for one in seen for left in one.value],
        [left for one in seen for left in one.image],
    )
    rows = [("ideal", [one.ideal for one in seen], 0)]
    rows += [
        ("each value", value, allowed(len(value), BETA)),
        ("all at once", image, allowed(len(image), BETA)),
    ]
    used = max(one.used for one in seen)
    for place, (promise, left, limit) in enumerate(rows):
        bounded = np.mean([one.bounded[place] for one in seen])
        last = f"{used:.0%}" if promise == "ideal" else ""
        print(
            f"| {name} | {promise} | {bounded:.0%} | {len(left)} | {sum(left)} | {limit} | "
            f"{last} |",
            flush=True,
        )
    return any(sum(left) > limit for _, left, limit in rows)


if __name__ == "__main__":
    main()
