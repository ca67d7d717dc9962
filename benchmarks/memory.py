"""Does the memory of certify grow with the number of draws?

    python benchmarks/memory.py [--size 64] [--tile 8 --halo 2] [--kind both]

The peak memory of new processes that certify a random image by tiles, with 100 and with 1000
draws.
"""

import argparse
import resource
import subprocess
import sys

import torch

from smoothsr import SmoothedSR, adapters


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="side of the LR image (default 64)")
    parser.add_argument("--tile", type=int, default=8)
    parser.add_argument("--halo", type=int, default=2)
    parser.add_argument("--kind", default="both", choices=("levels", "spectral", "both"))
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak(args))
        return
    command = [sys.executable, *sys.argv, "--peak"]
    few, many = (
        float(subprocess.run([*command, n], stdout=subprocess.PIPE, check=True).stdout)
        for n in ("100", "1000")
    )
    print(
        f"peak memory with tiles: {few:.0f} MiB for n=100, {many:.0f} MiB for n=1000: "
        f"{many / few:.2f}   (at most 1.30 wanted)"
    )


def peak(args: argparse.Namespace) -> float:
    """Certify in this process, and return its peak memory in MiB."""
    smoothed = SmoothedSR(adapters.load("builtin").model, 0.05, tile=args.tile, halo=args.halo)
    smoothed.certify(torch.rand(1, 3, args.size, args.size), n=args.peak, kind=args.kind)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
