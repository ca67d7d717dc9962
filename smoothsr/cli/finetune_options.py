"""The options of finetune, refused at once where they would fail after hours."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smoothsr import __version__
from smoothsr.adapters import LoadedSR
from smoothsr.cli.devices import find_device
from smoothsr.cli.errors import UserError
from smoothsr.cli.processes import place
from smoothsr.engine.arguments import settled_draws
from smoothsr.training.methods import TAKES, Numbers

__all__ = ["OF_METHODS", "FineTuneOptions"]

# What may differ between two starts of one run: where things are, and what is measured of it.
PLACES = ("out", "data", "cache", "device", "model", "hr", "lr", "lpips_weights", "vgg_weights")
MEASURED = ("crop", "metrics", "validations", "agg", "n", "antithetic")
HERE = (*PLACES, *MEASURED, "command", "dry_run")
OF_METHODS = {
    "sigmas": "sigmas",
    "draws": "draws",
    "weight": "weight",
    "kind": "kind",
    "penalty_tile": "tile",
    "eps": "eps",
    "norm": "norm",
    "attack_steps": "steps",
}
"""Options that some methods take, and how `Numbers` calls them."""

OF_VALIDATION: dict[str, tuple[str, Any]] = {
    "lr": ("--val-lr", None),
    "crop": ("--crop", None),
    "metrics": ("--metrics", ["psnr_y"]),
    "agg": ("--agg", "mean"),
    "n": ("-n", None),
    "antithetic": ("--antithetic", None),
}
"""What has a part in validation alone: as it is typed, and what is usual."""


@dataclass(frozen=True)
class FineTuneOptions:
    """What finetune is told.

    Args:
        args: As parsed.
        device: Where it runs.
    """

    args: argparse.Namespace
    device: torch.device

    @classmethod
    def of(cls, args: argparse.Namespace) -> "FineTuneOptions":
        """Check the options.

        Raises:
            UserError: If one is out of its range, or a file that it would write is there already.
        """
        _settle_validation(args)
        _require_ranges(args)
        _require_taken(args)
        if args.method == "smoothed" and args.loss != "l1":
            raise UserError(
                "--method smoothed learns the squared error of the expected output: leave out "
                f"--loss {args.loss}, or take another method"
            )
        ranks = place()[1]
        if args.batch % ranks:
            raise UserError(f"--batch {args.batch} can't be shared by {ranks} processes")
        args.n, args.antithetic = settled_draws(args.n, args.agg, args.antithetic)
        options = cls(args, find_device(args.device))
        if options.out.suffix not in (".safetensors", ".pth"):
            raise UserError(f"--out must end in .safetensors or .pth, got {options.out}")
        if not options.state.exists() and not args.dry_run:
            _require_free(options.out, options.figure)
        return options

    @property
    def out(self) -> Path:
        """The weights' file."""
        return Path(self.args.out)

    @property
    def state(self) -> Path:
        """What a run that was cut off goes on from."""
        return self.out.with_suffix(".state")

    @property
    def figure(self) -> Path:
        """The curves."""
        return self.out.with_name(f"{self.out.stem}_curves.png")

    @property
    def cache(self) -> Path:
        """The folder of decoded images."""
        return Path(self.args.cache or self.out.with_suffix(".cache"))

    @property
    def precision(self) -> torch.dtype:
        """Of the network's arithmetic."""
        found: torch.dtype = getattr(torch, self.args.precision)
        return found

    @property
    def numbers(self) -> Numbers:
        """What the method is told."""
        return Numbers(sigma=self.args.sigma, **_given(self.args))

    def recipe(self, loaded: LoadedSR, images: int) -> dict[str, Any]:
        """Name all that the weights depend on, images by their number."""
        options = vars(self.args).items()
        told = {name: value for name, value in options if name not in (*HERE, *OF_METHODS)}
        for option, name in OF_METHODS.items():
            if name in TAKES[self.args.method]:
                told[option] = getattr(self.numbers, name)
        network = {"model": loaded.name, "sha256": loaded.sha256}
        return {"smoothsr": __version__, **network, "images": images, **told}


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of methods that were given, as `Numbers` calls them."""
    given = {name: getattr(args, option) for option, name in OF_METHODS.items()}
    return {name: value for name, value in given.items() if value is not None}


def _settle_validation(args: argparse.Namespace) -> None:
    """Fill in what is usual, and refuse what would not be looked at."""
    for name, (option, usual) in OF_VALIDATION.items():
        if getattr(args, name) is None:
            setattr(args, name, usual)
        elif not args.hr:
            raise UserError(f"{option} is of the validation: add --val FOLDER, or leave it out")


def _require_taken(args: argparse.Namespace) -> None:
    """Refuse a number that the method would not look at."""
    if args.penalty_tile is not None and args.kind != "top":
        raise UserError("--penalty-tile is the tile of --kind top: add that")
    for option, name in OF_METHODS.items():
        if getattr(args, option) is not None and name not in TAKES[args.method]:
            takers = ", ".join(method for method, names in TAKES.items() if name in names)
            raise UserError(
                f"--method {args.method} takes no --{option.replace('_', '-')}: leave it out, or "
                f"take one of {takers}"
            )


def _require_free(*files: Path) -> None:
    """Refuse to write over a file that is not of this run."""
    for file in files:
        if file.exists():
            raise UserError(f"{file} is there already: name another --out, or remove it")


def _require_ranges(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense."""
    whole = {name: getattr(args, name) for name in ("batch", "patch", "validations", "draws")}
    whole |= {"reduce": min(args.reduce), "penalty-tile": args.penalty_tile}
    whole |= {"steps": args.steps, "crop": args.crop, "attack-steps": args.attack_steps}
    for name, value in whole.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if args.seed < 0:
        raise UserError(f"--seed must be at least 0, got {args.seed}")
    numbers = {name: getattr(args, name) for name in ("minutes", "sigma", "eps")}
    for name, value in {**numbers, "lr": args.rate}.items():
        if value is not None and value <= 0:
            raise UserError(f"--{name} must be greater than 0, got {value:g}")
    if not 0 <= args.ema < 1:
        raise UserError(f"--ema must be at least 0 and less than 1, got {args.ema:g}")
