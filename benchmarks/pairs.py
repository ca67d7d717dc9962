"""How close do pairs x + G, x - G bring a served mean to the ideal one, and what does that save?
Writes benchmarks/pairs.md and the figure beside it.

    SMOOTHSR_DATA=... python benchmarks/pairs.py
    SMOOTHSR_DATA=... python benchmarks/pairs.py --networks builtin carn_m --draws 500

The first takes half an hour of one core. The distance is the PSNR of means of n draws to the ideal
mean, for which a mean of many other, independent draws stands; what that lacks itself is known
from their variance, and taken off. Central crops of Set5's bird and butterfly, 48x48 LR pixels, x4.
The second table has whole images of Set5, with the sigma that `upscale` has by default.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import trange

from smoothsr import SmoothedSR
from smoothsr.files.atomic import replacing
from smoothsr.metrics import psnr
from smoothsr.reports.figures import save_figure

SIGMAS = {
    "builtin": 0.05,
    "carn_m": 0.02,
    "spanx4_ch48": 0.02,
    "DITN_Real_x4": 0.02,
    "realesr-animevideov3": 0.02,
}
PASSES = (2, 4, 6, 8, 12, 20, 40)
IMAGES, SIDE, CHUNK, UPSCALE_SIGMA = ("bird", "butterfly"), 48, 20, 0.03
KINDS = {True: "in pairs", False: "independent"}
SERVED = {  # what `upscale` may run: statistic, draws, pairs
    "median of 21": ("median", 21, False),
    "mean of 21, independent": ("mean", 21, False),
    "mean of 6, in pairs": ("mean", 6, True),
}


class Ideal(NamedTuple):
    """What stands for the ideal mean: its value, and the mean square of what that is off by."""

    mean: Tensor
    error: float


Distances = dict[tuple[str, bool], list[float]]
"""(network, in pairs) -> dB to the ideal mean at each of PASSES."""


def main() -> None:
    """Measure, print and write both tables and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=[*SIGMAS], choices=[*SIGMAS])
    parser.add_argument("--draws", type=int, default=800, help="for the ideal mean (default 800)")
    parser.add_argument("--repeats", type=int, default=6, help="of each mean (default 6)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()

    found: Distances = {}
    for name in args.networks:
        found |= distances(name, args.draws, args.repeats)
    figure = args.out.with_suffix(".png")
    save_figure(figure_of(found), figure, dpi=80)
    text = "\n".join([*page(found, args.draws, figure.name), *quality()]) + "\n"
    with replacing(args.out) as part:
        part.write_text(text, encoding="utf-8")
    print(text)


@torch.no_grad()
def distances(name: str, draws: int, repeats: int) -> Distances:
    """Measure one network, in pairs and independently."""
    model, sigma = datasets.network(name), SIGMAS[name]
    crops = [datasets.cropped(pair, SIDE).lr for pair in datasets.set5() if pair[0] in IMAGES]
    ideals = [ideal_mean(model, lr, sigma, draws) for lr in crops]
    found: Distances = {}
    for paired in KINDS:
        found[name, paired] = [
            -10 * math.log10(error(model, sigma, n, paired, crops, ideals, repeats)) for n in PASSES
        ]
        print(name, KINDS[paired], *(f"{db:.1f}" for db in found[name, paired]), flush=True)
    return found


def ideal_mean(model: nn.Module, lr: Tensor, sigma: float, draws: int) -> Ideal:
    """Average independent means of CHUNK draws; their spread tells how far off that is."""
    smoothed = SmoothedSR(model, sigma, CHUNK, "mean", antithetic=False)
    means = trange(draws // CHUNK, desc="ideal mean", disable=None, leave=False)
    chunks = torch.cat([smoothed(lr) for _ in means]).double()
    return Ideal(chunks.mean(0, keepdim=True), chunks.var(0).mean().item() / len(chunks))


def error(
    model: nn.Module,
    sigma: float,
    n: int,
    paired: bool,
    crops: Sequence[Tensor],
    ideals: Sequence[Ideal],
    repeats: int,
) -> float:
    """Estimate the mean squared distance of means of n draws to the ideal mean."""
    smoothed = SmoothedSR(model, sigma, n, "mean", antithetic=paired)
    errors = [
        (smoothed(lr) - ideal.mean).square().mean().item() - ideal.error
        for lr, ideal in zip(crops, ideals, strict=True)
        for _ in range(repeats)
    ]
    return statistics.mean(errors)


def page(found: Distances, draws: int, figure: str) -> Iterator[str]:
    """Yield the lines of the first table."""
    yield from ["# Means in pairs", "", "Made by `python benchmarks/pairs.py`.", ""]
    yield (
        f"PSNR in dB of a mean of so many passes to the ideal mean ({draws} other draws), crops of "
        f"{SIDE}x{SIDE} of {' and '.join(IMAGES)}, x4:\n"
    )
    yield f"| network | sigma | draws | {' | '.join(map(str, PASSES))} |"
    yield "|---|---|---|" + "---|" * len(PASSES)
    for (name, paired), decibels in found.items():
        cells = " | ".join(f"{value:.1f}" for value in decibels)
        yield f"| {name} | {SIGMAS[name]:g} | {KINDS[paired]} | {cells} |"
    yield f"\n![dB to the ideal mean against passes, a panel for each network]({figure})"


@torch.no_grad()
def quality() -> Iterable[str]:
    """Yield the lines of the second table: quality and time of what `upscale` runs."""
    pairs, model = list(datasets.set5()), datasets.network("builtin")
    smoothers = {
        name: SmoothedSR(model, UPSCALE_SIGMA, n, agg, antithetic=paired)
        for name, (agg, n, paired) in SERVED.items()
    }
    rounds = [
        {name: score(smoothed, pairs) for name, smoothed in smoothers.items()} for _ in range(3)
    ]
    first = next(iter(SERVED))
    what = "whole images of Set5; medians of 3 interleaved runs"
    yield f"\nBuiltin, sigma {UPSCALE_SIGMA:g}, {what}:\n"
    yield "| served | Y-PSNR, dB | time |\n|---|---|---|"
    for name in SERVED:
        decibels = statistics.median(each[name][0] for each in rounds)
        share = statistics.median(each[name][1] / each[first][1] for each in rounds)
        yield f"| {name} | {decibels:.2f} | {share:.2f} |"


def score(smoothed: SmoothedSR, pairs: Sequence[datasets.Pair]) -> tuple[float, float]:
    """Return the mean Y-PSNR over images, and the seconds for all of them."""
    start = time.perf_counter()
    outputs = [smoothed(lr) for _, lr, _ in pairs]
    seconds = time.perf_counter() - start
    scores = [
        psnr(sr, hr, border=4, y=True).item() for sr, (_, _, hr) in zip(outputs, pairs, strict=True)
    ]
    return statistics.mean(scores), seconds


def figure_of(found: Distances) -> Figure:
    """Draw dB to the ideal mean against passes, a panel for each network."""
    names = list(dict.fromkeys(name for name, _ in found))
    figure = Figure(figsize=(0.6 + 3 * len(names), 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for paired, label in KINDS.items():
            axis.plot(PASSES, found[name, paired], marker=".", label=label)
        axis.set_xscale("log")
        axis.set_xticks(PASSES, [str(n) for n in PASSES], minor=False)
        axis.set_xticks([], minor=True)
        axis.set(xlabel="passes", title=f"{name}, sigma {SIGMAS[name]:g}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("dB to the ideal mean")
    axes[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
