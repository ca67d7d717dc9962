"""The options of evaluate and sweep, as typed records: what is measured, on what, and where to."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothsr.certificates.options import Predictor
from smoothsr.cli.errors import UserError
from smoothsr.engine.noise import sigma_text
from smoothsr.evaluation.records import NONE, Setting

__all__ = ["CERTIFICATION", "Certification", "StudyOptions", "denoisers_of", "short_names"]

# What may have other names on another machine that shares the work.
HERE = ("output", "device", "hr", "lr", "model", "denoiser", "lpips_weights")


def short_names(specs: Sequence[str]) -> list[str]:
    """Name files by their stems, where these tell them apart.

    Example:
        >>> short_names(["a/net.pth", "b.pth"]), short_names(["a/net.pth", "b/net.pth"])
        (['net', 'b'], ['a/net.pth', 'b/net.pth'])
    """
    stems = [Path(spec).stem for spec in specs]
    return stems if len({*stems}) == len(stems) else [*specs]


def denoisers_of(args: argparse.Namespace) -> dict[str, str]:
    """Name the denoisers that were asked for, with what they are told where that is given: {name in
    tables: file or name}.

    Raises:
        UserError: If a strength is given without a denoiser.
    """
    told = ""
    if args.denoiser_sigma is not None:
        if args.denoiser == [NONE]:
            raise UserError("--denoiser-sigma is what a denoiser is told: add --denoiser builtin")
        told = f" {sigma_text(args.denoiser_sigma)}"
    names = short_names(args.denoiser)
    return {
        name + (told if spec != NONE else ""): spec
        for name, spec in zip(names, args.denoiser, strict=True)
    }


@dataclass(frozen=True)
class StudyOptions:
    """What evaluate and sweep are told.

    Args:
        command: "evaluate" or "sweep", which names the files of the results.
        output: Folder of the results.
        hr: Image files or folders.
        lr: Folder of inputs; None: HR is reduced.
        crop: Side of the central crop that is measured, in LR pixels.
        models: As adapters.load takes them, with arch and scale.
        arch: For checkpoints that don't tell.
        scale: For checkpoints that serve several.
        settings: How each model is run.
        conditions: As conditions.parse takes them.
        denoisers: By the names that settings call them: as adapters.load_denoiser takes them, or
            "none".
        denoiser_sigma: What they are told, if that is not the usual.
        metrics: Of scores.METRICS.
        lpips_weights: File of them.
        agg: Of SmoothedSR.
        antithetic: Likewise.
        seed: Of attacks, degradations and serving noise.
        device: As --device takes it.
        precision: As --precision takes it.
        typed: All options by name, for the record.
    """

    command: str
    output: Path
    hr: tuple[str, ...]
    lr: Path | None
    crop: int | None
    models: tuple[str, ...]
    arch: str | None
    scale: int | None
    settings: tuple[Setting, ...]
    conditions: tuple[str, ...]
    denoisers: Mapping[str, str]
    denoiser_sigma: float | None
    metrics: tuple[str, ...]
    lpips_weights: Path | None
    agg: str
    antithetic: bool | None
    seed: int
    device: str
    precision: str
    typed: Mapping[str, Any]

    @classmethod
    def of(cls, args: argparse.Namespace, settings: list[Setting]) -> "StudyOptions":
        """Take the options from what was parsed.

        Raises:
            UserError: If the crop has no pixel.
        """
        if args.crop is not None and args.crop < 1:
            raise UserError(f"--crop must be at least 1, got {args.crop}")
        same = [
            "command",
            "lr",
            "crop",
            "arch",
            "scale",
            "denoiser_sigma",
            "lpips_weights",
            "agg",
            "antithetic",
            "seed",
            "device",
            "precision",
        ]
        return cls(
            output=args.output or Path(args.command),
            hr=tuple(args.hr),
            models=tuple(args.model),
            settings=tuple(dict.fromkeys(settings)),
            conditions=tuple(args.attack),
            denoisers=denoisers_of(args),
            metrics=tuple(args.metrics),
            typed=dict(vars(args)),
            **{name: getattr(args, name) for name in same},
        )

    @property
    def result(self) -> Path:
        """What the names of the results begin with."""
        return self.output / self.command

    @property
    def parts(self) -> Path:
        """The folder from which a run can go on."""
        return self.output / "parts"

    @property
    def shared(self) -> list[tuple[str, Any]]:
        """What is the same for all processes that share a run, on every machine."""
        return sorted((name, value) for name, value in self.typed.items() if name not in HERE)


CERTIFICATION = {
    "radius": [0.05, 0.1],
    "linf": [0.5 / 255, 1 / 255],
    "n_cert": 1000,
    "alpha": 1e-3,
    "levels": 32,
    "predictor": "ideal",
}
"""What sweeps over certificates alone are told, and what is usual."""


@dataclass(frozen=True)
class Certification:
    """What `sweep --over certified` is told besides: the options of CertifiedStudy."""

    radii: tuple[float, ...]
    linf: tuple[float, ...]
    n_cert: int
    alpha: float
    levels: int
    predictor: Predictor

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Certification":
        """Take the options from what was parsed.

        Raises:
            UserError: If one is out of its range.
        """
        least = min(*args.radius, *args.linf)
        if least < 0 or not 0 < args.alpha < 1:
            raise UserError(
                "--radius and --linf must be at least 0 and --alpha between 0 and 1, got "
                f"{least:g} and {args.alpha:g}"
            )
        if args.n_cert < 1 or args.levels < 2:
            raise UserError(
                f"--n-cert must be at least 1 and --levels at least 2, got {args.n_cert} and "
                f"{args.levels}"
            )
        return cls(
            radii=tuple(args.radius),
            linf=tuple(args.linf),
            n_cert=args.n_cert,
            alpha=args.alpha,
            levels=args.levels,
            predictor=args.predictor,
        )
