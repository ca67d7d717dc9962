"""`smoothsr evaluate`: measure models, bare and smoothed, on images under attacks and degradations, and write one table."""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

from smoothsr import adapters, conditions, images, metrics, tables
from smoothsr.adapters import LoadedSR
from smoothsr.commands import FAILURES, UserError, find_device, message, precision, reproducible
from smoothsr.evaluation import METRICS, Image, Record, Setting, Study


def run(args: argparse.Namespace) -> int:
    """Measure, and write the table as markdown, CSV and JSON."""
    settings = [Setting.of(sigma, args.n, args.tile, args.halo) for sigma in args.sigma]
    records, unavailable, status = measured(args, settings)
    if records:
        print(f"\n{write(args, records, unavailable)}")
        print("\n".join(tables.verdicts(records, next(iter(records[0]["scores"])))))
        print(f"Wrote {results(args) / args.command}.md, .csv, .json")
    return status


def measured(args: argparse.Namespace, settings: Sequence[Setting]) -> tuple[list[Record], dict[str, str], int]:
    """Measure this process's share of the images.

    Returns:
        Records of all images, or none while other processes are still measuring theirs; metrics that could not be measured, and
        why; and the exit status.
    """
    if unknown := {*args.metrics} - {*METRICS}:
        raise UserError(f"unknown metric {sorted(unknown)[0]!r}: use {', '.join(METRICS)}")
    chain = [conditions.parse(text) for text in args.attack]
    paths, device = find_images(args), find_device(args.device)
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    models = load_models(args, device)
    unavailable = _unavailable(args, device)
    study = Study(
        parts(args),
        {name: loaded.model for name, loaded in models.items()},
        list(dict.fromkeys(settings)),
        chain,
        [metric for metric in args.metrics if metric not in unavailable],
        agg=args.agg,
        seed=args.seed,
        lpips_weights=args.lpips_weights,
        precision=args.precision,
    )
    mine, loaded = paths[rank::ranks], next(iter(models.values()))
    with tqdm(total=len(mine) * study.cells, unit="output", disable=None, leave=False) as progress, reproducible():
        for path in mine:
            progress.set_description(path.stem)
            try:
                with precision(args, device):
                    study.measure(read_pair(args, path, loaded, device), progress.update)
            except FAILURES as error:
                study.fail(path.stem, message(error))
    records, missing, failed = study.records([path.stem for path in paths])
    for name, reason in failed.items():
        print(f"smoothsr: {name}: {reason}", file=sys.stderr)
    if missing:
        print(f"{len(mine)} images done; {len(missing)} are other processes' to measure: the last one to end writes the table")
        records = []
    return records, unavailable, 2 if failed else 0


def find_images(args: argparse.Namespace) -> list[Path]:
    """List the HR files."""
    paths = images.find(args.hr)
    names = [path.stem for path in paths]
    if not paths:
        raise UserError(f"no images in {', '.join(args.hr)} (looked for {', '.join(sorted(images.EXTENSIONS))})")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"several HR images are called {sorted(twice)[0]}: rename one, since scores are kept by name")
    if args.crop is not None and args.crop < 1:
        raise UserError(f"--crop must be at least 1, got {args.crop}")
    return paths


def load_models(args: argparse.Namespace, device: torch.device) -> dict[str, LoadedSR]:
    """Load all models, by the shortest names that tell them apart."""
    loaded = {spec: adapters.load(spec, scale=args.scale, device=device) for spec in args.model}
    if len(kinds := {(model.scale, model.channels) for model in loaded.values()}) > 1:
        found = " and ".join(f"x{scale} of {channels} channels" for scale, channels in sorted(kinds))
        raise UserError(f"the models differ, {found}: evaluate them one by one")
    stems = [Path(spec).stem for spec in loaded]
    names = stems if len({*stems}) == len(stems) else [*loaded]
    return dict(zip(names, loaded.values(), strict=True))


def read_pair(args: argparse.Namespace, path: Path, loaded: LoadedSR, device: torch.device) -> Image:
    """Read HR, cut to a multiple of the scale, and LR, from its file or by reduction; gray as RGB for colour networks."""
    scale, channels = loaded.scale, loaded.channels
    hr = images.read(path).pixels
    height, width = (side // scale for side in hr.shape[2:])
    if not height or not width:
        raise ValueError(f"HR has {hr.shape[3]}x{hr.shape[2]} pixels, fewer than the scale {scale}")
    hr = hr[..., : height * scale, : width * scale]
    if args.lr:
        lr = images.read(_input(args.lr, path.stem)).pixels
        if lr.shape[2:] != (height, width):
            raise ValueError(f"LR has {lr.shape[3]}x{lr.shape[2]} pixels; x{scale} of them must give HR, so {width}x{height}")
    else:
        lr = F.interpolate(hr, (height, width), mode="bicubic", antialias=True, align_corners=False)
        lr = lr.clamp(0, 1).mul(255).round() / 255
    if {lr.shape[1], hr.shape[1]} - {1, channels}:
        raise ValueError(f"the networks take {channels} channels; LR has {lr.shape[1]} and HR {hr.shape[1]}")
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


def write(args: argparse.Namespace, records: Sequence[Record], unavailable: Mapping[str, str]) -> str:
    """Write the table as .md, .csv and .json; return the first."""
    text = tables.markdown(records, unavailable)
    whole = {"options": vars(args), "not_measured": unavailable, "means": tables.rows(records), "records": records}
    files = {".md": text, ".csv": tables.csv_text(records), ".json": json.dumps(whole, indent=1, default=str) + "\n"}
    for suffix, content in files.items():
        target = results(args) / f"{args.command}{suffix}"
        part = target.with_name(f"{target.name}.{os.getpid()}.part")  # two processes may end at once
        part.write_text(content, encoding="utf-8")
        part.replace(target)
    return text


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
        reason = f"{message(error)}; pass --lpips-weights FILE, or --metrics without it"
        print(f"smoothsr: lpips can't be measured: {reason}", file=sys.stderr)
        return {"lpips": reason}
    return {}


def _input(folder: Path, stem: str) -> Path:
    """Find the LR file of an HR file: of the same name, or with something such as x4 behind it."""
    found = [path for path in images.find([folder]) if path.stem == stem]
    found = found or [path for path in images.find([folder]) if re.fullmatch(re.escape(stem) + r"[_-]?(x\d|lr|LR)*", path.stem)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} files in {folder} fit {stem}: name the input as HR, or {stem}x4")
    return found[0]
