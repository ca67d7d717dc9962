"""Which tile and halo make the strongest certificate? Writes benchmarks/tiles.md.

    python benchmarks/tiles.py [--sigma 0.1] [--crop 64]

Crops of Set5 and of some B100 images, the built-in network: what tiling costs in quality and work,
and what it brings in certified PSNR against the output itself (stability, ideal predictor, n=1000,
alpha=.001).
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import datasets
import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothsr import SmoothedSR, adapters
from smoothsr.files.atomic import replacing
from smoothsr.metrics import psnr

CHOICES = [(16, 4), (8, 2), (8, 0)]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--b100", type=int, default=0, help="how many B100 images")
    parser.add_argument("--only", help="one image by name")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    model = adapters.load(args.model).model
    pairs = [
        pair
        for pair in chain(datasets.set5(), islice(datasets.b100(), args.b100))
        if args.only in (None, pair[0])
    ]

    lines = head(args, [name for name, _, _ in pairs])
    print("\n".join(lines))
    for tile, halo in CHOICES:
        found = [
            scores(model, args.sigma, tile, halo, *datasets.cropped(pair, args.crop)[1:])
            for pair in tqdm(pairs, desc=f"{tile}/{halo}", disable=None, leave=False)
        ]
        cells = [
            f"{statistics.mean(column):.2f} ({min(column):.2f})"
            for column in zip(*found, strict=True)
        ]
        work = (1 + 2 * halo / tile) ** 2
        lines.append(f"| {tile} / {halo} | {work:.2f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    with replacing(args.out) as part:
        part.write_text("\n".join(lines) + "\n")


def head(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The page's lines above the rows."""
    sigma, side = args.sigma, args.crop
    return [
        f"`python benchmarks/tiles.py --sigma {sigma:g} --crop {side}`: "
        f"{len(names)} crops of {side}x{side} LR pixels ({', '.join(names)}), {args.model}, sigma "
        f"{sigma:g}, n=1000, alpha=.001, G=32, "
        "ideal predictor; means over images of the PSNR to the ground truth (RGB) and of the "
        "certified PSNR to the output itself, "
        "in dB; in brackets the smallest.",
        "",
        f"| tile / halo | work | to ground truth | box, eps {sigma:g} | collective, eps "
        f"{sigma:g} | collective, eps {1.5 * sigma:g} | linf .5/255 | linf 1/255 |",
        "|---|---|---|---|---|---|---|---|",
    ]


def scores(
    model: nn.Module, sigma: float, tile: int, halo: int, lr: Tensor, hr: Tensor
) -> list[float]:
    """PSNR to the ground truth, and what is certified of it."""
    certificate = SmoothedSR(model, sigma, tile=tile, halo=halo).certify(lr)
    certified = partial(certificate.psnr, predictor="ideal")
    return [
        float(psnr(certificate.sr, hr, border=4)),
        certified(sigma, method="box"),
        certified(sigma),
        certified(1.5 * sigma),
        certified(0.5 / 255, norm="linf"),
        certified(1 / 255, norm="linf"),
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
