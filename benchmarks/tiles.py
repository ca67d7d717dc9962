"""Which tile and halo make the strongest certificate? Writes benchmarks/tiles.md.

    python benchmarks/tiles.py [--sigma 0.1] [--crop 64]

Crops of Set5 and of some B100 images, the built-in network: what tiling costs in quality and work,
and what it brings in certified PSNR against the output itself (stability, ideal predictor, n=1000,
alpha=.001).
"""

import argparse
import statistics
from itertools import chain, islice
from pathlib import Path

import datasets
import torch
from tqdm import tqdm

from smoothsr import SmoothedSR, adapters
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

    lines = [
        f"`python benchmarks/tiles.py --sigma {args.sigma:g} --crop {args.crop}`: "
        f"{len(pairs)} crops of {args.crop}x{args.crop} "
        f"LR pixels ({', '.join(name for name, _, _ in pairs)}), {args.model}, sigma "
        f"{args.sigma:g}, n=1000, alpha=.001, G=32, "
        "ideal predictor; means over images of the PSNR to the ground truth (RGB) and of the "
        "certified PSNR to the output itself, "
        "in dB; in brackets the smallest.",
        "",
        f"| tile / halo | work | to ground truth | box, eps {args.sigma:g} | collective, eps "
        f"{args.sigma:g} | "
        f"collective, eps {1.5 * args.sigma:g} | linf .5/255 | linf 1/255 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for tile, halo in CHOICES:
        found = []
        for _, lr, hr in tqdm(pairs, desc=f"{tile}/{halo}", disable=None, leave=False):
            top, left = ((side - args.crop) // 2 for side in lr.shape[2:])
            small = lr[..., top : top + args.crop, left : left + args.crop]
            large = hr[..., 4 * top : 4 * (top + args.crop), 4 * left : 4 * (left + args.crop)]
            certificate = SmoothedSR(model, args.sigma, tile=tile, halo=halo).certify(small)
            quality = float(psnr(certificate.sr, large, border=4))

            def certified(
                radius: float, method: str = "collective", norm: str = "l2", certificate=certificate
            ) -> float:
                return certificate.psnr(radius, method=method, predictor="ideal", norm=norm)

            l2 = [certified(args.sigma, "box"), certified(args.sigma), certified(1.5 * args.sigma)]
            found.append(
                [quality, *l2, certified(0.5 / 255, norm="linf"), certified(1 / 255, norm="linf")]
            )
        cells = [
            f"{statistics.mean(column):.2f} ({min(column):.2f})"
            for column in zip(*found, strict=True)
        ]
        lines.append(
            f"| {tile} / {halo} | {(1 + 2 * halo / tile) ** 2:.2f} | " + " | ".join(cells) + " |"
        )
        print(lines[-1], flush=True)
    part = args.out.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(args.out)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
