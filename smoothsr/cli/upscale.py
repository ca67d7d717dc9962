"""`smoothsr upscale`: upscale images and folders by a smoothed network."""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from smoothsr.adapters import LoadedSR
from smoothsr.cli import memory_budget
from smoothsr.cli.devices import autocast
from smoothsr.cli.errors import FAILURES, message
from smoothsr.cli.loading import NetworkOptions, load
from smoothsr.cli.progress import draws_bar
from smoothsr.cli.smoother import SmootherOptions, print_padding_advice, smoother
from smoothsr.cli.targets import Naming, Plan, plan
from smoothsr.engine.memory import Demand
from smoothsr.files import images
from smoothsr.files.atomic import output_folder


@dataclass(frozen=True)
class Options:
    """What to upscale by which smoother, and where to."""

    inputs: tuple[str, ...]
    naming: Naming
    skip_existing: bool
    network: NetworkOptions
    smoother: SmootherOptions

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Options":
        """Take them from the command line."""
        return cls(
            inputs=tuple(args.input),
            naming=Naming(args.output, args.suffix, args.ext),
            skip_existing=args.skip_existing,
            network=NetworkOptions.of(args),
            smoother=SmootherOptions.of(args),
        )


def run(args: argparse.Namespace) -> int:
    """Upscale every input; one that fails does not stop the others."""
    options = Options.of(args)
    planned = plan(options.inputs, options.naming)
    loaded, device = load(options.network)
    print(f"{loaded.name}, x{loaded.scale}; predictor: {options.smoother.text}")
    print_padding_advice(options.smoother, loaded)
    if planned.earlier:
        count = len(planned.earlier)
        print(
            f"{count} earlier output{'s' if count > 1 else ''} (*{options.naming.suffix}) left "
            "out: name a file itself to upscale it"
        )
    with ExitStack() as folders:
        for folder in dict.fromkeys(target.parent for target in planned.targets.values()):
            folders.enter_context(output_folder(folder))
        return _upscale_all(options, planned, loaded, device)


def _upscale_all(options: Options, planned: Plan, loaded: LoadedSR, device: torch.device) -> int:
    """Upscale one after the other, say what became of each, and return the exit status."""
    failed = skipped = 0
    for position, (path, target) in enumerate(planned.targets.items(), 1):
        if options.skip_existing and target.exists():
            print(f"{target} is there already: skipped")
            skipped += 1
            continue
        existed = target.exists()
        try:
            name = f"{path.name} ({position}/{len(planned.targets)})"
            _upscale(options.smoother, path, target, loaded, device, name)
            print(f"{target}{' (overwritten)' if existed else ''}")
        except FAILURES as error:
            failed += 1
            print(f"smoothsr: {_named(path, error)}", file=sys.stderr)
    done = len(planned.targets) - failed - skipped
    print(f"{done} upscaled, {skipped} skipped, {failed} failed")
    return 2 if failed else 0


def _upscale(
    options: SmootherOptions,
    path: Path,
    target: Path,
    loaded: LoadedSR,
    device: torch.device,
    name: str,
) -> None:
    """Upscale one file."""
    picture = images.read(path)
    images.require_format(target, picture)
    lr = picture.pixels.to(device)
    smoothed = memory_budget.fitted(
        smoother(options, loaded, picture),
        lr,
        Demand.held,
        "pass a smaller --tile, or upscale a crop" if options.tile else "leave --tile at auto",
    )
    if options.tile == "auto" and smoothed.tile:
        print(f"{path}: in tiles of {smoothed.tile} with a halo of {smoothed.halo}, to save memory")
    with torch.no_grad(), autocast(options.precision, device), draws_bar(name) as progress:
        sr = smoothed(lr, progress=progress).cpu()
    images.write(target, images.with_pixels(picture, sr, picture.bits))


def _named(path: Path, error: Exception) -> str:
    """Say what failed, and of which file, once."""
    text = message(error)
    return text if text.startswith(f"{path}: ") else f"{path}: {text}"
