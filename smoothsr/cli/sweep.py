"""`smoothsr sweep`: choose sigma, n, tile or halo from data."""

import argparse
from collections.abc import Sequence
from functools import partial

from torch import nn

from smoothsr.cli.devices import find_device
from smoothsr.cli.errors import UserError
from smoothsr.cli.evaluate import (
    Results,
    cautions,
    comparisons,
    load_denoisers,
    load_models,
    measure,
    measure_all,
    require_memory,
    write,
)
from smoothsr.cli.image_pairs import find_images
from smoothsr.cli.loading import of_own_class
from smoothsr.cli.memory_budget import certifying_bytes
from smoothsr.cli.study_options import CERTIFICATION, Certification, StudyOptions, denoisers_of
from smoothsr.engine.arguments import settled_draws
from smoothsr.engine.memory import Demand
from smoothsr.evaluation import statistics
from smoothsr.evaluation.certified_study import CLEAN, METRICS, CertifiedStudy
from smoothsr.evaluation.records import Denoising, Record, Setting
from smoothsr.files.digests import fingerprint
from smoothsr.reports.curves import curves, trade_off

SIGMAS = [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08]
DRAWS = [1, 3, 5, 11, 21, 51, 101]
PAIRED_DRAWS = [2, 4, 6, 10, 20, 50, 100]


def run(args: argparse.Namespace) -> int:
    """Measure every candidate; write table and curves, and say which is best."""
    _settle(args)
    options = StudyOptions.of(args, _candidates(args))
    if args.over == "certified":
        return certify(options, Certification.of(args))
    results = measure(options)
    if results.records:
        notes = [*comparisons(results.records), *cautions(options)]
        write(options, results, notes, figure=curves(results.records, args.over))
    return 2 if results.failed else 0


def _settle(args: argparse.Namespace) -> None:
    """Fill in what is usual of certificates and of scores.

    Raises:
        UserError: If something is given that has no part in what is varied.
    """
    certified = args.over == "certified"
    scored: dict[str, object] = vars(args).pop("scored")
    for name, usual in (CERTIFICATION | scored).items():
        if getattr(args, name) is None:
            setattr(args, name, usual)
        elif certified == (name in scored):
            advice = "leave it out" if certified else "add --over certified"
            raise UserError(
                f"--{name.replace('_', '-')} has no part in --over {args.over}: {advice}"
            )


def _candidates(args: argparse.Namespace) -> list[Setting]:
    """Combine sigmas, draws and tiles, those that are given or those that are usual.

    Raises:
        UserError: If more than one is given of what is not varied.
    """
    usual, paired = settled_draws(None, args.agg, args.antithetic)
    candidates = PAIRED_DRAWS if paired else DRAWS
    draws = args.n or (candidates if args.over == "n" else [usual])
    sigmas = args.sigma or {"sigma": SIGMAS, "n": [0.03], "certified": [0.05, 0.1]}[args.over]
    args.tile = args.tile or ([0, 8, 16] if args.over == "certified" else [0])
    if not any(args.tile) and (args.halo or args.halo_noise):
        raise UserError("--halo and --halo-noise are of what is beyond a tile: add --tile 8")
    args.halo = args.halo or ([2] if args.over == "certified" else [4])
    args.halo_noise = args.halo_noise or [1.0]
    if args.over != "n" and len(draws) > 1:
        raise UserError(f"--over {args.over} takes one -n, got {len(draws)}")
    if args.over == "n" and (len(sigmas) > 1 or not sigmas[0]):
        raise UserError("--over n takes one --sigma, greater than 0")
    if args.over != "certified" and max(map(len, (args.tile, args.halo, args.halo_noise))) > 1:
        raise UserError(f"--over {args.over} takes one --tile, one --halo and one --halo-noise")
    if args.over != "certified" and len(args.denoiser) > 1:
        raise UserError(f"--over {args.over} takes one --denoiser, got {len(args.denoiser)}")
    if min(args.halo_noise) < 1:
        raise UserError(f"--halo-noise must be at least 1, got {min(args.halo_noise):g}")
    return [
        Setting.of(sigma, n, tile, halo, halo_noise, denoiser)
        for sigma in sigmas
        for n in draws
        for tile in args.tile
        for halo in args.halo
        for halo_noise in args.halo_noise
        for denoiser in denoisers_of(args)
    ]


def certify(options: StudyOptions, certification: Certification) -> int:
    """Certify every image with every candidate; tabulate what is certified at each radius."""
    _require_certifiable(options)
    paths, device = find_images(options), find_device(options.device)
    models = load_models(options, device)

    def held(demand: Demand, tile: int | None) -> float:
        return certifying_bytes(demand, tile, certification.n_cert, certification.levels)

    study = CertifiedStudy(
        options.parts,
        {name: loaded.model for name, loaded in models.items()},
        {name: fingerprint(loaded.model) for name, loaded in models.items()},
        options.settings,
        certification.radii,
        certification.linf,
        n_cert=certification.n_cert,
        alpha=certification.alpha,
        levels=certification.levels,
        agg=options.agg,
        predictor=certification.predictor,
        precision=options.precision,
        antithetic=options.antithetic,
        denoisers=load_denoisers(options, device),
        side_by_side=not of_own_class(options.arch),
        fits=partial(require_memory, held),
    )
    records, failed = measure_all(options, study, paths, models, device)
    if records:
        notes = _certified_notes(study, records)
        figure = trade_off(records, METRICS[certification.predictor], CLEAN)
        write(options, Results(records, failed, {}), notes, noise="fresh noise", figure=figure)
    return 2 if failed else 0


def _require_certifiable(options: StudyOptions) -> None:
    """Refuse at once what would otherwise fail for every image."""
    if any(not setting.sigma for setting in options.settings):
        raise UserError(
            "--over certified needs --sigma greater than 0: the bare network has no certificate"
        )
    if options.agg not in ("median", "mean"):
        raise UserError(
            f"--over certified speaks of the median or of the mean, got --agg {options.agg}"
        )
    for setting in options.settings:
        # Refuses what it can't be made with.
        setting.smoothed(nn.Identity(), options.agg, options.antithetic, Denoising())


def _certified_notes(study: CertifiedStudy, records: Sequence[Record]) -> list[str]:
    """Say what is best, and with which confidence."""
    notes = [
        line
        for metric in records[0].scores
        if metric != CLEAN
        for line in statistics.comparisons(records, metric)
    ]
    kept = f"alpha {study.alpha:g} / {study.cells} candidates = {study.share:.3g}"
    sure = f"whichever is chosen for an image, it holds with confidence {1 - study.alpha:.10g}"
    made = f"{kept}, n_cert {study.n_cert}, {study.levels} levels"
    notes.append(f"Each certificate has {made}: {sure}.")
    notes.append(
        "Another sweep of the same images makes more candidates: to choose among all of "
        "them, divide alpha by all."
    )
    images = len({record.image for record in records})
    if images > 1:
        every = "with none"
        if images * study.alpha < 1:
            every = f"with confidence {max(0, 1 - images * study.alpha):.10g} at least"
        notes.append(f"A mean speaks of all {images} images at once: {every}.")
    return [*notes, "Certified PSNR is of all channels, without a border cropped."]
