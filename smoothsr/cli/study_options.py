"""The options of evaluate and sweep, as typed records: what is measured, on what, and where to."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothsr.cli.errors import UserError
from smoothsr.evaluation.certified_study import Predictor
from smoothsr.evaluation.records import Setting

__all__ = ["Certification", "StudyOptions"]

# What may have other names on another machine that shares the work.
HERE = ("output", "device", "hr", "lr", "model", "lpips_weights")


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
        metrics: Of study.METRICS.
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
            metrics=tuple(args.metrics),
            typed=dict(vars(args)),
            **{name: getattr(args, name) for name in same},
        )

    @property
    def parts(self) -> Path:
        """The folder from which a run can go on."""
        return self.output / "parts"

    @property
    def shared(self) -> list[tuple[str, Any]]:
        """What is the same for all processes that share a run, on every machine."""
        return sorted((name, value) for name, value in self.typed.items() if name not in HERE)


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
