"""`smoothsr evaluate`: measure models, bare and smoothed, on images under attacks and degradations,
and write one table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from smoothsr import SmoothedSR, __version__, metrics
from smoothsr.adapters import LoadedSR
from smoothsr.cli import memory_budget
from smoothsr.cli.devices import autocast, find_device, reproducible
from smoothsr.cli.errors import UserError, message
from smoothsr.cli.image_pairs import find_images, read_pair
from smoothsr.cli.loading import for_channels, load_denoiser, load_frozen
from smoothsr.cli.processes import OnCell, share_out
from smoothsr.cli.smoother import settle_around
from smoothsr.cli.study_options import StudyOptions, denoisers_of, short_names
from smoothsr.engine.arguments import settled_draws
from smoothsr.engine.memory import Demand
from smoothsr.evaluation import conditions, statistics
from smoothsr.evaluation.certified_study import CertifiedStudy
from smoothsr.evaluation.records import NONE, Denoising, Record, Setting, statistic
from smoothsr.evaluation.study import Study
from smoothsr.files.atomic import replacing, require_own
from smoothsr.reports import figures, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ENDS = (".json", ".md", ".csv", ".png")  # of what is written


class Results(NamedTuple):
    """What was measured.

    Args:
        records: Of all images; empty while other processes are still measuring theirs.
        failed: Images that failed, and why.
        unavailable: Metrics that could not be measured, and why.
    """

    records: list[Record]
    failed: dict[str, str]
    unavailable: dict[str, str]


def run(args: argparse.Namespace) -> int:
    """Measure, and write the table as markdown, CSV and JSON."""
    args.n, args.antithetic = settled_draws(args.n, args.agg, args.antithetic)
    settle_around(args)
    settings = [
        Setting.of(sigma, args.n, args.tile, args.halo, args.halo_noise, denoiser)
        for denoiser in denoisers_of(args)
        for sigma in args.sigma
    ]
    options = StudyOptions.of(args, settings)
    results = measure(options)
    if results.records:
        write(options, results, [*comparisons(results.records), *cautions(options)])
    return 2 if results.failed else 0


def measure(options: StudyOptions) -> Results:
    """Measure this process's share of the images."""
    chain = [conditions.parse(text) for text in options.conditions]
    paths, device = find_images(options), find_device(options.device)
    models = load_models(options, device)
    study = Study(
        options.parts,
        {name: loaded.model for name, loaded in models.items()},
        options.settings,
        chain,
        options.metrics,
        agg=options.agg,
        seed=options.seed,
        lpips_weights=options.lpips_weights,
        precision=options.precision,
        antithetic=options.antithetic,
        denoisers=load_denoisers(options, device),
        fits=partial(require_memory, Demand.held),
    )
    unavailable = _unavailable(options, device)
    study = replace(study, metrics=[name for name in options.metrics if name not in unavailable])
    records, failed = measure_all(options, study, paths, models, device)
    return Results(records, failed, unavailable)


def measure_all(
    options: StudyOptions,
    study: Study | CertifiedStudy,
    paths: Sequence[Path],
    models: dict[str, LoadedSR],
    device: torch.device,
) -> tuple[list[Record], dict[str, str]]:
    """Measure this process's share of the images by a study of colour networks.

    Returns:
        Records, and images that failed and why, as `share_out` does.
    """
    results = [Path(f"{options.result}{end}") for end in ENDS]
    require_own(results[0], results)
    gray = {name: for_channels(loaded, 1) for name, loaded in models.items()}
    first = next(iter(models.values()))
    by_channels = {first.channels: study, 1: replace(study, models=gray)}

    def measure(path: Path, on_cell: OnCell) -> None:
        image = read_pair(options, path, first, device)
        with ExitStack() as stack:
            stack.enter_context(autocast(options.precision, device))
            if isinstance(study, Study):  # a certificate's noise is fresh
                stack.enter_context(reproducible())
            by_channels[image.lr.shape[1]].measure(image, on_cell)

    def collect(path: Path) -> list[Record] | None:
        image = read_pair(options, path, first, device)
        return by_channels[image.lr.shape[1]].records(image)

    return share_out(options, paths, study.cells, measure, collect)


def require_memory(
    held: Callable[[Demand, int | None], float], smoothed: SmoothedSR, lr: Tensor
) -> None:
    """Refuse what does not fit into memory by one draw, which would end the process without a word.

    Args:
        held: Counts the bytes besides the passes of a batch, by the side of a tile.
        smoothed: What is to run.
        lr: On what.

    Raises:
        UserError: If so.
    """
    if smoothed.tile != "auto":
        smaller = f"a smaller --tile than {smoothed.tile}" if smoothed.tile else "--tile 8"
        memory_budget.fitted(smoothed, lr, held, f"pass {smaller}, or --crop")


def load_models(options: StudyOptions, device: torch.device) -> dict[str, LoadedSR]:
    """Load all models, by the shortest names that tell them apart."""
    loaded = {
        spec: load_frozen(spec, options.arch, options.scale, device) for spec in options.models
    }
    if len(kinds := {(model.scale, model.channels) for model in loaded.values()}) > 1:
        found = " and ".join(
            f"x{scale} of {channels} channels" for scale, channels in sorted(kinds)
        )
        raise UserError(f"the models differ, {found}: evaluate them one by one")
    return dict(zip(short_names([*loaded]), loaded.values(), strict=True))


def load_denoisers(options: StudyOptions, device: torch.device) -> dict[str, Denoising]:
    """Load all denoisers, by the names that settings call them."""
    loaded = {name: load_denoiser(spec, device) for name, spec in options.denoisers.items()}
    found = {name: each.model for name, each in loaded.items() if each}
    told = {name: Denoising(model, options.denoiser_sigma) for name, model in found.items()}
    return {NONE: Denoising(), **told}  # the bare network is behind none


def write(
    options: StudyOptions,
    results: Results,
    notes: Sequence[str],
    *,
    noise: str | None = None,
    figure: "Figure | None" = None,
) -> None:
    """Write the table as .md, .csv and .json, and the figure as .png; print the table and what is
    to be said of it.

    Args:
        options: What was asked for.
        results: With at least one record.
        notes: Lines below the table.
        noise: Where the noise is from; None: from the seed.
        figure: Drawn beside the table.
    """
    records, failed, unavailable = results
    left_out = [f"Left out, {name}: {reason}" for name, reason in failed.items()]
    notes = [*notes, *left_out, _provenance(options, noise or f"seed {options.seed}")]
    text = tables.markdown(records, unavailable) + "".join(f"- {note}\n" for note in notes)
    whole = {
        "version": __version__,
        "options": options.typed,
        "not_measured": unavailable,
        "failed": failed,
        "notes": notes,
        "means": tables.list_means(records, unavailable),
        "records": [record.to_json() for record in records],
    }
    files = {
        ".md": text,
        ".csv": tables.csv_text(records, unavailable),
        ".json": tables.json_text(whole),
    }
    name = options.result
    for suffix, content in files.items():
        with replacing(f"{name}{suffix}") as part:
            part.write_text(content, encoding="utf-8", errors="backslashreplace")
    if figure:
        figures.save_figure(figure, Path(f"{name}.png"))
    print("", text, f"Wrote {name}{', '.join([*files, *(['.png'] if figure else [])])}", sep="\n")


def comparisons(records: Sequence[Record]) -> list[str]:
    """Say what is best by the first metric."""
    return statistics.comparisons(records, next(iter(records[0].scores)))


def cautions(options: StudyOptions) -> list[str]:
    """What keeps a table from saying more than it may."""
    notes = []
    transfer = [text for text in options.conditions if "@bare" in text]
    if transfer and any(setting.sigma for setting in options.settings):
        are = "are" if len(transfer) > 1 else "is"
        notes.append(
            f"{', '.join(transfer)} {are} made for the bare network: for smoothed rows a "
            "transfer attack. One that knows the smoother may harm it more: leave out @bare."
        )
    if len(options.settings) > 1:
        notes.append(
            "A choice made on these images looks better on them than it is: measure it on "
            "others before you report it."
        )
    return notes


def _provenance(options: StudyOptions, noise: str) -> str:
    """How the scores were made, as far as the table's rows don't tell."""
    inputs = "LR reduced from HR by an antialiased bicubic kernel"
    if options.lr:
        inputs = f"LR from {options.lr}"
    side = options.crop
    crop = f", central crops of at most {side}x{side} LR pixels" if side else ""
    agg = statistic(options.agg, options.antithetic)
    return f"smoothsr {__version__}: agg {agg}, {noise}, {options.precision}; {inputs}{crop}."


def _unavailable(options: StudyOptions, device: torch.device) -> dict[str, str]:
    """Return the metrics that can't be measured here, and why."""
    if "lpips" not in options.metrics:
        return {}
    probe = torch.zeros(1, 3, 64, 64, device=device)
    try:
        metrics.lpips(probe, probe, weights=options.lpips_weights)
    except (ImportError, OSError, ValueError) as error:
        if options.lpips_weights or len(options.metrics) == 1:
            raise
        reason = message(error)
        print(f"smoothsr: lpips is left out: {reason} (--lpips-weights FILE)", file=sys.stderr)
        return {"lpips": reason}
    return {}
