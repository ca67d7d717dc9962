"""`smoothsr sweep`: choose sigma, n, tile or halo from data."""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from smoothsr import Certificate, SmoothedSR, __version__
from smoothsr.certificates import storage
from smoothsr.cli.devices import autocast, find_device
from smoothsr.cli.errors import UserError
from smoothsr.cli.evaluate import find_images, honesty, load_models, measured, read_pair, write
from smoothsr.cli.loading import for_channels
from smoothsr.cli.processes import Progress, parts, shared
from smoothsr.evaluation.study import Image, Record, Setting
from smoothsr.files.digests import digest, fingerprint
from smoothsr.reports import tables
from smoothsr.reports.curves import curves

SIGMAS = [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08]
DRAWS = [1, 3, 5, 11, 21, 51, 101]


def run(args: argparse.Namespace) -> int:
    """Measure every candidate; write table and curves, and say which is best."""
    draws = args.n or (DRAWS if args.over == "n" else [21])
    sigmas = args.sigma or {"sigma": SIGMAS, "n": [0.03], "certified": [0.05, 0.1]}[args.over]
    if args.over != "n" and len(draws) > 1:
        raise UserError(f"--over {args.over} takes one -n, got {len(draws)}")
    if args.over == "n" and (len(sigmas) > 1 or not sigmas[0]):
        raise UserError("--over n takes one --sigma, greater than 0")
    args.tile = args.tile or ([0, 8, 16] if args.over == "certified" else [0])
    args.halo = args.halo or ([2] if args.over == "certified" else [4])
    if args.over != "certified" and (len(args.tile) > 1 or len(args.halo) > 1):
        raise UserError(f"--over {args.over} takes one --tile and one --halo")
    settings = [
        Setting.of(s, n, tile, halo)
        for s in sigmas
        for n in draws
        for tile in args.tile
        for halo in args.halo
    ]
    if args.over == "certified":
        return certified(args, list(dict.fromkeys(settings)))
    records, unavailable, failed = measured(args, settings)
    if records:
        notes = [
            *tables.verdicts(records, next(iter(records[0]["scores"]))),
            *honesty(args, records),
        ]
        write(args, records, unavailable, failed, notes, curves(records, args.over))
    return 2 if failed else 0


def certified(args: argparse.Namespace, settings: Sequence[Setting]) -> int:
    """Certify every image with every candidate; tabulate what is certified at each radius."""
    if any(not setting.sigma for setting in settings):
        raise UserError(
            "--over certified needs --sigma greater than 0: the bare network has no certificate"
        )
    if min(args.radius) < 0 or not 0 < args.alpha < 1:
        raise UserError(
            "--radius must be at least 0 and --alpha between 0 and 1, got "
            f"{min(args.radius):g} and {args.alpha:g}"
        )
    if args.n_cert < 1 or args.levels < 2:
        raise UserError(
            f"--n-cert must be at least 1 and --levels at least 2, got {args.n_cert} and "
            f"{args.levels}"
        )
    if args.agg not in ("median", *(["mean"] if args.predictor == "ideal" else [])):
        raise UserError(
            "--over certified speaks of the median, or with --predictor ideal of the mean, "
            f"got --agg {args.agg}"
        )
    for sigma, n, tile, halo in settings:
        SmoothedSR(
            nn.Identity(), sigma, n, args.agg, tile=tile or None, halo=halo
        )  # refuses what it can't be made with
    paths, device = find_images(args), find_device(args.device)
    models = load_models(args, device)
    digests = {name: fingerprint(loaded.model) for name, loaded in models.items()}
    cells = [(name, setting) for name in models for setting in settings]
    alpha = args.alpha / len(cells)

    def read(path: Path) -> Image:
        return read_pair(args, path, next(iter(models.values())), device)

    def part(image: Image, name: str, setting: Setting) -> Path:
        lr = digest([image.lr])
        what = [
            __version__,
            digests[name],
            lr,
            *setting,
            args.agg,
            args.n_cert,
            alpha,
            args.levels,
            args.precision,
        ]
        return (
            parts(args) / f"{image.name}_{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.npz"
        )

    def certify(path: Path, progress: Progress) -> None:
        image = read(path)
        for name, setting in cells:
            target = part(image, name, setting)
            if not _whole(target):  # the first draws count, and no others
                sigma, n, tile, halo = setting
                smoothed = SmoothedSR(
                    for_channels(models[name], image.lr.shape[1]),
                    sigma,
                    n,
                    args.agg,
                    tile=tile or None,
                    halo=halo,
                )
                with autocast(args.precision, device):
                    smoothed.certify(image.lr, n=args.n_cert, alpha=alpha, levels=args.levels).save(
                        target
                    )
            progress()

    def collect(path: Path) -> list[Record] | None:
        image = read(path)
        found = {cell: part(image, *cell) for cell in cells}
        if not all(file.exists() for file in found.values()):
            return None
        return [
            row
            for cell, file in found.items()
            for row in rows(args, image, *cell, Certificate.load(file))
        ]

    records, failed = shared(args, paths, len(cells), certify, collect)
    if records:
        notes = [
            line for metric in records[0]["scores"] for line in tables.verdicts(records, metric)
        ]
        images, kept = (
            len({record["image"] for record in records}),
            f"alpha {args.alpha:g} / {len(cells)} candidates = {alpha:.3g}",
        )
        sure = f"whichever is chosen for an image, it holds with confidence {1 - args.alpha:.10g}"
        notes.append(
            f"Each certificate has {kept}, n_cert {args.n_cert}, {args.levels} levels: {sure}."
        )
        notes.append(
            "Another sweep of the same images makes more candidates: to choose among all of "
            "them, divide alpha by all."
        )
        if images > 1:
            every = (
                f"with confidence {max(0, 1 - images * args.alpha):.10g} at least"
                if images * args.alpha < 1
                else "with none"
            )
            notes.append(f"A mean speaks of all {images} images at once: {every}.")
        notes.append("Certified PSNR is of all channels, without a border cropped.")
        write(args, records, {}, failed, notes)
    return 2 if failed else 0


def rows(
    args: argparse.Namespace, image: Image, name: str, setting: Setting, certificate: Certificate
) -> Iterator[Record]:
    """Yield what is certified at each l2 radius: PSNR to the ground truth, and to the certificate's
    own output.
    """
    what = {"ideal": "ideal certified PSNR", "served": "served expected certified PSNR"}[
        args.predictor
    ]
    for radius in args.radius:
        scores = {
            what: certificate.psnr(radius, image.hr, predictor=args.predictor),
            f"{what} to its own output": certificate.psnr(radius, predictor=args.predictor),
        }
        yield {
            "image": image.name,
            "model": name,
            **setting._asdict(),
            "condition": f"l2 {radius:g}",
            "scores": scores,
        }


def _whole(file: Path) -> bool:
    """Tell whether a certificate is there; a broken file, from which nobody has read a certificate,
    is removed.
    """
    try:
        Certificate.load(file)
    except FileNotFoundError:
        return False
    except storage.UnreadableError:
        file.unlink()
        return False
    return True
