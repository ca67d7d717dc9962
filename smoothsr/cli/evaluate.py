"""`smoothsr evaluate`: measure models, bare and smoothed, on images under attacks and degradations,
and write one table.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from smoothsr import __version__, metrics
from smoothsr.adapters import LoadedSR
from smoothsr.cli.devices import autocast, find_device, reproducible
from smoothsr.cli.errors import UserError, message
from smoothsr.cli.loading import for_channels, load_frozen
from smoothsr.cli.processes import Progress, results, shared
from smoothsr.evaluation import conditions
from smoothsr.evaluation.study import Image, Record, Setting, Study
from smoothsr.files import images
from smoothsr.files.atomic import replacing
from smoothsr.metrics import to_8bit
from smoothsr.reports import certificate_report, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(args: argparse.Namespace) -> int:
    """Measure, and write the table as markdown, CSV and JSON."""
    records, unavailable, failed = measured(
        args, [Setting.of(sigma, args.n, args.tile, args.halo) for sigma in args.sigma]
    )
    if records:
        notes = [
            *tables.verdicts(records, next(iter(records[0]["scores"]))),
            *honesty(args, records),
        ]
        write(args, records, unavailable, failed, notes)
    return 2 if failed else 0


def measured(
    args: argparse.Namespace, settings: Sequence[Setting]
) -> tuple[list[Record], dict[str, str], dict[str, str]]:
    """Measure this process's share of the images.

    Returns:
        Records of all images, or none while other processes are still measuring theirs; metrics
        that could not be measured, and why; and images that failed, and why.
    """
    chain = [conditions.parse(text) for text in args.attack]
    paths, device = find_images(args), find_device(args.device)
    models = load_models(args, device)
    study = Study(
        results(args) / "parts",
        {name: loaded.model for name, loaded in models.items()},
        list(dict.fromkeys(settings)),
        chain,
        args.metrics,
        agg=args.agg,
        seed=args.seed,
        lpips_weights=args.lpips_weights,
        precision=args.precision,
    )
    unavailable = _unavailable(args, device)
    study = replace(study, metrics=[metric for metric in args.metrics if metric not in unavailable])
    gray = replace(study, models={name: for_channels(loaded, 1) for name, loaded in models.items()})

    def measure(path: Path, progress: Progress) -> None:
        image = read_pair(args, path, next(iter(models.values())), device)
        with autocast(args.precision, device), reproducible():
            (gray if image.lr.shape[1] == 1 else study).measure(image, progress)

    def collect(path: Path) -> list[Record] | None:
        image = read_pair(args, path, next(iter(models.values())), device)
        return (gray if image.lr.shape[1] == 1 else study).records(image)

    records, failed = shared(args, paths, study.cells, measure, collect)
    return records, unavailable, failed


def find_images(args: argparse.Namespace) -> list[Path]:
    """List the HR files."""
    paths = images.find(args.hr)
    names = [path.stem for path in paths]
    if not paths:
        raise UserError(
            f"no images in {', '.join(args.hr)} (looked for {', '.join(sorted(images.EXTENSIONS))})"
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"several HR images are called {sorted(twice)[0]}: rename one, since scores are "
            "kept by name"
        )
    if args.lr:
        images.find([args.lr])  # raises if it is not there
    if args.crop is not None and args.crop < 1:
        raise UserError(f"--crop must be at least 1, got {args.crop}")
    return paths


def load_models(args: argparse.Namespace, device: torch.device) -> dict[str, LoadedSR]:
    """Load all models, by the shortest names that tell them apart."""
    loaded = {spec: load_frozen(spec, args.arch, args.scale, device) for spec in args.model}
    if len(kinds := {(model.scale, model.channels) for model in loaded.values()}) > 1:
        found = " and ".join(
            f"x{scale} of {channels} channels" for scale, channels in sorted(kinds)
        )
        raise UserError(f"the models differ, {found}: evaluate them one by one")
    stems = [Path(spec).stem for spec in loaded]
    names = stems if len({*stems}) == len(stems) else [*loaded]
    return dict(zip(names, loaded.values(), strict=True))


def read_pair(
    args: argparse.Namespace, path: Path, loaded: LoadedSR, device: torch.device
) -> Image:
    """Read HR, cut to a multiple of the scale, and LR, from its file or by reduction; of one
    channel if both are gray.
    """
    scale = loaded.scale
    hr = images.read(path).pixels
    height, width = (side // scale for side in hr.shape[2:])
    if not height or not width:
        raise ValueError(f"HR has {hr.shape[3]}x{hr.shape[2]} pixels, fewer than the scale {scale}")
    hr = hr[..., : height * scale, : width * scale]
    if args.lr:
        lr = images.read(_input(args.lr, path.stem, scale)).pixels
        if lr.shape[2:] != (height, width):
            raise ValueError(
                f"LR has {lr.shape[3]}x{lr.shape[2]} pixels; x{scale} of them must give HR, "
                f"so {width}x{height}"
            )
    else:
        lr = F.interpolate(hr, (height, width), mode="bicubic", antialias=True, align_corners=False)
        lr = to_8bit(lr) / 255
    channels = max(lr.shape[1], hr.shape[1])
    if channels > loaded.channels:
        raise ValueError(f"the networks take {loaded.channels} channel, the image has {channels}")
    if args.crop:
        top, left = (max(0, side - args.crop) // 2 for side in (height, width))
        lr = lr[..., top : top + args.crop, left : left + args.crop]
        hr = hr[
            ..., top * scale : (top + args.crop) * scale, left * scale : (left + args.crop) * scale
        ]
    return Image(
        path.stem,
        *(picture.expand(-1, channels, -1, -1).contiguous().to(device) for picture in (lr, hr)),
    )


def write(
    args: argparse.Namespace,
    records: Sequence[Record],
    unavailable: Mapping[str, str],
    failed: Mapping[str, str],
    notes: Sequence[str],
    figure: "Figure | None" = None,
) -> None:
    """Write the table as .md, .csv and .json, and the figure as .png; print the table and what is
    to be said of it.
    """
    notes = [
        *notes,
        *(f"Left out, {name}: {reason}" for name, reason in failed.items()),
        _made(args),
    ]
    text = tables.markdown(records, unavailable) + "".join(f"- {note}\n" for note in notes)
    whole = {
        "version": __version__,
        "options": vars(args),
        "not_measured": unavailable,
        "failed": failed,
        "notes": notes,
        "means": tables.rows(records, unavailable),
        "records": records,
    }
    files = {
        ".md": text,
        ".csv": tables.csv_text(records, unavailable),
        ".json": tables.json_text(whole),
    }
    name = results(args) / args.command
    for suffix, content in files.items():
        with replacing(f"{name}{suffix}") as part:
            part.write_text(content, encoding="utf-8", errors="backslashreplace")
    if figure:
        certificate_report.save_figure(figure, Path(f"{name}.png"))
    print("", text, f"Wrote {name}{', '.join([*files, *(['.png'] if figure else [])])}", sep="\n")


def honesty(args: argparse.Namespace, records: Sequence[Record]) -> list[str]:
    """What keeps a table from saying more than it may."""
    notes, rows = [], {(record["model"], record["sigma"], record["n"]) for record in records}
    if any(sigma for _, sigma, _ in rows) and (
        transfer := [text for text in args.attack if "@bare" in text]
    ):
        aims = (
            f"{', '.join(transfer)} {'are' if len(transfer) > 1 else 'is'} made for the bare "
            "network"
        )
        notes.append(
            f"{aims}: for smoothed rows a transfer attack. One that knows the smoother may "
            "harm it more: leave out @bare."
        )
    if len(rows) > len({model for model, *_ in rows}):
        notes.append(
            "A choice made on these images looks better on them than it is: measure it on "
            "others before you report it."
        )
    return notes


def _made(args: argparse.Namespace) -> str:
    """How the scores were made, as far as the table's rows don't tell."""
    inputs = (
        f"LR from {args.lr}" if args.lr else "LR reduced from HR by an antialiased bicubic kernel"
    )
    crop = f", central crops of {args.crop}x{args.crop} LR pixels" if args.crop else ""
    noise = "fresh noise" if getattr(args, "over", None) == "certified" else f"seed {args.seed}"
    return f"smoothsr {__version__}: agg {args.agg}, {noise}, {args.precision}; {inputs}{crop}."


def _unavailable(args: argparse.Namespace, device: torch.device) -> dict[str, str]:
    """Return the metrics that can't be measured here, and why."""
    if "lpips" not in args.metrics:
        return {}
    probe = torch.zeros(1, 3, 64, 64, device=device)
    try:
        metrics.lpips(probe, probe, weights=args.lpips_weights)
    except (ImportError, OSError, ValueError) as error:
        if args.lpips_weights or len(args.metrics) == 1:
            raise
        print(
            f"smoothsr: lpips is left out: {message(error)} (--lpips-weights FILE)", file=sys.stderr
        )
        return {"lpips": message(error)}
    return {}


def _input(folder: Path, stem: str, scale: int) -> Path:
    """Find the LR file of an HR file: of the same name, or with x4 or LR behind it."""
    for pattern in (re.escape(stem), re.escape(stem) + rf"([_-]?(x{scale}|lr|LR))+"):
        found = [path for path in images.find([folder]) if re.fullmatch(pattern, path.stem)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"several files in {folder} fit it, "
                f"{' and '.join(path.name for path in found)}: keep one"
            )
    raise ValueError(
        f"no file in {folder} fits it: name one {stem} or {stem}x{scale}, as HR is named"
    )
