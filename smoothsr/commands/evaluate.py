"""`smoothsr evaluate`: measure models, bare and smoothed, on images under attacks and degradations, and write one table."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from tqdm import tqdm

from smoothsr import __version__, adapters, archive, conditions, images, metrics, report, tables
from smoothsr.adapters import LoadedSR
from smoothsr.commands import FAILURES, UserError, find_device, message, network, precision, reproducible
from smoothsr.evaluation import Image, Record, Setting, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[], object]
Work = Callable[[Path, Progress], None]
Collect = Callable[[Sequence[Path]], tuple[list[Record], list[str]]]


def run(args: argparse.Namespace) -> int:
    """Measure, and write the table as markdown, CSV and JSON."""
    records, unavailable, status = measured(args, [Setting.of(sigma, args.n, args.tile, args.halo) for sigma in args.sigma])
    if records:
        write(args, records, unavailable, tables.verdicts(records, next(iter(records[0]["scores"]))))
    return status


def measured(args: argparse.Namespace, settings: Sequence[Setting]) -> tuple[list[Record], dict[str, str], int]:
    """Measure this process's share of the images.

    Returns:
        Records of all images, or none while other processes are still measuring theirs; metrics that could not be measured, and
        why; and the exit status.
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
    gray = replace(study, models={name: network(loaded, 1) for name, loaded in models.items()})

    def measure(path: Path, progress: Progress) -> None:
        image = read_pair(args, path, next(iter(models.values())), device)
        with precision(args, device), reproducible():
            (gray if image.lr.shape[1] == 1 else study).measure(image, progress)

    def collect(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
        return study.records([path.stem for path in paths])

    records, status = shared(args, paths, study.cells, measure, collect)
    return records, unavailable, status


def shared(args: argparse.Namespace, paths: Sequence[Path], cells: int, work: Work, collect: Collect) -> tuple[list[Record], int]:
    """Work on this process's share of the images, of RANK / WORLD_SIZE (torchrun's), then collect what all processes have.

    Args:
        args: The options.
        paths: All images.
        cells: How often work calls its progress for each image.
        work: What to do with an image; if it fails, the others go on.
        collect: Returns the records of those images that are complete, and the names of the others.

    Returns:
        Records of all images, or none while other processes are still working on theirs; and the exit status.
    """
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    mine = paths[rank::ranks]
    notes = {path.stem: parts(args) / f"{path.stem}.error" for path in paths}  # by which processes tell each other what failed
    for path in mine:
        notes[path.stem].unlink(missing_ok=True)
    with tqdm(total=len(mine) * cells, unit="output", disable=None, leave=False) as progress:
        for path in mine:
            progress.set_description(path.stem)
            try:
                work(path, progress.update)
            except FAILURES as error:
                notes[path.stem].write_text(message(error), encoding="utf-8")
    failed = {name: note.read_text(encoding="utf-8") for name, note in notes.items() if note.exists()}
    for reason in dict.fromkeys(failed.values()):
        names = [name for name in failed if failed[name] == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"smoothsr: {', '.join(names[:3])}{more}: {reason}", file=sys.stderr)
    records, missing = collect([path for path in paths if path.stem not in failed])
    if missing:  # no failure yet: torchrun would stop the others
        print(f"{len(mine)} of {len(paths)} images done here; the process that is last to end writes the table")
        return [], 0
    return records, 2 if failed else 0


def find_images(args: argparse.Namespace) -> list[Path]:
    """List the HR files."""
    paths = images.find(args.hr)
    names = [path.stem for path in paths]
    if not paths:
        raise UserError(f"no images in {', '.join(args.hr)} (looked for {', '.join(sorted(images.EXTENSIONS))})")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"several HR images are called {sorted(twice)[0]}: rename one, since scores are kept by name")
    if args.lr:
        images.find([args.lr])  # raises if it is not there
    if args.crop is not None and args.crop < 1:
        raise UserError(f"--crop must be at least 1, got {args.crop}")
    return paths


def load_models(args: argparse.Namespace, device: torch.device) -> dict[str, LoadedSR]:
    """Load all models, by the shortest names that tell them apart."""
    loaded = {spec: adapters.load(spec, arch=args.arch, scale=args.scale, device=device) for spec in args.model}
    if len(kinds := {(model.scale, model.channels) for model in loaded.values()}) > 1:
        found = " and ".join(f"x{scale} of {channels} channels" for scale, channels in sorted(kinds))
        raise UserError(f"the models differ, {found}: evaluate them one by one")
    stems = [Path(spec).stem for spec in loaded]
    names = stems if len({*stems}) == len(stems) else [*loaded]
    return dict(zip(names, loaded.values(), strict=True))


def read_pair(args: argparse.Namespace, path: Path, loaded: LoadedSR, device: torch.device) -> Image:
    """Read HR, cut to a multiple of the scale, and LR, from its file or by reduction; of one channel if both are gray."""
    scale = loaded.scale
    hr = images.read(path).pixels
    height, width = (side // scale for side in hr.shape[2:])
    if not height or not width:
        raise ValueError(f"HR has {hr.shape[3]}x{hr.shape[2]} pixels, fewer than the scale {scale}")
    hr = hr[..., : height * scale, : width * scale]
    if args.lr:
        lr = images.read(_input(args.lr, path.stem, scale)).pixels
        if lr.shape[2:] != (height, width):
            raise ValueError(f"LR has {lr.shape[3]}x{lr.shape[2]} pixels; x{scale} of them must give HR, so {width}x{height}")
    else:
        lr = F.interpolate(hr, (height, width), mode="bicubic", antialias=True, align_corners=False)
        lr = lr.clamp(0, 1).mul(255).round() / 255
    channels = max(lr.shape[1], hr.shape[1])
    if channels > loaded.channels:
        raise ValueError(f"the networks take {loaded.channels} channel, the image has {channels}")
    if args.crop:
        top, left = (max(0, side - args.crop) // 2 for side in (height, width))
        lr = lr[..., top : top + args.crop, left : left + args.crop]
        hr = hr[..., top * scale : (top + args.crop) * scale, left * scale : (left + args.crop) * scale]
    return Image(path.stem, *(picture.expand(-1, channels, -1, -1).contiguous().to(device) for picture in (lr, hr)))


def parts(args: argparse.Namespace) -> Path:
    """Make the folder from which a run can go on."""
    folder = results(args) / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results(args: argparse.Namespace) -> Path:
    """The folder of the results."""
    return args.output or Path(args.command)


def write(
    args: argparse.Namespace,
    records: Sequence[Record],
    unavailable: Mapping[str, str],
    notes: Sequence[str],
    figure: "Figure | None" = None,
) -> None:
    """Write the table as .md, .csv and .json, and the figure as .png; print the table and the notes."""
    text = tables.markdown(records, unavailable)
    means = tables.rows(records, unavailable)
    whole = {"version": __version__, "options": vars(args), "not_measured": unavailable, "means": means, "records": records}
    files = {".md": text, ".csv": tables.csv_text(records, unavailable), ".json": json.dumps(whole, indent=1, default=str) + "\n"}
    name = results(args) / args.command
    for suffix, content in files.items():
        with archive.replacing(f"{name}{suffix}") as part:
            part.write_text(content, encoding="utf-8")
    if figure:
        report.save_figure(figure, Path(f"{name}.png"))
    print("", text, *notes, f"Wrote {name}{', '.join([*files, *(['.png'] if figure else [])])}", sep="\n")


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
        print(f"smoothsr: lpips is left out: {message(error)} (--lpips-weights FILE)", file=sys.stderr)
        return {"lpips": message(error)}
    return {}


def _input(folder: Path, stem: str, scale: int) -> Path:
    """Find the LR file of an HR file: of the same name, or with x4 or LR behind it."""
    for pattern in (re.escape(stem), re.escape(stem) + rf"([_-]?(x{scale}|lr|LR))+"):
        found = [path for path in images.find([folder]) if re.fullmatch(pattern, path.stem)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"several files in {folder} fit it, {' and '.join(path.name for path in found)}: keep one")
    raise ValueError(f"no file in {folder} fits it: name one {stem} or {stem}x{scale}, as HR is named")
