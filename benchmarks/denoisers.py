"""What does a denoiser in front of a frozen network bring, and how strong should it take the noise
to be?

    python benchmarks/denoisers.py quality strengths time
    python benchmarks/denoisers.py attack certified --networks spanx4_ch48.pth carn_m.pth

Quality over Set5; strengths, as shares of sigma, over five networks; the worst attack found; what
is certified, by denoiser and by strength; and the denoiser's time. All of them stand in
benchmarks/denoisers.md. The noise of every row is of one seed, but for certificates, whose noise is
fresh.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import datasets
import torch
from torch import Tensor, nn

from smoothsr import SmoothedSR, adapters, attacks
from smoothsr.adapters.denoisers import Denoiser
from smoothsr.metrics import psnr

PARTS = ("quality", "strengths", "attack", "certified", "certified-strengths", "time")
NETWORKS = (
    "spanx4_ch48.pth",
    "DITN_Real_x4.pth",
    "carn_m.pth",
    "realesr-animevideov3.pth",
    "RealESRGAN_x4plus.pth",
)
SIGMAS = (0.03, 0.05)
SHARES = (0.5, 0.6, 0.7, 0.85, 1.0)
EPS = 1 / 255
STEPS = 5  # of each PGD in the search for the worst attack
CUT: dict[str, Any] = {"tile": 4, "halo": 1, "halo_noise": 2.0}  # of what is certified


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", default=[*PARTS], help=f"of {', '.join(PARTS)}")
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS])
    parser.add_argument("--n-cert", type=int, default=1000, help="draws of a certificate")
    args = parser.parse_args()
    if unknown := {*args.part} - {*PARTS}:
        parser.error(f"no part is called {sorted(unknown)[0]}: use {', '.join(PARTS)}")
    tables: dict[str, Callable[[], Iterator[str]]] = {
        "quality": partial(quality, args.networks[0]),
        "strengths": partial(strengths, args.networks),
        "attack": partial(worst_attack, args.networks),
        "certified": partial(certified, args.networks, args.n_cert),
        "certified-strengths": partial(certified_strengths, args.networks, args.n_cert),
        "time": duration,
    }
    for part in args.part:
        for line in tables[part]():
            print(line, flush=True)
        print()


def denoisers() -> dict[str, Denoiser | None]:
    """None, the built-in one, and the published FFDNet."""
    published = str(datasets.folder() / "denoisers/ffdnet_color.pth")
    files = {"builtin": "builtin", "FFDNet": published}
    return {"none": None} | {name: adapters.load_denoiser(f).model for name, f in files.items()}


def crops(side: int, count: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """Central crops of the first pictures of Set5: LR (1,3,side,side), and HR."""
    for pair in itertools.islice(datasets.set5(), count):
        _, lr, hr = datasets.cropped(pair, side)
        yield lr, hr


@torch.no_grad()
def score(model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> str:
    """The mean Y-PSNR, as the tables of papers have it."""
    scores = [psnr(model(lr).clamp(0, 1), hr, border=4, y=True).item() for lr, hr in pairs]
    return f"{statistics.mean(scores):.2f}"


def line(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def quality(name: str) -> Iterator[str]:
    """Set5, whole pictures, the median of 21 draws and the mean of 6 in pairs."""
    model = datasets.network(name)
    pairs = [(lr, hr) for _, lr, hr in datasets.set5()]
    yield f"Set5, {name}, Y-PSNR in dB without an attack; bare {score(model, pairs)}\n"
    yield line("denoiser", *(f"{agg}, sigma {s:g}" for agg in ("median", "mean") for s in SIGMAS))
    yield "|---|" + "---|" * 2 * len(SIGMAS)
    for kind, denoiser in denoisers().items():
        cells = [
            score(SmoothedSR(model, sigma, agg=agg, denoiser=denoiser, seed=0), pairs)
            for agg in ("median", "mean")
            for sigma in SIGMAS
        ]
        yield line(kind, *cells)


def strengths(names: Sequence[str]) -> Iterator[str]:
    """Crops of 32x32, the mean of 6 draws in pairs, the built-in denoiser."""
    pairs = [*crops(32)]
    yield "Set5, central crops of 32x32, Y-PSNR in dB of the mean of 6 draws in pairs; what the"
    yield "built-in denoiser is told, as a share of sigma\n"
    yield line("network", "sigma", "bare", "none", *(f"{share:g}" for share in SHARES))
    yield "|---|" + "---|" * (3 + len(SHARES))
    denoiser = adapters.load_denoiser("builtin").model
    for name in names:
        model = datasets.network(name)
        bare = score(model, pairs)
        for sigma in SIGMAS:
            smoothed = partial(SmoothedSR, model, sigma, agg="mean", seed=0)
            told = [
                score(smoothed(denoiser=denoiser, denoiser_sigma=share * sigma), pairs)
                for share in SHARES
            ]
            yield line(name, f"{sigma:g}", bare, score(smoothed(), pairs), *told)


def worst_attack(names: Sequence[str]) -> Iterator[str]:
    """Crops of 16x16, by attacks.strongest with fewer steps."""
    yield "Bird and butterfly, central crops of 16x16, sigma .05, mean of 6 draws in pairs: Y-PSNR"
    yield "in dB without an attack and under the worst of linf 1/255 that attacks.strongest finds"
    yield f"in {STEPS} steps\n"
    kinds = ["bare", *denoisers()]
    yield line("network", *(f"{kind}, {how}" for kind in kinds for how in ("clean", "attacked")))
    yield "|---|" + "---|" * 2 * len(kinds)
    pairs = [*crops(16, 3)][1:]
    pgd = partial(attacks.pgd, steps=STEPS)
    for name in names:
        model = datasets.network(name)
        smoothed = partial(SmoothedSR, model, 0.05, agg="mean", seed=0)
        targets = [model, *(smoothed(denoiser=each) for each in denoisers().values())]
        cells = []
        for target in targets:
            search = partial(
                attacks.strongest, target, eps=EPS, attacks=(attacks.fgsm, pgd), adaptive=(pgd,)
            )
            attacked = [(search(lr, hr), hr) for lr, hr in pairs]
            cells += [score(target, pairs), score(target, attacked)]
        yield line(name, *cells)


def certified(names: Sequence[str], n_cert: int) -> Iterator[str]:
    """What is certified of the middle of bird by each denoiser, at the default strength."""
    yield from certificate_text(n_cert)
    yield line("network", "denoiser", "without an attack", "stability", "to the truth")
    yield "|---|---|---|---|---|"
    for name, (kind, denoiser) in itertools.product(names, denoisers().items()):
        yield line(name, kind, *certified_cells(name, n_cert, denoiser=denoiser))


def certified_strengths(names: Sequence[str], n_cert: int) -> Iterator[str]:
    """What is certified of the middle of bird by each strength of the built-in denoiser."""
    yield "By what the built-in denoiser is told, as a share of sigma.\n"
    yield from certificate_text(n_cert)
    yield line("network", "share", "without an attack", "stability", "to the truth")
    yield "|---|---|---|---|---|"
    denoiser = adapters.load_denoiser("builtin").model
    for name, share in itertools.product(names, SHARES):
        told = {"denoiser": denoiser, "denoiser_sigma": share * 0.05}
        yield line(name, f"{share:g}", *certified_cells(name, n_cert, **told))


def certificate_text(n_cert: int) -> Iterator[str]:
    """Say what a certificate's figures are."""
    yield f"Bird, central crop of 24x24, sigma .05, tile 4, halo 1, halo noise 2, {n_cert} draws,"
    yield "the mean: PSNR in dB without an attack; and what no change of every value by up to 1/255"
    yield "can undercut, of the ideal mean, to its own output without a change and to the truth\n"


def certified_cells(name: str, n_cert: int, **denoised: Any) -> list[str]:
    """PSNR without an attack, and certified to the own output and to the truth."""
    lr, hr = [*crops(24, 2)][1]
    smoothed = SmoothedSR(datasets.network(name), 0.05, agg="mean", lattice=True, **CUT, **denoised)
    certificate = smoothed.certify(lr, n=n_cert, kind="spectral")
    own, true = (
        certificate.psnr(EPS, reference, norm="linf", predictor="ideal") for reference in (None, hr)
    )
    return [f"{value:.2f}" for value in (psnr(certificate.sr, hr).item(), own, true)]


@torch.no_grad()
def duration() -> Iterator[str]:
    """Batches of whole patches and of certificates' patches, run in turns."""
    yield "Time of the built-in denoiser over that of the built-in network, medians of 15 runs in"
    yield "turns\n"
    yield line("patches", "share")
    yield "|---|---|"
    network = adapters.load("builtin").model.to(memory_format=torch.channels_last)
    denoiser = adapters.load_denoiser("builtin").model.to(memory_format=torch.channels_last)
    sigma = torch.tensor(0.03)
    for count, side in ((8, 64), (64, 12), (256, 6)):
        noisy = torch.rand(count, 3, side, side).to(memory_format=torch.channels_last)
        runs = (partial(denoiser, noisy, sigma), partial(network, noisy))
        seconds = [[seconds_of(run) for run in runs] for _ in range(15)]
        first, second = (statistics.median(each) for each in zip(*seconds, strict=True))
        yield line(f"{count} of {side}x{side}", f"{first / second:.2f}")


def seconds_of(run: Callable[[], object]) -> float:
    """Time one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
