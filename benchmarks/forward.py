"""How fast is SmoothedSR's forward, against the loop that a user would write and against its own
floor?

    python benchmarks/forward.py [--model builtin] [--size 64] [-n 21] [--tile 4 --halo 2]

The floor is the n forward passes alone, of the whole image or of each tile's patch, at the best
batch and layout found by trying. All are timed in turn, several rounds, and the medians of the
rounds are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from smoothsr import SmoothedSR, adapters
from smoothsr.engine.tiles import grid

SIZES = (1, 2, 3, 4, 7, 11, 21, 32, 64, 128, 256)  # of batches that the floor is sought among
MOST = 2**17  # pixels of the largest of them


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Floor:
    """A number of forward passes of patches alone, at the best batch and layout.

    Args:
        model: Runs without gradients.
        patch: (1,C,h,w), of which there are many.
        count: How many passes.
    """

    def __init__(self, model: nn.Module, patch: Tensor, count: int) -> None:
        self.model, self.patch, self.count = model, patch, count
        pixels = patch.shape[2] * patch.shape[3]
        sizes = [size for size in SIZES if size <= count and size * pixels <= max(MOST, pixels)]
        layouts = (torch.contiguous_format, torch.channels_last)
        plans = [(size, layout) for layout in layouts for size in sizes]
        some = min(count, max(sizes))
        found = {
            plan: min(seconds(partial(self.passes, some, *plan)) for _ in range(4))
            for plan in plans
        }
        self.best = min(found, key=found.__getitem__)

    def __call__(self) -> None:
        """Run all of them."""
        self.passes(self.count, *self.best)

    @torch.no_grad()
    def passes(self, count: int, size: int, layout: torch.memory_format) -> None:
        """Run count passes in batches, the last one shorter."""
        batch = self.patch.repeat(size, 1, 1, 1).contiguous(memory_format=layout)
        for start in range(0, count, size):
            self.model(batch[: count - start])

    def __str__(self) -> str:
        size, layout = self.best
        pixels = "x".join(map(str, self.patch.shape[2:]))
        name = str(layout).removeprefix("torch.")
        return f"{self.count} forward passes of {pixels}, batch {size}, {name}"


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--size", type=int, default=64, help="side of the LR image")
    parser.add_argument("-n", type=int, default=21)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--halo", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    loaded = adapters.load(args.model)
    model, sigma = loaded.model.requires_grad_(False), 0.03
    lr = torch.rand(1, loaded.channels, args.size, args.size)
    smoothed = SmoothedSR(model, sigma, args.n, tile=args.tile, halo=args.halo)

    def loop() -> None:
        torch.stack([model(lr + sigma * torch.randn_like(lr)) for _ in range(args.n)]).median(0)

    with torch.no_grad():
        for _ in range(6):  # warm up, and let the smoother find its batch
            smoothed(lr)
        tiles = grid(args.size, args.size, args.tile, args.halo)
        side = len(tiles[0].rows.gather)
        floor = Floor(model, torch.rand(1, loaded.channels, side, side), args.n * len(tiles))
        rounds = [
            (seconds(loop), seconds(lambda: smoothed(lr)), seconds(floor))
            for _ in range(args.rounds)
        ]
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print(
        f"{loaded.name}, {args.size}x{args.size}, n={args.n}, float32, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    print(f"floor: {floor}: {times[2] * 1e3:.0f} ms")
    print(f"SmoothedSR / user's loop: {times[1] / times[0]:.2f}   (at most 0.75 wanted)")
    print(f"SmoothedSR / floor:       {times[1] / times[2]:.2f}   (at most 1.10 wanted)")


if __name__ == "__main__":
    main()
