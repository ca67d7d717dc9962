"""How fast is smoothing, against its own forward passes and against what else a user would write?
Writes benchmarks/speed.md and the figure beside it.

    SMOOTHSR_DATA=... python benchmarks/speed.py
    python benchmarks/speed.py --models builtin --size 16 --rounds 3 --n-cert 200

All is measured in units of the floor: the same number of forward passes of the network alone, on
patches of the same shape, at the best batch and layout found by trying. Contestants take turns, and
a ratio is made within each round; tables show the median and the quartiles of the rounds. An image
is smoothed whole, and in tiles with a halo; rivals run on the same patches, one after the other.
Certificates are made in tiles. A network that is too slow for --seconds gets a smaller image, then
fewer certification draws; the tables say which.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from unittest.mock import patch as patched

import datasets
import torch
from matplotlib.figure import Figure
from processor import bfloat16_units
from torch import Tensor, nn
from torch.nn.functional import interpolate

from smoothsr import SmoothedSR, adapters
from smoothsr.engine import quantiles
from smoothsr.engine.order_statistics import order_statistics
from smoothsr.engine.passes import Passes, Watched
from smoothsr.engine.side_by_side import among
from smoothsr.engine.tiles import grid
from smoothsr.files import images
from smoothsr.files.atomic import replacing
from smoothsr.reports.figures import save_figure

CHECKPOINTS = {
    "builtin": "",
    "carn_m": "carn_m.pth",
    "DITN": "DITN_Real_x4.pth",
    "SPAN": "spanx4_ch48.pth",
    "RealESRGAN": "RealESRGAN_x4plus.pth",
}
CAT = Path(__file__).parents[1] / "examples" / "cat.png"
SIGMA, N = 0.03, 21
SMALLEST, FEWEST = 16, 100  # side of an image, certification draws
SIZES = (1, 2, 3, 4, 7, 11, 21, 32, 64, 128, 256)  # of batches that the floor is sought among
MOST = 2**17  # pixels of the largest of them
BATCH = 2**14  # pixels of the batch by which a round's seconds are guessed
WARM_UP = 6  # runs in which a smoother finds its batch
FLOOR, MEDIAN, MEAN = "floor", "median of 21", "mean of 6 in pairs"
HALF = "median of 21 in bfloat16"
STATISTICS, REST = "order statistics", "everything else"

Work = Callable[[], object]
Rounds = list[dict[str, float]]
"""Seconds of each contestant, in each round."""


class Found(NamedTuple):
    """What was measured of one network in one setting.

    Attributes:
        name: Of the network.
        where: Names the image and how it is cut.
        floor: Names the floor.
        rounds: Of the floor and its contestants.
    """

    name: str
    where: str
    floor: str
    rounds: Rounds


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
        plans = [*product(sizes, (torch.contiguous_format, torch.channels_last))]
        self.best = min(plans, key=lambda plan: self._seconds(*plan))

    def __call__(self) -> None:
        """Run all of them."""
        self.passes(self.count, *self.best)

    @torch.no_grad()
    def passes(self, count: int, size: int, layout: torch.memory_format) -> None:
        """Run count passes in batches, the last one shorter."""
        batch = self.patch.repeat(size, 1, 1, 1).contiguous(memory_format=layout)
        for start in range(0, count, size):
            self.model(batch[: count - start])

    def _seconds(self, size: int, layout: torch.memory_format) -> float:
        """Time a pass of a plan."""
        some = max(size, min(self.count, 8))
        return min(seconds(partial(self.passes, some, size, layout)) for _ in range(3)) / some

    def __str__(self) -> str:
        size, layout = self.best
        height, width = self.patch.shape[2:]
        name = str(layout).removeprefix("torch.")
        return f"{self.count} of {width}x{height}, batch {size}, {name}"


def seconds(work: Work) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write tables and figure."""
    args = options()
    if args.threads:
        torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    forward, certified = list[Found](), list[Found]()
    for name, model in networks(args.models):
        for tile in (None, args.tile):
            forward.append(measure_forward(name, model, tile, args))
            print(forward_row(forward[-1]), flush=True)
        try:
            certified.append(measure_certify(name, model, args))
            print(certified_row(certified[-1]), flush=True)
        except ValueError as error:  # of a network that certify refuses
            print(f"certify of {name} is left out: {error}", flush=True)
    figure = args.out.with_suffix(".png")
    save_figure(figure_of([*forward, *certified]), figure, dpi=80)
    text = "\n".join(page(args, forward, certified, figure.name, before)) + "\n"
    with replacing(args.out) as part:
        part.write_text(text, encoding="utf-8")
    print(f"\n{text}")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=[*CHECKPOINTS], choices=[*CHECKPOINTS])
    add("--size", type=int, default=64, help="side of the LR image at most (default 64)")
    add("--tile", type=int, default=8, help="side of the tiles (default 8)")
    add("--halo", type=int, default=2, help="read beyond a tile (default 2)")
    add("--n-cert", type=int, default=1000, help="certification draws at most (default 1000)")
    add("--rounds", type=int, default=9, help="in which all take turns (default 9)")
    add("--seconds", type=float, default=30, help="that a round may take, about (default 30)")
    add("--threads", type=int, help="of torch (default: its own)")
    add("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    if min(args.rounds, args.tile, args.halo + 1) < 1 or args.size < SMALLEST:
        parser.error(f"--rounds and --tile must be at least 1, and --size at least {SMALLEST}")
    return args


def networks(names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Load one network after the other; say which is left out."""
    for name in names:
        path = datasets.place() / "checkpoints" / CHECKPOINTS[name]
        if path.exists() or not CHECKPOINTS[name]:
            spec = str(path) if CHECKPOINTS[name] else name
            yield name, adapters.load(spec, scale=4).model.requires_grad_(False)
        else:
            print(f"{name} is left out: there is no {path}; SMOOTHSR_DATA names the data folder")


def picture(size: int) -> Tensor:
    """Bring the cat to (1,3,size,size): noise alone, some networks answer with their rounding."""
    sides = (size, size)
    return interpolate(images.read(CAT).pixels, sides, mode="bicubic", antialias=True).clamp(0, 1)


def patches(size: int, tile: int | None, halo: int) -> list[Tensor]:
    """Cut the patches (1,3,h,w) of an image of size x size pixels, which are of one shape."""
    lr = picture(size)
    return [
        lr[:, :, rows.first : rows.last, columns.first : columns.last][:, :, list(rows.gather)][
            ..., list(columns.gather)
        ]
        for rows, columns in grid(size, size, tile, halo)
    ]


def size_within(
    model: nn.Module, passes: float, tile: int | None, args: argparse.Namespace
) -> tuple[int, float]:
    """Choose the largest image, halved from --size, of which so many passes of each tile fit into
    --seconds, but for SMALLEST; return its side and the seconds.
    """
    size = args.size
    while True:
        parts = patches(size, tile, args.halo)
        batch = parts[0].repeat(max(1, BATCH // parts[0][0, 0].numel()), 1, 1, 1)
        with torch.no_grad():
            each = min(seconds(partial(model, batch)) for _ in range(3)) / len(batch)
        needed = passes * len(parts) * each
        if needed <= args.seconds or size // 2 < SMALLEST:
            return size, needed
        size //= 2


@torch.no_grad()
def measure_forward(
    name: str, model: nn.Module, tile: int | None, args: argparse.Namespace
) -> Found:
    """Let the floor, our two statistics and rivals take turns."""
    size, _ = size_within(model, (len(RIVALS) + 3) * N + 6, tile, args)
    parts = patches(size, tile, args.halo)
    floor = Floor(model, parts[0], N * len(parts))
    contestants: dict[str, Work] = {FLOOR: floor}
    for label, agg in ((MEDIAN, "median"), (MEAN, "mean")):
        smoothed = SmoothedSR(model, SIGMA, agg=agg, tile=tile, halo=args.halo)
        contestants[label] = partial(smoothed, picture(size))
    smoothed = SmoothedSR(model, SIGMA, tile=tile, halo=args.halo)
    contestants[HALF] = partial(in_bfloat16, smoothed, picture(size))
    for label in (MEDIAN, MEAN, HALF):
        for _ in range(WARM_UP):
            contestants[label]()
    for label, rival in RIVALS.items():
        contestants[label] = partial(on_each, rival, model, parts)
    return Found(name, where(size, tile, args), str(floor), take_turns(contestants, args.rounds))


@torch.no_grad()
def measure_certify(name: str, model: nn.Module, args: argparse.Namespace) -> Found:
    """Let the floor and two kinds of certificates take turns; the first round is not counted."""
    size, needed = size_within(model, 3 * args.n_cert, args.tile, args)
    n = max(FEWEST, min(args.n_cert, int(args.n_cert * args.seconds / needed)))
    parts = patches(size, args.tile, args.halo)
    floor = Floor(model, parts[0], (N + n) * len(parts))
    lr, passes = picture(size), Passes()
    cut: dict[str, Any] = {"tile": args.tile, "halo": args.halo, "side_by_side": True}
    smoothed = SmoothedSR(Watched(model, passes), SIGMA, N, **cut)
    rounds = []
    for _ in range(args.rounds + 1):
        times = {FLOOR: seconds(floor)}
        for kind in ("levels", "both"):
            times |= certify_seconds(smoothed, passes, lr, n, kind)
        rounds.append(times)
    text = f"{where(size, args.tile, args)}, n={n}"
    return Found(name, text, str(floor), rounds[1:])


def certify_seconds(
    smoothed: SmoothedSR, passes: Passes, lr: Tensor, n: int, kind: Any
) -> dict[str, float]:
    """Time a certificate, and in it the order statistics and everything else but the network: of
    threads side by side, what each spends on average.
    """
    spent, lock = [0.0], Lock()

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            start = time.perf_counter()
            result = work(*given)
            with lock:
                spent[0] += (time.perf_counter() - start) / among()
            return result

        return run

    kept, network = quantiles._Draws, passes.network
    with (
        patched.object(kept, "add", timed(kept.add)),
        patched.object(kept, "ranks", timed(kept.ranks)),
        patched("smoothsr.engine.draws.order_statistics", timed(order_statistics)),
    ):
        whole = seconds(partial(smoothed.certify, lr, n=n, kind=kind))
    rest = whole - spent[0] - (passes.network - network)
    return {kind: whole, f"{kind}: {STATISTICS}": spent[0], f"{kind}: {REST}": rest}


def take_turns(contestants: Mapping[str, Work], rounds: int) -> Rounds:
    """Time each of them in every round; the first round is not counted."""
    found = [{name: seconds(work) for name, work in contestants.items()} for _ in range(rounds + 1)]
    return found[1:]


def noisy(lr: Tensor, count: int = 1) -> Tensor:
    """Copies of lr (1,C,h,w) with noise, (count,C,h,w)."""
    return lr + SIGMA * torch.randn(count, *lr.shape[1:])


def loop_and_median(model: nn.Module, lr: Tensor) -> Tensor:
    """What a user would write first."""
    return torch.stack([model(noisy(lr)) for _ in range(N)]).median(0).values


def one_big_batch(model: nn.Module, lr: Tensor) -> Tensor:
    """All draws at once."""
    return model(noisy(lr, N)).median(0).values


def loop_and_mean(model: nn.Module, lr: Tensor) -> Tensor:
    """The mean of a study of smoothing for inverse problems: a running sum, clamped."""
    total = model(noisy(lr))
    for _ in range(N - 1):
        total = total + model(noisy(lr))
    return (total / N).clamp(0, 1)


def store_and_sort(model: nn.Module, lr: Tensor) -> Tensor:
    """Keep all draws, and sort them."""
    return torch.stack([model(noisy(lr)) for _ in range(N)]).sort(0).values[N // 2]


RIVALS = {
    "loop, stack, torch.median": loop_and_median,
    "one big batch, torch.median": one_big_batch,
    "loop, running mean of 21": loop_and_mean,
    "store all, torch.sort": store_and_sort,
}


def in_bfloat16(smoothed: SmoothedSR, lr: Tensor) -> Tensor:
    """Smooth as `--precision bfloat16` does."""
    with torch.autocast("cpu", torch.bfloat16):
        return smoothed(lr)


def on_each(
    rival: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, parts: Sequence[Tensor]
) -> None:
    """Run a rival on one patch after the other."""
    for part in parts:
        rival(model, part)


def where(size: int, tile: int | None, args: argparse.Namespace) -> str:
    """Name an image, and how it is cut."""
    return f"{size}x{size}, {f'tiles {tile}/{args.halo}' if tile else 'whole'}"


def quartiles(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(ratios) == 1:
        return (ratios[0],) * 3
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def ratio(found: Found, name: str, to: str = FLOOR) -> tuple[float, float, float]:
    """Quartiles of the ratio of one contestant to another over the rounds."""
    return quartiles([times[name] / times[to] for times in found.rounds])


def cell(found: Found, name: str, to: str = FLOOR) -> str:
    """Show the median of a ratio, and its quartiles."""
    low, middle, high = ratio(found, name, to)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def share(found: Found, kind: str, part: str) -> str:
    """Show which share of a certificate's time a part took."""
    low, middle, high = (100 * value for value in ratio(found, f"{kind}: {part}", kind))
    return f"{middle:.1f}% ({low:.1f}-{high:.1f})"


def head(found: Found) -> list[str]:
    """The cells that begin each row: network, image, floor and its seconds."""
    middle = statistics.median(times[FLOOR] for times in found.rounds)
    return [found.name, found.where, found.floor, f"{middle:.3g}"]


def forward_row(found: Found) -> str:
    """A row of the first table."""
    loop = next(iter(RIVALS))
    cells = [cell(found, name) for name in (MEDIAN, MEAN, HALF, *RIVALS)]
    return line([*head(found), *cells, *(cell(found, name, loop) for name in (MEDIAN, HALF))])


def certified_row(found: Found) -> str:
    """A row of the second table."""
    cells = [
        text
        for kind in ("levels", "both")
        for text in (cell(found, kind), *(share(found, kind, part) for part in (STATISTICS, REST)))
    ]
    return line([*head(found), *cells])


def line(cells: Sequence[str]) -> str:
    """A row of markdown."""
    return f"| {' | '.join(cells)} |"


def page(
    args: argparse.Namespace,
    forward: Sequence[Found],
    certified: Sequence[Found],
    figure: str,
    before: float,
) -> Iterator[str]:
    """Yield the lines of the page."""
    command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
    yield from ["# Speed", "", f"Made by `{command}`.", ""]
    yield (
        f"Times over that of the floor, the same number of forward passes of the network alone at "
        f"the best batch and layout: medians of {args.rounds} interleaved rounds, and their "
        f"quartiles. float32, but for one column, on a CPU ({bfloat16_units()}), "
        f"{torch.get_num_threads()} of {os.cpu_count()} threads, "
        f"torch {torch.__version__}; load average {before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after. The repository's cat, sigma {SIGMA:g}."
    )
    opening = ["network", "LR image", "floor: forward passes", "seconds"]
    over = [f"{name} over the loop with torch.median" for name in (MEDIAN, HALF)]
    columns = [*opening, MEDIAN, MEAN, HALF, *RIVALS, *over]
    yield from ["", f"`SmoothedSR` ({MEDIAN}, {MEAN}) and what else a user would write:", ""]
    yield from [line(columns), "|" + "---|" * len(columns), *map(forward_row, forward)]
    yield ""
    yield (
        "`certify`, with tiles side by side, and the shares of its time that are not the "
        "network's, of threads on average:"
    )
    yield ""
    columns = [*opening]
    for kind in ("levels", "both"):
        columns += [f"kind {kind}", f"{kind}: {STATISTICS}", f"{kind}: {REST}"]
    yield from [line(columns), "|" + "---|" * len(columns), *map(certified_row, certified)]
    yield f"\n![Times over the floor, with quartiles, a panel for each kind of work]({figure})"


def figure_of(found: Sequence[Found]) -> Figure:
    """Draw times over the floor: a panel for each kind of work, a column for each network."""
    panels: dict[tuple[str, ...], list[Found]] = {}
    for each in found:
        names = tuple(name for name in each.rounds[0] if name != FLOOR and ":" not in name)
        way = "certify" if "both" in names else each.where.split(", ")[1]
        panels.setdefault((way, *names), []).append(each)
    figure = Figure(figsize=(4.6 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((way, *contestants), column) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(contestants):
            low, middle, high = zip(*(ratio(each, name) for each in column), strict=True)
            spread = [
                [m - value for m, value in zip(middle, low, strict=True)],
                [value - m for m, value in zip(middle, high, strict=True)],
            ]
            shifted = [x + 0.1 * (place - (len(contestants) - 1) / 2) for x in range(len(column))]
            axis.errorbar(shifted, middle, spread, fmt="o", markersize=4, capsize=2, label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(column)), [each.name for each in column], rotation=20)
        axis.set(title=way, ylabel="time over the floor's", ylim=(0, None))
        axis.grid(alpha=0.3, axis="y")
        axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
