"""How far can a picture's smoothed output move: certified, by the strongest attack found, at most?

For each picture one line: what the spectral certificate of the mean guarantees, ideal and served,
at linf and l2 radii, and with --attack what the strongest attack at linf 1/255 reaches. No
certificate of stability can exceed the physical limit, since a faithful network follows a uniform
change of all values: 20 log10(255) = 48.1 dB at 1/255.

    python benchmarks/spectral.py                     # five crops of Set5, five of B100
    python benchmarks/spectral.py --images babyx4.png --crop 128 --sigma 0.1 --attack
    python benchmarks/spectral.py --sigma 0.03 0.05 0.1 --grid 8/2 4/2 4/2/2 --crop 24 -n 300
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from datasets import folder as data_folder
from torch import Tensor, nn
from torch.nn import functional as F

from smoothsr import Certificate, SmoothedSR, adapters, attacks, metrics
from smoothsr.files import images
from smoothsr.metrics import to_8bit

LINF = (0.5 / 255, 1 / 255, 2 / 255)
L2_SIGMAS = (0.5, 1.0, 2.0)
EPS = 1 / 255  # of the attack
HEADS = (
    "picture",
    "sigma",
    "tile/halo",
    "bare",
    "mean",
    *(f"linf {radius * 255:g}" for radius in LINF),
    "served 1",
    *(f"l2 {share:g} s" for share in L2_SIGMAS),
    "levels 1",
    "attack 1",
    "seconds",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--images", nargs="+", help="names of LR files of Set5 or HR files of B100")
    parser.add_argument("--crop", type=int, default=64, help="LR pixels a side, upper left")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.1])
    parser.add_argument("--grid", nargs="+", default=["8/2"], help="TILE/HALO or TILE/HALO/NOISE")
    parser.add_argument("-n", default="1000", help='certification draws, or "auto"')
    parser.add_argument("--kind", default="both", choices=("both", "levels", "spectral"))
    parser.add_argument("--attack", action="store_true", help="attack the mean at linf 1/255")
    args = parser.parse_args()

    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    model = adapters.load(args.model).model
    for (name, lr, hr), sigma, grid in itertools.product(
        pictures(args.images, args.crop), args.sigma, args.grid
    ):
        smoothed = smoother(model, sigma, grid)
        start = time.perf_counter()
        n = args.n if args.n == "auto" else int(args.n)
        certificate = smoothed.certify(lr, n=n, kind=args.kind)
        seconds = time.perf_counter() - start
        cells = [*quality(smoothed, certificate, lr, hr), *guarantees(certificate)]
        cells += [attacked(smoothed, lr) if args.attack else "", f"{seconds:.1f}"]
        print(f"| {name} | {sigma:g} | {grid} | {' | '.join(cells)} |", flush=True)


def smoother(model: nn.Module, sigma: float, grid: str) -> SmoothedSR:
    """The mean of 21 independent draws on a grid TILE/HALO, or TILE/HALO/NOISE."""
    tile, halo, noise = map(float, [*grid.split("/"), "1"][:3])
    return SmoothedSR(
        model,
        sigma,
        21,
        "mean",
        antithetic=False,
        lattice=True,
        tile=int(tile) or None,
        halo=int(halo),
        halo_noise=noise,
    )


def pictures(names: Sequence[str] | None, crop: int) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield (name, LR, HR or None), each the upper left crop of so many LR pixels a side."""
    folder = data_folder() / "images"
    files = [*sorted((folder / "Set5_LRx4").iterdir()), *sorted((folder / "B100").iterdir())[:5]]
    if names:
        files = [found(folder, name) for name in names]
    for file in files:
        if file.parent.name == "Set5_LRx4":
            lr = images.read(file).pixels
            hr = images.read(folder / "Set5" / file.name.replace("x4", "")).pixels
        else:
            hr = images.read(file).pixels
            small = F.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
            lr = to_8bit(small) / 255
        side = min(crop, *lr.shape[2:])
        yield file.stem, lr[..., :side, :side], hr[..., : 4 * side, : 4 * side]


def found(folder: Path, name: str) -> Path:
    """Find a picture's file by its name."""
    return next(file for file in folder.rglob(name))


@torch.no_grad()
def quality(
    smoothed: SmoothedSR, certificate: Certificate, lr: Tensor, hr: Tensor | None
) -> list[str]:
    """Luma PSNR to the ground truth of the bare output and of the mean."""
    if hr is None:
        return ["", ""]
    outputs = (smoothed.model(lr).clamp(0, 1), certificate.sr)
    return [f"{metrics.psnr(output, hr, border=4, y=True).item():.2f}" for output in outputs]


def guarantees(certificate: Certificate) -> list[str]:
    """What no attack gets below, in dB."""
    if certificate.spectrum is None:
        cells = [""] * (len(LINF) + 1 + len(L2_SIGMAS))
    else:
        by_linf = certificate.psnr_curve(LINF, predictor="ideal", norm="linf")
        served = certificate.psnr(1 / 255, predictor="served", norm="linf")
        radii = [share * certificate.sigma for share in L2_SIGMAS]
        by_l2 = certificate.psnr_curve(radii, predictor="ideal")
        cells = [f"{value:.2f}" for value in (*by_linf, served, *by_l2)]
    if certificate.kind == "spectral":
        return [*cells, ""]
    levels = Certificate(**{**vars(certificate), "spectrum": None})
    return [*cells, f"{levels.psnr(1 / 255, predictor='ideal', norm='linf'):.2f}"]


def attacked(smoothed: SmoothedSR, lr: Tensor) -> str:
    """How near to its clean output the strongest attack found at linf 1/255 leaves the mean."""
    smooth = SmoothedSR(smoothed.model, smoothed.sigma, 16, "mean", seed=1)
    judge = SmoothedSR(smoothed.model, smoothed.sigma, 256, "mean", seed=2)
    with torch.no_grad():
        clean = judge(lr)
    start = EPS * attacks.leading_change(smoothed, lr).sign()
    changes = [torch.full_like(lr, EPS), torch.full_like(lr, -EPS), start, -start]
    changes.append(attacks.pgd(smooth, lr, eps=EPS, steps=10, starts=[start]) - lr)
    with torch.no_grad():
        errors = [(judge((lr + each).clamp(0, 1)) - clean).square().mean() for each in changes]
    return f"{-10 * math.log10(max(errors).item()):.2f}"


if __name__ == "__main__":
    main()
