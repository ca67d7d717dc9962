"""What do half precision and torch.compile save here, and what do they cost in quality and
certificate? Writes benchmarks/precision.md.

    SMOOTHSR_DATA=... python benchmarks/precision.py
    SMOOTHSR_DATA=... python benchmarks/precision.py --networks builtin --rounds 3 --n-cert 100

A quarter of an hour of two cores. Times are of one pass of a batch of 64x64 patches, in turn with
float32 in one process; medians over the rounds. Quality is that of the median of 21 draws at sigma
.03, on Set5's central crops of 48x48 LR pixels; certificates are of the mean, of a crop of 16x16,
at sigma .05, tile 4, halo 1 and twice the noise there.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from processor import bfloat16_units
from torch import nn
from torch._inductor import config as inductor

from smoothsr import SmoothedSR
from smoothsr.evaluation.records import Image
from smoothsr.files.atomic import replacing
from smoothsr.metrics import psnr

NETWORKS = {  # batch of 64x64 patches
    "builtin": 8,
    "builtin-clean": 8,
    "carn_m": 4,
    "spanx4_ch48": 2,
    "DITN_Real_x4": 2,
    "realesr-animevideov3": 2,
}
CERTIFIED = ("builtin", "builtin-clean")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIDE, CROP, SERVED = 48, 16, 21


class Row(NamedTuple):
    """One network in one precision; apart and quality in dB, certificate in dB or None."""

    network: str
    precision: str
    share: float
    apart: float
    quality: float
    certified: float | None


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--rounds", type=int, default=7, help="of each time (default 7)")
    parser.add_argument("--n-cert", type=int, default=300, help="draws (default 300)")
    parser.add_argument("--no-compile", action="store_true", help="leave the second table out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    lines = [*heading(args.n_cert)]
    for name in args.networks:
        for row in rows(name, args.rounds, args.n_cert):
            lines.append(table_row(row))
            print(lines[-1], flush=True)
    if not args.no_compile:
        lines += COMPILED
        for name in args.networks:
            lines.append(compiled_row(name, args.rounds))
            print(lines[-1], flush=True)
    with replacing(args.out) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cast(dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Run in a precision, None for float32."""
    return torch.autocast("cpu", dtype) if dtype else nullcontext()


@torch.no_grad()
def rows(name: str, rounds: int, n_cert: int) -> list[Row]:
    """Measure one network in each precision."""
    model = datasets.network(name)
    batch = torch.rand(NETWORKS[name], 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = batch.contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {key: [] for key in PRECISIONS}
    for _ in range(rounds + 1):
        for key, dtype in PRECISIONS.items():
            with cast(dtype):
                seconds[key].append(timed(lambda: model(batch)))
    full = statistics.median(seconds["float32"][1:])
    crops = [datasets.cropped(pair, SIDE) for pair in datasets.set5()]
    exact = [model(lr).clamp(0, 1) for _, lr, _ in crops]
    found = []
    for key, dtype in PRECISIONS.items():
        with cast(dtype):
            own = [model(lr).float().clamp(0, 1) for _, lr, _ in crops]
            smoothed = SmoothedSR(model, 0.03, SERVED, batch_size=NETWORKS[name], seed=0)
            outputs = [smoothed(lr) for _, lr, _ in crops]
            certified = certificate(model, crops[1], n_cert) if name in CERTIFIED else None
        apart = torch.stack([(a - b).square().mean() for a, b in zip(own, exact, strict=True)])
        scores = [
            float(psnr(a, hr, border=4, y=True))
            for a, (_, _, hr) in zip(outputs, crops, strict=True)
        ]
        share = statistics.median(seconds[key][1:]) / full
        off = float(apart.mean().sqrt()) * 255
        found.append(Row(name, key, share, off, statistics.mean(scores), certified))
    return found


def certificate(model: nn.Module, crop: Image, n: int) -> float:
    """The dB certified of the mean at linf 1/255."""
    smoothed = SmoothedSR(model, 0.05, agg="mean", tile=4, halo=1, halo_noise=2.0)
    made = smoothed.certify(datasets.cropped(crop, CROP).lr, n=n, kind="spectral")
    return float(made.psnr(1 / 255, predictor="ideal", norm="linf"))


@torch.no_grad()
def compiled_row(name: str, rounds: int) -> str:
    """Time one network as it is and compiled, in turn."""
    torch.compiler.reset()
    inductor.force_disable_caches = True  # or it would warm up by an earlier run
    plain, compiled = datasets.network(name), datasets.network(name)
    compiled.compile()
    batch = torch.rand(NETWORKS[name], 3, 64, 64)
    warm_up = timed(lambda: compiled(batch))
    last = batch.contiguous(memory_format=torch.channels_last)
    pairs = [
        (timed(lambda: plain(last)), timed(lambda: compiled(batch))) for _ in range(rounds + 1)
    ]
    before, after = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
    passes = warm_up / (before - after) if after < before else None
    pays = f"{passes * NETWORKS[name]:.0f}" if passes else "never"
    return f"| {name} | {after / before:.2f} | {warm_up:.0f} | {pays} |"


def timed(work: Callable[[], object]) -> float:
    """Time one call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def heading(n_cert: int) -> list[str]:
    """The page's first words."""
    return [
        "# Precision and compilation",
        "",
        f"Written by `benchmarks/precision.py` on a CPU ({platform.machine()}, {bfloat16_units()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}). Time: of a pass, over "
        "float32's. Apart: root mean square to float32's output, in 8-bit steps. Quality: Y-PSNR "
        f"of the median of {SERVED} on Set5's central crops. Certified: dB at linf 1/255 of the "
        f"mean, {n_cert} draws.",
        "",
        "| network | precision | time | apart, steps | quality, dB | certified, dB |",
        "|---|---|---|---|---|---|",
    ]


def table_row(row: Row) -> str:
    """A line of the first table."""
    certified = "" if row.certified is None else f"{row.certified:.2f}"
    return (
        f"| {row.network} | {row.precision} | {row.share:.2f} | {row.apart:.3f} | "
        f"{row.quality:.2f} | {certified} |"
    )


COMPILED = [
    "",
    "`torch.compile`, over the network as it is (both in their best layout); it pays after so many "
    "passes of 64x64 patches.",
    "",
    "| network | time | warm-up, s | pays after |",
    "|---|---|---|---|",
]

if __name__ == "__main__":
    main()
