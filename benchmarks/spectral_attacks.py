"""Does any attack move the mean further than its spectral certificate allows?

Each attack is a uniform change, the direction in which the noise itself moves the output most, or
one of those of certified_attacks.py (its kind, norm, loss, restarts and way to see the smoother
drawn at random), with an l2 budget up to 1.25 sigma, or that of a patch as linf. Counted are

- ideal: attacks that certainly moved the ideal mean further than `Certificate.deviation`. On
  LinearSR the move is known. That of the built-in network is bounded from below: some draws choose
  a direction, and others, the same noise before and after the attack, measure the move along it,
  by Student's t at alpha over the number of attacks;
- served: attacks whose served outputs certainly have a larger expected squared error, to the
  certificate's own output, than `Certificate.psnr` says, likewise.

Used is the largest move, as a share of what is allowed. --shrink takes that share of what is
allowed, as a mistaken certificate would have it, and must find it exceeded on LinearSR.

    python benchmarks/spectral_attacks.py [--attacks 200] [--certificates 10] [--shrink 0.5]
"""

import argparse
import math
import sys
from typing import NamedTuple

import certified_attacks
import numpy as np
import torch
from certified_attacks import ALPHA, NETWORKS, RADII, Case
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from smoothsr import attacks
from smoothsr.certificates.options import Norm
from smoothsr.smoothing import variant

DIRECTION, MEASURED = 4, 12  # blocks of draws that choose a direction, and that measure along it
BLOCK = 50  # draws
SERVED = 12  # outputs for each attack


class Attacked(NamedTuple):
    """An input under attack, and its budget."""

    lr: Tensor
    radius: float
    norm: Norm


class Seen(NamedTuple):
    """The largest shares of what is allowed that an attack certainly used."""

    ideal: float
    served: float


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--attacks", type=int, default=200, help="on each network (default 200)")
    parser.add_argument("--certificates", type=int, default=10, help="of each network (default 10)")
    parser.add_argument("--steps", type=int, default=10, help="of each iterated attack")
    parser.add_argument("--shrink", type=float, default=1.0, help="of what is allowed (default 1)")
    args = parser.parse_args()
    print("| network | attacks | ideal: too far | used | served: too far | used |")
    print("|---|---|---|---|---|---|")
    broken = False
    for name in args.network:
        cases = [prepare(name, index) for index in range(args.certificates)]
        seen = list[Seen]()
        for number in tqdm(range(args.attacks), desc=name, leave=False, disable=None):
            case = cases[number % len(cases)]
            attacked = attack(case, number, args.steps)
            seen.append(Seen(*(s / args.shrink for s in confront(case, attacked, args.attacks))))
        ideal, served = np.array(seen).T
        counts = [int((shares > 1).sum()) for shares in (ideal, served)]
        cells = [f"{counts[0]} | {ideal.max():.0%}", f"{counts[1]} | {served.max():.0%}"]
        print(f"| {name} | {args.attacks} | {' | '.join(cells)} |", flush=True)
        broken |= any(counts)
    if broken:
        sys.exit("a certificate was exceeded")


def prepare(name: str, index: int) -> Case:
    """Certify the mean of the index-th image for a network."""
    case = certified_attacks.prepare(name, index)
    smoothed = variant(case.smoothed, agg="mean")
    certificate = smoothed.certify(case.lr, alpha=ALPHA, kind="spectral")
    return case._replace(smoothed=smoothed, certificate=certificate)


def attack(case: Case, number: int, steps: int) -> Attacked:
    """Attack a case's image in a way that a number stands for."""
    rng = np.random.default_rng(number)
    smoothed, lr = case.smoothed, case.lr
    norms: list[Norm] = ["l2", "linf"]
    norm = norms[rng.integers(2)]
    most = max(tile.pixels for tile in case.certificate.tiles) * lr.shape[1]
    radius = float(smoothed.sigma * rng.choice(RADII)) / (1 if norm == "l2" else most**0.5)
    kind = rng.integers(4)
    if kind >= 2:
        lr = certified_attacks.attack(smoothed, lr, number, steps)
        change = lr - case.lr
        flat = change.abs().max() if norm == "linf" else change.norm()
        return Attacked(lr, float(flat), norm)
    change = torch.ones_like(lr) if kind == 0 else attacks.leading_change(smoothed, lr, seed=number)
    change = change.sign() if norm == "linf" else change / change.norm()
    return Attacked(lr + radius * float(rng.choice([-1, 1])) * change, radius, norm)


@torch.no_grad()
def confront(case: Case, attacked: Attacked, count: int) -> Seen:
    """Find what shares of the allowed move, ideal and served, one of count attacks used."""
    lr, radius, norm = attacked
    radius = math.nextafter(radius, math.inf) + 1e-9  # for the rounding of lr + change
    certificate, values = case.certificate, case.certificate.sr_bytes.size
    allowed = certificate.deviation(radius, norm) * math.sqrt(values)
    if case.exact:
        moved = float((case.exact.jacobian @ (lr - case.lr).double().flatten()).norm())
    else:
        moved = certain_move(case, lr, ALPHA / count)
    floor = certificate.psnr(radius, certificate.sr, predictor="served", norm=norm)
    errors = [float((case.smoothed(lr) - certificate.sr).square().mean()) for _ in range(SERVED)]
    expected = math.sqrt(max(certainly(errors, ALPHA / count), 0.0))
    return Seen(moved / allowed, expected / 10 ** (-floor / 20))


def certain_move(case: Case, lr: Tensor, alpha: float) -> float:
    """Bound how far the ideal mean moved from below, except with probability alpha."""
    moves = list[Tensor]()
    for seed in range(DIRECTION + MEASURED):
        block = variant(case.smoothed, n=BLOCK, seed=seed)
        moves.append((block(lr) - block(case.lr)).double().flatten())
    direction = torch.stack(moves[:DIRECTION]).mean(0)
    direction /= direction.norm().clamp_min(1e-30)
    return certainly([float(move @ direction) for move in moves[DIRECTION:]], alpha)


def certainly(values: list[float], alpha: float) -> float:
    """Bound the mean of independent values from below, by Student's t."""
    quantile = stats.t.ppf(1 - alpha, len(values) - 1)
    return float(np.mean(values) - quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


if __name__ == "__main__":
    main()
