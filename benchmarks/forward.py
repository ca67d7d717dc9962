"""How fast is SmoothedSR's forward, against the loop that a user would write and against its own
floor?

    python benchmarks/forward.py [--model builtin] [--size 64] [-n 21]

The floor is the n forward passes alone, at the best batch and layout found by trying. All are timed
in turn, several rounds, and the medians of the rounds are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from smoothsr import SmoothedSR, adapters


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--size", type=int, default=64, help="side of the LR image")
    parser.add_argument("-n", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    loaded = adapters.load(args.model)
    model, sigma = loaded.model, 0.03
    lr = torch.rand(1, loaded.channels, args.size, args.size)
    smoothed = SmoothedSR(model, sigma, args.n)

    def loop() -> None:
        torch.stack([model(lr + sigma * torch.randn_like(lr)) for _ in range(args.n)]).median(0)

    def passes(size: int, layout: torch.memory_format) -> None:
        for start in range(0, args.n, size):
            model(noisy[start : start + size].contiguous(memory_format=layout))

    noisy = lr + sigma * torch.randn(args.n, *lr.shape[1:])
    with torch.no_grad():
        plans = [
            (size, layout)
            for layout in (torch.contiguous_format, torch.channels_last)
            for size in (1, 2, 3, 4, 7, 11, 21)
        ]
        for _ in range(6):  # warm up, and let the smoother find its batch
            smoothed(lr)
        found = {plan: min(seconds(partial(passes, *plan)) for _ in range(4)) for plan in plans}
        best = min(found, key=found.__getitem__)
        rounds = [
            (seconds(loop), seconds(lambda: smoothed(lr)), seconds(lambda: passes(*best)))
            for _ in range(args.rounds)
        ]
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print(
        f"{loaded.name}, {args.size}x{args.size}, n={args.n}, float32, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    print(
        f"floor: {args.n} forward passes, batch {best[0]}, "
        f"{str(best[1]).removeprefix('torch.')}: {times[2] * 1e3:.0f} ms"
    )
    print(f"SmoothedSR / user's loop: {times[1] / times[0]:.2f}   (at most 0.75 wanted)")
    print(f"SmoothedSR / floor:       {times[1] / times[2]:.2f}   (at most 1.10 wanted)")


if __name__ == "__main__":
    main()
