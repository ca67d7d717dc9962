"""What the commands of the command line do, once their options are parsed."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from smoothsr import SmoothedSR, adapters, images, report
from smoothsr.adapters import LoadedSR
from smoothsr.images import Picture

__all__ = ["certify", "models", "upscale"]

MEMORY = 4 * 2**30  # bytes of draws or levels that a command takes without being asked to cut the image


class UserError(ValueError):
    """One line for the user."""


def upscale(args: argparse.Namespace) -> int:
    """Upscale every input; one that fails does not stop the others."""
    paths = images.find(args.input)
    if not paths:
        raise UserError(f"no images in {', '.join(args.input)} (looked for {', '.join(sorted(images.EXTENSIONS))})")
    targets = [_target(path, args, len(paths)) for path in paths]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise UserError(f"several inputs would be written to {sorted(twice)[0]}: upscale them into different folders")
    loaded, device = _load(args)
    print(f"{loaded.name}, x{loaded.scale}; predictor: {_predictor(args)}")
    failed = skipped = 0
    for position, (path, target) in enumerate(zip(paths, targets, strict=True), 1):
        if args.skip_existing and target.exists():
            print(f"{target} is there already: skipped")
            skipped += 1
            continue
        try:
            picture = images.read(path)
            smoothed = _smoothed(args, loaded, picture)
            _require_memory(args, picture, loaded, 4 * args.n if args.agg != "mean" else 8)
            with _precision(args, device), _bar(f"{path.name} ({position}/{len(paths)})") as progress:
                sr = smoothed(picture.pixels.to(device), progress=progress).cpu()
            existed = target.exists()
            target.parent.mkdir(parents=True, exist_ok=True)
            images.write(target, _like(picture, sr, picture.bits))
            print(f"{target}{' (overwritten)' if existed else ''}")
        except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
            failed += 1
            print(f"smoothsr: {path}: {_line(error)}", file=sys.stderr)
    print(f"{len(paths) - failed - skipped} upscaled, {skipped} skipped, {failed} failed")
    return 2 if failed else 0


def certify(args: argparse.Namespace) -> int:
    """Certify one image; write output, bounds, radius map, panel, table and certificate."""
    picture = images.read(args.input)
    loaded, device = _load(args)
    smoothed = _smoothed(args, loaded, picture)
    _require_memory(args, picture, loaded, 2 * args.levels if args.tile else 2 * args.levels + min(args.n_cert, 1024))
    reference = images.read(args.reference).pixels if args.reference else None
    height, width = (loaded.scale * side for side in picture.pixels.shape[2:])
    if reference is not None and reference.shape != (1, picture.pixels.shape[1], height, width):
        size = f"{reference.shape[3]}x{reference.shape[2]} pixels, {reference.shape[1]} channels"
        raise UserError(f"{args.reference} is {size}; the output has {width}x{height} pixels, {picture.pixels.shape[1]} channels")
    radii = args.radius or [share * args.sigma for share in (0.25, 0.5, 1, 1.5)]
    if min(radii) < 0 or not 0 <= args.tolerance <= 255 or not 0 < args.beta < 1:
        raise UserError("--radius must be at least 0, --tolerance 0 to 255, and --beta between 0 and 1")
    shown = min([radius for radius in radii if radius > 0], default=0.0)
    tolerance = args.tolerance / 255

    print(f"{loaded.name}, x{loaded.scale}; predictor: {_predictor(args)}")
    lr = picture.pixels.to(device)
    with _precision(args, device), _bar(args.input.name) as progress:
        certificate = smoothed.certify(lr, n=args.n_cert, alpha=args.alpha, levels=args.levels, progress=progress)
        with torch.no_grad():
            bare = smoothed.model(lr).float().clamp(0, 1).cpu()
    found = report.rows(certificate, sorted(radii), tolerance, args.beta, reference)
    linf = report.linf_rows(certificate, (0.5 / 255, 1 / 255), reference)
    given, absent = report.sentences(certificate, shown, args.beta)
    text = report.table(certificate, found, linf, tolerance)
    print(f"\n{text}\n\n{given}\n{absent}")

    folder = args.output or Path(f"{args.input.stem}_certified")
    folder.mkdir(parents=True, exist_ok=True)
    name = str(folder / args.input.stem)
    lower, upper = certificate.bounds(shown, report.predictors(certificate)[0], args.beta)
    certificate.save(name + ".npz")
    images.write(name + "_sr.png", _like(picture, certificate.sr, 8))
    for side, image in (("lower", lower), ("upper", upper)):
        images.write(f"{name}_{side}.png", images.Picture(image, None, 8, picture.icc))
    report.save_figure(report.radius_figure(certificate, tolerance, args.beta), Path(name + "_radius.png"))
    report.save_figure(report.panel(picture.pixels, bare, certificate, shown, tolerance, args.beta), Path(name + "_panel.png"))
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
    part = Path(name + ".json.part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(name + ".json")
    if picture.bits == 16:
        print("The file has 16 bits; the certified output is the one rounded to 8 bits.")
    print(f"Wrote {name}_sr.png, _lower.png, _upper.png, _radius.png, _panel.png, .json, .npz")
    return 0


def models(args: argparse.Namespace) -> int:
    """List what can be loaded, or tell what files are."""
    failed = 0
    if not args.file:
        lines = adapters.available()
        widths = [max(len(line[column]) for line in lines) for column in range(2)]
        for spec, what, extra in lines:
            needs = f'needs pip install "smoothsr[{extra}]"' if extra else ""
            print(f"{spec:{widths[0]}}  {what:{widths[1]}}  {needs}".rstrip())
    for spec in args.file:
        try:
            loaded = adapters.load(spec)
            count = sum(parameter.numel() for parameter in loaded.model.parameters())
            print(f"{spec}: {loaded.name}, x{loaded.scale}, {loaded.channels} channels, {count:,} parameters")
        except (ValueError, OSError, ImportError) as error:
            failed += 1
            print(f"smoothsr: {_line(error)}", file=sys.stderr)
    return 2 if failed else 0


def _load(args: argparse.Namespace) -> tuple[LoadedSR, torch.device]:
    name = args.device
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not there: {_line(error)}") from error
    return adapters.load(args.model, scale=args.scale, device=device), device


def _smoothed(args: argparse.Namespace, loaded: LoadedSR, picture: Picture) -> SmoothedSR:
    model, channels = loaded.model, picture.pixels.shape[1]
    if channels == 1 and loaded.channels == 3:
        model = adapters.GrayAsRGB(model)
    elif channels != loaded.channels:
        raise UserError(f"the network takes {loaded.channels} channels, the image has {channels}")
    options = {"tile": args.tile or None, "halo": args.halo, "batch_size": args.batch_size, "seed": getattr(args, "seed", None)}
    return SmoothedSR(model, args.sigma, args.n, args.agg, **options)


def _predictor(args: argparse.Namespace) -> str:
    """The options that define the predictor, as upscale and certify take them."""
    tile = f"--tile {args.tile} --halo {args.halo}" if args.tile else "--tile 0"
    return f"--sigma {args.sigma:g} -n {args.n} --agg {args.agg} {tile} --precision {args.precision}"


def _require_memory(args: argparse.Namespace, picture: Picture, loaded: LoadedSR, bytes_per_value: int) -> None:
    _, channels, height, width = picture.pixels.shape
    pixels = height * width
    if args.command == "upscale" and args.tile:
        pixels = min(pixels, args.tile**2)
    needed = channels * pixels * loaded.scale**2 * bytes_per_value
    if needed > MEMORY:
        advice = "pass a smaller --tile" if args.tile and args.command == "upscale" else "pass --tile 64"
        if args.command == "certify":
            advice = "pass fewer --levels, or certify a crop" if args.tile else "leave --tile at 8"
        raise UserError(f"{width}x{height} pixels would take {needed / 2**30:.1f} GiB: {advice}")


def _like(picture: Picture, sr: Tensor, bits: int) -> Picture:
    """The output as a picture: alpha enlarged beside it, the profile carried."""
    alpha = picture.alpha
    if alpha is not None:
        alpha = F.interpolate(alpha, sr.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
    return Picture(sr, alpha, bits, picture.icc)


def _target(path: Path, args: argparse.Namespace, count: int) -> Path:
    suffix = "." + args.ext.lstrip(".") if args.ext else path.suffix
    if args.output and args.output.suffix and not args.output.is_dir():
        if count > 1:
            raise UserError(f"--output {args.output} is a file, but there are {count} inputs: pass a folder")
        return args.output
    return (args.output or path.parent) / f"{path.stem}{args.suffix}{suffix}"


def _precision(args: argparse.Namespace, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, getattr(torch, args.precision), enabled=args.precision != "float32")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=name, unit="draw", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
