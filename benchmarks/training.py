"""What does each way of training bring a network that will be smoothed, and what does it cost?
Trains two networks by each method of `smoothsr finetune`, equally many steps each, measures them
bare and smoothed, and writes benchmarks/training.md and the figure beside it.

    SMOOTHSR_DATA=... python benchmarks/training.py [--photos photos]

It takes three hours of one core, a third of it training; killed, it goes on where it was. Processes
share it by network: `--starts carn_m --measure`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm
from training_page import (
    ABLATED,
    ABLATION,
    ATTACKS,
    CLEAN,
    FRONT,
    RADII,
    SERVED,
    SIGMA,
    SIGMAS,
    UNTRAINED,
    Certified,
    Found,
    Start,
    figure_of,
    page,
)

from smoothsr import SmoothedSR, adapters
from smoothsr.adapters.denoisers import Denoiser
from smoothsr.cli import finetune
from smoothsr.cli.parser import parser
from smoothsr.evaluation import conditions
from smoothsr.evaluation.records import NONE, Denoising, Image, Record, Setting
from smoothsr.evaluation.study import Study
from smoothsr.files.atomic import replacing
from smoothsr.files.digests import fingerprint
from smoothsr.reports.figures import save_figure
from smoothsr.training.fine_tuning import DivergedError
from smoothsr.training.methods import METHODS

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from photographs import fetch  # noqa: E402

PERCEPTUAL = "l1+0.1*lpips"  # of the ablation
CERTIFIED = ("bird", "butterfly")  # central 24x24
DRAWS = 500  # of a certificate


STARTS = {"builtin-clean": Start(400, 8, 5, 48, ("l1", PERCEPTUAL)), "carn_m": Start(200, 4, 3, 32)}


def main() -> None:
    """Train and measure what is missing, then write the page."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--starts", nargs="+", default=[*STARTS], choices=[*STARTS], help="(default: all)")
    add("--photos", type=Path, default=Path("photos"), help="where the packages are kept")
    add("--parts", type=Path, default=Path("training_parts"), help="networks and scores")
    add("--measure", action="store_true", help="write no page, for processes that share the work")
    add("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = options.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    found = {name: measured(name, args.photos, args.parts) for name in args.starts}
    if args.measure:
        return
    figure = args.out.with_suffix(".png")
    save_figure(figure_of(found), figure, dpi=80)
    text = "\n".join(page(found, {name: STARTS[name] for name in found}, figure.name)) + "\n"
    with replacing(args.out) as part:
        part.write_text(text, encoding="utf-8")
    print(text)


def measured(start: str, photos: Path, parts: Path) -> Found:
    """Train and measure what is missing of one network."""
    files = {
        method: trained(start, method, "l1", photos, parts / f"{start}_{method}.safetensors")
        for method in METHODS
    }
    networks = {UNTRAINED: network(datasets.spec(start))}
    networks |= {method: network(file) for method, file in files.items() if file.exists()}
    folder = parts / f"scores_{start}"
    folder.mkdir(exist_ok=True)
    images = pictures(STARTS[start].pictures, STARTS[start].side)
    return Found(
        records=[*scores(networks, images, folder)],
        certified=dict(certificates(networks, folder)),
        minutes={method: minutes(file) for method, file in files.items()},
        ablation=[*ablation(start, images, photos, parts)],
    )


def trained(start: str, method: str, loss: str, photos: Path, out: Path) -> Path:
    """Return the file of a trained network, which isn't there if the training diverged.

    What is said of a divergence is kept beside it, and is an answer too.
    """
    diverged = out.with_suffix(".diverged")
    if out.exists() or diverged.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    steps, batch, *_ = STARTS[start]
    command = ["finetune", "-m", datasets.spec(start), "-s", "4", "--out", str(out)]
    command += ["--data", *fetch(photos), "--reduce", "2,3,4", "--cache", str(photos / "cache")]
    command += ["--method", method, "--loss", loss, "--steps", str(steps), "--batch", str(batch)]
    command += ["--patch", "32", "--lr", "2e-4", "--device", "cpu"]
    command += ["--lpips-weights", str(lpips_weights())]
    try:
        finetune.run(parser().parse_args(command))
    except DivergedError as error:
        diverged.write_text(str(error), encoding="utf-8")
    return out


def network(spec: str | Path) -> nn.Module:
    """Load a network whose weights want no gradients."""
    return adapters.load(spec, scale=4).model.requires_grad_(False)


def lpips_weights() -> Path:
    """The file of LPIPS's weights."""
    return datasets.folder() / "metrics/lpips_alex.pth"


def minutes(file: Path) -> float | None:
    """How long a training took; None if it diverged."""
    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        return float(opened.metadata()["minutes"])


def pictures(count: int, side: int) -> list[Image]:
    """Central crops of the first pictures of Set5."""
    return [datasets.cropped(pair, side) for pair in islice(datasets.set5(), count)]


def scores(networks: dict[str, nn.Module], images: list[Image], folder: Path) -> Iterator[Record]:
    """Yield what each network scores, bare and in each way that it is smoothed; and, behind a
    denoiser, the one before training.
    """
    denoisers = {NONE: Denoising(), FRONT: Denoising(denoiser())}
    for served, (agg, n) in SERVED.items():
        sigma = SIGMA if n else 0.0
        wanted = CLEAN | {name: ATTACKS[name] for name in ATTACKS if n or "@bare" in ATTACKS[name]}
        for name, model in networks.items():
            behind = [NONE, FRONT] if n and name == UNTRAINED else [NONE]
            study = Study(
                folder,
                {name: model},
                [Setting.of(sigma, n, None, 0, denoiser=each) for each in behind],
                [conditions.parse(text) for text in wanted.values()],
                ("psnr_y", "ssim_y", "lpips"),
                agg=agg,
                lpips_weights=lpips_weights(),
                denoisers=denoisers,
            )
            yield from records(study, images, f"{name}, {served}")


def records(study: Study, images: list[Image], what: str) -> Iterator[Record]:
    """Measure what is missing and yield all records."""
    for image in tqdm(images, desc=what, disable=None, leave=False):
        study.measure(image)
        yield from study.records(image) or []


def denoiser() -> Denoiser:
    """The one that comes with the project."""
    return adapters.load_denoiser("builtin").model


def certificates(networks: dict[str, nn.Module], folder: Path) -> Iterator[tuple[str, Certified]]:
    """Yield what is certified of each network's mean, in dB at each of RADII, the mean over
    pictures; kept by the networks' fingerprints.
    """
    for name, model in networks.items():
        yield name, certified(model, None, folder)
    yield FRONT, certified(networks[UNTRAINED], denoiser(), folder)


def certified(model: nn.Module, front: Denoiser | None, folder: Path) -> Certified:
    """What no change of every value by up to a radius can undercut, of the ideal mean to its own
    output without a change.
    """
    parts = [model, front] if front else [model]
    file = folder / f"certified_{fingerprint(*parts)[:16]}"
    if not file.exists():
        cut: dict[str, Any] = {"tile": 4, "halo": 1, "halo_noise": 2.0, "lattice": True}
        smoothed = SmoothedSR(model, SIGMA, agg="mean", denoiser=front, **cut)
        images = [image for image in pictures(5, 24) if image.name in CERTIFIED]
        found = [smoothed.certify(image.lr, n=DRAWS, kind="spectral") for image in images]
        stable = {
            str(radius): sum(each.psnr(radius, norm="linf", predictor="ideal") for each in found)
            / len(found)
            for radius in RADII
        }
        with replacing(file) as part:
            part.write_text(json.dumps(stable), encoding="utf-8")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return {radius: stored[str(radius)] for radius in RADII}


def ablation(start: str, images: list[Image], photos: Path, parts: Path) -> Iterator[Record]:
    """Yield the LPIPS of networks that were trained with a perceptual loss, with and without MRS,
    under degradations and at several sigmas of the median.
    """
    if PERCEPTUAL not in STARTS[start].losses:
        return
    folder = parts / f"scores_{start}"
    for method in ABLATED:
        file = parts / f"{start}_{method}_perceptual.safetensors"
        model = network(trained(start, method, PERCEPTUAL, photos, file))
        study = Study(
            folder,
            {method: model},
            [Setting.of(sigma, 21, None, 0) for sigma in SIGMAS],
            [conditions.parse(text) for text in ABLATION],
            ("psnr_y", "ssim_y", "lpips"),
            lpips_weights=lpips_weights(),
        )
        yield from records(study, images, f"{method}, ablation")


if __name__ == "__main__":
    main()
