"""`smoothsr upscale`: upscale images and folders by a smoothed network."""

import argparse
import hashlib
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smoothsr import __version__
from smoothsr.cli import memory_budget
from smoothsr.cli.devices import autocast
from smoothsr.cli.errors import FAILURES, message
from smoothsr.cli.loading import NetworkOptions, Networks, load
from smoothsr.cli.outcomes import SKIPPED, UPSCALED, Outcomes
from smoothsr.cli.processes import meet, place
from smoothsr.cli.progress import draws_bar, print_profile
from smoothsr.cli.smoother import SmootherOptions, print_padding_advice, settled, smoother
from smoothsr.cli.targets import Naming, Plan, plan
from smoothsr.engine.memory import Demand
from smoothsr.files import images
from smoothsr.files.atomic import output_folder
from smoothsr.files.parts import NotLastError, Parts


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
    networks = load(options.network)
    options = replace(options, smoother=settled(options.smoother, networks))
    print(f"{networks.text}; predictor: {options.smoother.text}")
    print_padding_advice(options.smoother, networks.sr)
    if planned.earlier:
        count = len(planned.earlier)
        print(
            f"{count} earlier output{'s' if count > 1 else ''} (*{options.naming.suffix}) left "
            "out: name a file itself to upscale it"
        )
    with ExitStack() as folders:
        for folder in dict.fromkeys(target.parent for target in planned.targets.values()):
            folders.enter_context(output_folder(folder))
        status = _upscale_all(options, planned, networks)
    print_profile(options.network.passes)
    return status


def _upscale_all(options: Options, planned: Plan, networks: Networks) -> int:
    """Upscale this process's share one after the other, say what became of each, and return the
    exit status.
    """
    outcomes = _outcomes(options, planned, networks)
    positions = {path: position for position, path in enumerate(planned.targets, 1)}
    share = outcomes.share()
    meet()
    for path in share:
        name = f"{path.name} ({positions[path]}/{len(positions)})"
        try:
            outcome = _upscale_unless_there(
                options, path, planned, networks, name, outcomes.by_draws(path)
            )
        except NotLastError as error:
            print(f"{path}: {error}; the process that is last to end writes the output")
            continue
        except FAILURES as error:
            outcome = _named(path, error)
            print(f"smoothsr: {outcome}", file=sys.stderr)
        outcomes.add(path, outcome)
    try:
        found = [*outcomes.all().values()]
    except NotLastError as error:
        print(f"{error}; the process that is last to end says how many failed")
        return 0
    done, skipped = found.count(UPSCALED), found.count(SKIPPED)
    failed = len(found) - done - skipped
    print(f"{done} upscaled, {skipped} skipped, {failed} failed")
    return 2 if failed else 0


def _outcomes(options: Options, planned: Plan, networks: Networks) -> Outcomes:
    """Share the images with other processes of the same options."""
    what = [__version__, options.smoother, options.naming.suffix, options.naming.ext]
    key = repr([*what, *networks.digests])
    folder = next(iter(planned.targets.values())).parent
    name = f"upscale_{hashlib.sha256(key.encode()).hexdigest()[:8]}_parts"
    return Outcomes(Parts(folder / name, *place()), planned.targets, key)


def _upscale_unless_there(
    options: Options,
    path: Path,
    planned: Plan,
    networks: Networks,
    name: str,
    parts: Parts | None,
) -> str:
    """Upscale one file, unless its output is to be left as it is; say which."""
    target = planned.targets[path]
    existed = target.exists()
    if options.skip_existing and existed:
        print(f"{target} is there already: skipped")
        return SKIPPED
    _upscale(options, path, target, networks, name, parts)
    print(f"{target}{' (overwritten)' if existed else ''}")
    return UPSCALED


def _upscale(
    options: Options,
    path: Path,
    target: Path,
    networks: Networks,
    name: str,
    parts: Parts | None = None,
) -> None:
    """Upscale one file, or make this process's share of its draws."""
    picture = images.read(path)
    images.require_format(target, picture, networks.sr.scale)
    lr = picture.pixels.to(networks.device)
    tile = options.smoother.tile
    smoothed = memory_budget.fitted(
        smoother(options.smoother, networks, picture),
        lr,
        Demand.held,
        "pass a smaller --tile, or upscale a crop" if tile else "leave --tile at auto",
    )
    if tile == "auto" and smoothed.tile:
        print(f"{path}: in tiles of {smoothed.tile} with a halo of {smoothed.halo}, to save memory")
    with (
        torch.no_grad(),
        autocast(options.smoother.precision, lr.device),
        draws_bar(name, smoothed.batching, options.network.passes) as progress,
    ):
        sr = smoothed(lr, progress=progress, parts=parts).cpu()
    images.write(target, images.with_pixels(picture, sr, picture.bits))
    if parts:
        parts.remove()


def _named(path: Path, error: Exception) -> str:
    """Say what failed, and of which file, once."""
    text = message(error)
    return text if text.startswith(f"{path}: ") else f"{path}: {text}"
