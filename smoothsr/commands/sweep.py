"""`smoothsr sweep`: choose sigma, n, tile or halo from data."""

import argparse
import hashlib
import sys
from collections.abc import Iterator

from tqdm import tqdm

from smoothsr import Certificate, SmoothedSR, __version__, archive, report, tables
from smoothsr.adapters import LoadedSR
from smoothsr.commands import FAILURES, UserError, find_device, message, precision
from smoothsr.commands.evaluate import find_images, load_models, measured, parts, read_pair, results, write
from smoothsr.curves import curves
from smoothsr.evaluation import Image, Record, Setting

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
    if args.over != "certified" and (len(args.tile) > 1 or len(args.halo) > 1):
        raise UserError(f"--over {args.over} takes one --tile and one --halo")
    settings = [Setting.of(s, n, tile, halo) for s in sigmas for n in draws for tile in args.tile for halo in args.halo]
    settings = list(dict.fromkeys(settings))
    unavailable: dict[str, str] = {}
    if args.over == "certified":
        records, status = certified(args, settings)
    else:
        records, unavailable, status = measured(args, settings)
    if not records:
        return status
    print(f"\n{write(args, records, unavailable)}")
    for metric in records[0]["scores"] if args.over == "certified" else list(records[0]["scores"])[:1]:
        print("\n".join(tables.verdicts(records, metric)))
    if args.over == "certified":
        share = f"alpha {args.alpha:g} / {len(settings)} candidates = {args.alpha / len(settings):.3g}"
        print(f"Each certificate has {share}: whichever is chosen for an image, it holds with confidence {1 - args.alpha:.10g}.")
    else:
        print("A choice made on these images looks better on them than it is: measure it on others before you report it.")
        report.save_figure(curves(records, "n" if args.over == "n" else "sigma"), results(args) / "sweep.png")
    print(f"Wrote {results(args) / 'sweep'}.md, .csv, .json" + (", .png" if args.over != "certified" else ""))
    return status


def certified(args: argparse.Namespace, settings: list[Setting]) -> tuple[list[Record], int]:
    """Certify every image with every candidate; return what is certified at each radius, and the exit status."""
    if any(not setting.sigma for setting in settings):
        raise UserError("--over certified needs --sigma greater than 0: the bare network has no certificate")
    if min(args.radius) < 0:
        raise UserError("--radius must be at least 0")
    paths, device = find_images(args), find_device(args.device)
    models = load_models(args, device)
    records, status = list[Record](), 0
    with tqdm(total=len(paths) * len(models) * len(settings), unit="certificate", disable=None, leave=False) as progress:
        for path in paths:
            progress.set_description(path.stem)
            try:
                found = list[Record]()
                for name, loaded in models.items():
                    image = read_pair(args, path, loaded, device)
                    for setting in settings:
                        with precision(args, device):
                            certificate = certify(args, image, loaded, setting, args.alpha / len(settings))
                        found += rows(args, image, name, setting, certificate)
                        progress.update()
                records += found
            except FAILURES as error:
                status = 2
                print(f"smoothsr: {path.stem}: {message(error)}", file=sys.stderr)
    return records, status


def certify(args: argparse.Namespace, image: Image, loaded: LoadedSR, setting: Setting, alpha: float) -> Certificate:
    """Make a certificate, or read the one that an earlier run made: its first draws count, and no others."""
    weights = archive.digest(loaded.model.state_dict().values())
    what = [__version__, weights, archive.digest([image.lr]), *setting, args.agg, args.n_cert, alpha, args.levels, args.precision]
    path = parts(args) / f"{image.name}_{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.npz"
    if path.exists():
        return Certificate.load(path)
    sigma, n, tile, halo = setting
    smoothed = SmoothedSR(loaded.model, sigma, n, args.agg, tile=tile or None, halo=halo)
    certificate = smoothed.certify(image.lr, n=args.n_cert, alpha=alpha, levels=args.levels)
    certificate.save(path)
    return certificate


def rows(args: argparse.Namespace, image: Image, name: str, setting: Setting, certificate: Certificate) -> Iterator[Record]:
    """Yield what is certified at each l2 radius: PSNR to the ground truth, and to the certificate's own output."""
    for radius in args.radius:
        scores = {
            f"{args.predictor} certified PSNR": certificate.psnr(radius, image.hr, predictor=args.predictor),
            f"{args.predictor} certified PSNR to its own output": certificate.psnr(radius, predictor=args.predictor),
        }
        yield {"image": image.name, "model": name, **setting._asdict(), "condition": f"l2 {radius:g}", "scores": scores}
