"""Do the published checkpoints reach their published scores when `adapters.load` reads them?

    SMOOTHSR_DATA=... python benchmarks/checkpoints.py [NAME ...]

Set5, x4, PSNR of the luma with a border of 4 pixels cropped, against the figures that came with the
files; without smoothing, on whole images. Names choose files by their beginning; the largest
network takes minutes on a CPU.
"""

import argparse
import time

import datasets
import torch

from smoothsr import adapters, metrics

PUBLISHED = {
    "realesr-animevideov3.pth": 28.25,
    "spanx4_ch48.pth": 32.20,
    "DITN_Real_x4.pth": 32.10,
    "DITN_Real_GAN_x4.pth": 25.84,
    "carn_m.pth": 31.88,
    "RealESRGAN_x4plus.pth": 26.63,
}


def main() -> None:
    """Print the table, and whether each score is within 0.05 dB of the published one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=[""], help="beginnings of file names; all by default"
    )
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    pairs = list(datasets.set5())
    print(
        "| file | network | Y-PSNR, dB | published | difference | seconds "
        "|\n|---|---|---|---|---|---|"
    )
    for file, published in PUBLISHED.items():
        if file.startswith(tuple(args.names)):
            sr = adapters.load(
                datasets.folder() / "checkpoints" / file, scale=4, device=args.device
            )
            start = time.perf_counter()
            with torch.no_grad():
                outputs = [(sr.model(lr.to(args.device)).cpu(), hr) for _, lr, hr in pairs]
            seconds = time.perf_counter() - start
            score = sum(
                metrics.psnr(output, hr, border=4, y=True).item() for output, hr in outputs
            ) / len(outputs)
            verdict = f"{score - published:+.3f}" + (
                "" if abs(score - published) <= 0.05 else " (too far)"
            )
            print(
                f"| {file} | {sr.name} | {score:.2f} | {published:.2f} | {verdict} | "
                f"{seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
