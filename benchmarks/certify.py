"""What does certify cost on top of its forward passes, and does its memory grow with the number of
draws?

    python benchmarks/certify.py [--size 64] [--tile 8 --halo 2] [--kind both]

The time inside the network is set against that of the order statistics and of everything else, in
one run, and the whole against the same number of forward passes of patches at their best batch, run
before and after. Peak memory is that of new processes which certify with 100 and with 1000 draws,
by tiles.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from forward import Floor, seconds

from smoothsr import SmoothedSR, adapters
from smoothsr.engine import quantiles
from smoothsr.engine.tiles import grid


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--tile", type=int, default=8)
    parser.add_argument("--halo", type=int, default=2)
    parser.add_argument("--kind", default="both", choices=("levels", "spectral", "both"))
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        certify(args, args.tile, args.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    for tile in (None, args.tile):
        spent = certify(args, tile, 1000)
        rest = spent["total"] - spent["forward"] - spent["order statistics"]
        where = f"tile {tile}, halo {args.halo}" if tile else "one tile"
        print(
            f"certify(n=1000), {args.size}x{args.size}, {where}: {spent['total']:.1f} s, "
            f"{spent['forward']:.1f} s of it forward"
        )
        print(
            "  order statistics / forward: "
            f"{spent['order statistics'] / spent['forward']:.3f}   (at most 0.10 wanted)"
        )
        print(
            f"  everything else / forward:  {rest / spent['forward']:.3f}   (noise, padding, "
            "rounding, serving, spectrum)"
        )
        print(
            f"  certify / floor:            {spent['total'] / spent['floor']:.3f}   (1.08 wanted)"
        )
    options = {"size": args.size, "tile": args.tile, "halo": args.halo, "kind": args.kind}
    command = [sys.executable, __file__]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    few, many = (
        float(subprocess.run([*command, "--peak", n], capture_output=True, check=True).stdout)
        for n in ("100", "1000")
    )
    print(
        f"peak memory with tiles: {few:.0f} MiB for n=100, {many:.0f} MiB for n=1000: "
        f"{many / few:.2f}   (at most 1.30 wanted)"
    )


def certify(args: argparse.Namespace, tile: int | None, n: int) -> dict[str, float]:
    """Certify a random image, and add up the seconds of each part; of many draws, also those of the
    floor.
    """
    spent = {"forward": 0.0, "order statistics": 0.0, "total": 0.0, "floor": 0.0}

    def timed(name: str, work: Any) -> Any:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = work(*args)
            spent[name] += time.perf_counter() - start
            return result

        return run

    model, size = adapters.load("builtin").model.requires_grad_(False), args.size
    smoothed = SmoothedSR(model, 0.05, tile=tile, halo=args.halo)
    lr = torch.rand(1, 3, size, size)
    floor: Callable[[], object] = list
    if n > 100:
        with torch.no_grad():
            smoothed.certify(lr, n=100, kind=args.kind)  # find the batch size first
        tiles = grid(size, size, tile, args.halo)
        side = len(tiles[0].rows.gather)
        floor = Floor(model, torch.rand(1, 3, side, side), (n + smoothed.n) * len(tiles))
    before = seconds(floor)
    with (
        patch.object(smoothed.model, "forward", timed("forward", smoothed.model.forward)),
        patch.object(quantiles._Draws, "add", timed("order statistics", quantiles._Draws.add)),
        patch.object(quantiles._Draws, "ranks", timed("order statistics", quantiles._Draws.ranks)),
    ):
        timed("total", lambda: smoothed.certify(lr, n=n, kind=args.kind))()
    spent["floor"] = (before + seconds(floor)) / 2
    return spent


if __name__ == "__main__":
    main()
