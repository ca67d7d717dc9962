"""What does damping cost, and what does it certify? Draws the quality of networks under smoothing
against their certificates, `builtin` and `builtin-clean` beside ones that finetune made.

    python benchmarks/smooth_weights.py w0.safetensors w0.05.safetensors ...

Set5's Y-PSNR, bare and as the mean of 21 draws at sigma .05; and what is certified of the upper
left part of Set5's bird at linf 1/255 (ideal mean, tile 4, halo 2, spectral).
"""

import argparse
import statistics
from pathlib import Path

import datasets
import torch
from matplotlib.figure import Figure
from torch import nn

from smoothsr import SmoothedSR, adapters
from smoothsr.metrics import psnr

SIGMA, N, RADIUS = 0.05, 21, 1 / 255


@torch.no_grad()
def set5(network: nn.Module) -> float:
    """Mean Y-PSNR in dB on Set5."""
    scores = [psnr(network(lr), hr, border=4, y=True).item() for _, lr, hr in datasets.set5()]
    return statistics.mean(scores)


def certified(network: nn.Module, side: int, draws: int) -> float:
    """The certified PSNR in dB of the ideal mean to what it is without a change."""
    bird = next(lr for name, lr, _ in datasets.set5() if name == "bird")
    smoothed = SmoothedSR(network, SIGMA, agg="mean", tile=4, halo=2)
    certificate = smoothed.certify(bird[..., :side, :side], n=draws, kind="spectral")
    return certificate.psnr(RADIUS, predictor="ideal", norm="linf")


def draw(rows: dict[str, tuple[float, float, float]], path: Path) -> None:
    """Draw a point for each network, and the line between the two that were there before."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    ends = [rows[name][1:] for name in ("builtin", "builtin-clean")]
    axis.plot(*zip(*ends, strict=True), "--", color="0.6")
    for name, (_, smoothed, stable) in rows.items():
        axis.plot(smoothed, stable, "o")
        axis.annotate(name, (smoothed, stable), (4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel="Set5, mean of 21 at sigma .05, dB", ylabel="certified at linf 1/255, dB")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, and write it and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="weights of finetune")
    parser.add_argument("--side", type=int, default=64, help="of what is certified (default 64)")
    parser.add_argument("--n-cert", type=int, default=1000, help="draws (default 1000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    lines = ["| network | bare | mean of 21 | certified at linf 1/255 |", "|---|---|---|---|"]
    print("\n".join(lines))
    rows = {}
    for spec in ["builtin", "builtin-clean", "builtin-smooth", *args.files]:
        network = adapters.load(spec).model.requires_grad_(False)
        served = SmoothedSR(network, SIGMA, N, "mean", antithetic=False, seed=0)
        name = Path(spec).stem if Path(spec).suffix else spec
        rows[name] = (set5(network), set5(served), certified(network, args.side, args.n_cert))
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in rows[name])} |")
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
