"""`smoothsr certify`: bound what any attack on an image can do to its output."""

import argparse
import json
from pathlib import Path

import torch

from smoothsr.adapters.fitted import padding_advice
from smoothsr.cli.smoother import (
    UserError,
    bar,
    like,
    load,
    precision,
    predictor,
    require_memory,
    smooth,
)
from smoothsr.files import images
from smoothsr.files.atomic import replacing
from smoothsr.reports import certificate_report


def run(args: argparse.Namespace) -> int:
    """Certify one image; write output, bounds, radius map, panel, table and certificate."""
    picture = images.read(args.input)
    loaded, device = load(args)
    smoothed = smooth(args, loaded, picture)
    require_memory(
        args,
        picture,
        loaded,
        2 * args.levels if args.tile else 2 * args.levels + min(args.n_cert, 1024),
    )
    reference = images.read(args.reference).pixels if args.reference else None
    height, width = (loaded.scale * side for side in picture.pixels.shape[2:])
    if reference is not None and reference.shape != (1, picture.pixels.shape[1], height, width):
        size = f"{reference.shape[3]}x{reference.shape[2]} pixels, {reference.shape[1]} channels"
        raise UserError(
            f"{args.reference} is {size}; the output has {width}x{height} pixels, "
            f"{picture.pixels.shape[1]} channels"
        )
    radii = args.radius or [share * args.sigma for share in (0.25, 0.5, 1, 1.5)]
    if min(radii) < 0 or not 0 <= args.tolerance <= 255 or not 0 < args.beta < 1:
        raise UserError(
            "--radius must be at least 0, --tolerance 0 to 255, and --beta between 0 and 1"
        )
    shown = min([radius for radius in radii if radius > 0], default=0.0)
    tolerance = args.tolerance / 255

    print(f"{loaded.name}, x{loaded.scale}; predictor: {predictor(args)}")
    if advice := padding_advice(loaded.multiple_of, loaded.minimum_size, args.tile, args.halo):
        print(advice)
    lr = picture.pixels.to(device)
    with precision(args, device), bar(args.input.name) as progress:
        certificate = smoothed.certify(
            lr, n=args.n_cert, alpha=args.alpha, levels=args.levels, progress=progress
        )
        with torch.no_grad():
            bare = smoothed.model(lr).float().clamp(0, 1).cpu()
    found = certificate_report.rows(certificate, sorted(radii), tolerance, args.beta, reference)
    linf = certificate_report.linf_rows(certificate, (0.5 / 255, 1 / 255), reference)
    given, absent = certificate_report.sentences(certificate, shown, args.beta)
    text = certificate_report.table(certificate, found, linf, tolerance)
    print(f"\n{text}\n\n{given}\n{absent}")

    folder = args.output or Path(f"{args.input.stem}_certified")
    folder.mkdir(parents=True, exist_ok=True)
    name = str(folder / args.input.stem)
    lower, upper = certificate.bounds(shown, certificate.predictors[0], args.beta)
    certificate.save(name + ".npz")
    images.write(name + "_sr.png", like(picture, certificate.sr, 8))
    for side, image in (("lower", lower), ("upper", upper)):
        images.write(f"{name}_{side}.png", images.Picture(image, None, 8, picture.icc))
    certificate_report.save_figure(
        certificate_report.radius_figure(certificate, tolerance, args.beta),
        Path(name + "_radius.png"),
    )
    certificate_report.save_figure(
        certificate_report.panel(picture.pixels, bare, certificate, shown, tolerance, args.beta),
        Path(name + "_panel.png"),
    )
    record = {
        "certificate": certificate.summary(),
        "model": {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256},
        "table": found,
        "linf": linf,
        "beta": args.beta,
        "tolerance_8bit": args.tolerance,
        "bounds_radius": shown,
        "guaranteed": given,
        "not_guaranteed": absent,
    }
    with replacing(name + ".json") as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if picture.bits == 16:
        print("The file has 16 bits; the certified output is the one rounded to 8 bits.")
    print(f"Wrote {name}_sr.png, _lower.png, _upper.png, _radius.png, _panel.png, .json, .npz")
    return 0
