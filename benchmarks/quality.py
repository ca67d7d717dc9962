"""What do the built-in networks reach, bare and smoothed, on clean and on noisy inputs? Writes the
model card's table.

    python benchmarks/quality.py            # prints, and writes benchmarks/quality.md

Y-PSNR in dB, border 4, means over Set5 and over 20 images of B100, x4; the noise is Gaussian on the
LR input, before smoothing.
"""

import argparse
import statistics
from pathlib import Path

import datasets
import torch
from torch.nn import functional as F
from tqdm import tqdm

from smoothsr import SmoothedSR, adapters
from smoothsr.metrics import psnr

NOISE = (0, 0.02, 0.05, 0.1)
SIGMAS = (0.02, 0.05, 0.1)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=["builtin", "builtin-clean", "builtin-smooth"]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    networks = {"bicubic": lambda lr: F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1)}
    for name in args.models:
        model = adapters.load(name).model
        networks[f"{name}, bare"] = model
        networks |= {f"{name}, smoothed by {sigma:g}": SmoothedSR(model, sigma) for sigma in SIGMAS}
    lines = [
        "| network | "
        f"{' | '.join(f'{data}, noise {noise:g}' for data in ('Set5', 'B100') for noise in NOISE)} "
        "|"
    ]
    lines.append("|---|" + "---|" * 2 * len(NOISE))
    print("\n".join(lines))
    sets = [list(datasets.set5()), list(datasets.b100())]
    for name, network in networks.items():
        cells = []
        for pairs in sets:
            for noise in NOISE:
                with torch.no_grad():
                    outputs = (
                        (network(datasets.noisy(lr, noise)), hr)
                        for _, lr, hr in tqdm(pairs, disable=None, leave=False)
                    )
                    scores = [psnr(sr, hr, border=4, y=True).item() for sr, hr in outputs]
                cells.append(f"{statistics.mean(scores):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    part = args.out.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(args.out)


if __name__ == "__main__":
    main()
