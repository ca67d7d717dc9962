"""`smoothsr upscale`: upscale images and folders by a smoothed network."""

import argparse
import sys
from pathlib import Path

from smoothsr.adapters.fitted import padding_advice
from smoothsr.cli.smoother import (
    FAILURES,
    UserError,
    bar,
    like,
    load,
    message,
    precision,
    predictor,
    require_memory,
    smooth,
)
from smoothsr.files import images


def run(args: argparse.Namespace) -> int:
    """Upscale every input; one that fails does not stop the others."""
    paths = images.find(args.input)
    if not paths:
        raise UserError(
            f"no images in {', '.join(args.input)} (looked for "
            f"{', '.join(sorted(images.EXTENSIONS))})"
        )
    targets = [_target(path, args, len(paths)) for path in paths]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise UserError(
            f"several inputs would be written to {sorted(twice)[0]}: upscale them into "
            "different folders"
        )
    loaded, device = load(args)
    print(f"{loaded.name}, x{loaded.scale}; predictor: {predictor(args)}")
    if advice := padding_advice(loaded.multiple_of, loaded.minimum_size, args.tile, args.halo):
        print(advice)
    failed = skipped = 0
    for position, (path, target) in enumerate(zip(paths, targets, strict=True), 1):
        if args.skip_existing and target.exists():
            print(f"{target} is there already: skipped")
            skipped += 1
            continue
        try:
            picture = images.read(path)
            smoothed = smooth(args, loaded, picture)
            require_memory(args, picture, loaded, 4 * args.n if args.agg != "mean" else 8)
            with precision(args, device), bar(f"{path.name} ({position}/{len(paths)})") as progress:
                sr = smoothed(picture.pixels.to(device), progress=progress).cpu()
            existed = target.exists()
            target.parent.mkdir(parents=True, exist_ok=True)
            images.write(target, like(picture, sr, picture.bits))
            print(f"{target}{' (overwritten)' if existed else ''}")
        except FAILURES as error:
            failed += 1
            print(f"smoothsr: {path}: {message(error)}", file=sys.stderr)
    print(f"{len(paths) - failed - skipped} upscaled, {skipped} skipped, {failed} failed")
    return 2 if failed else 0


def _target(path: Path, args: argparse.Namespace, count: int) -> Path:
    suffix = "." + args.ext.lstrip(".") if args.ext else path.suffix
    if args.output and args.output.suffix and not args.output.is_dir():
        if count > 1:
            raise UserError(
                f"--output {args.output} is a file, but there are {count} inputs: pass a folder"
            )
        return args.output
    return (args.output or path.parent) / f"{path.stem}{args.suffix}{suffix}"
