"""Where outputs go, decided before anything is read: never onto an input."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smoothsr.cli.errors import UserError
from smoothsr.files import images

__all__ = ["Naming", "Plan", "plan"]


@dataclass(frozen=True)
class Naming:
    """How outputs are named: in a folder or as one file (None: beside the inputs), with a suffix to
    the name, and in a format (None: the input's).
    """

    output: Path | None
    suffix: str
    ext: str | None


@dataclass(frozen=True)
class Plan:
    """Every input with its target, and the earlier outputs that were left out."""

    targets: Mapping[Path, Path]
    earlier: Sequence[Path]


def plan(inputs: Sequence[str], naming: Naming) -> Plan:
    """Find the images and name their outputs.

    Of a folder, files that end on the suffix are outputs of an earlier run, and are left out.

    Raises:
        OSError: If an input is not there.
        UserError: If there are no images, an option names another folder, or an output would be
            written over an input or over another output.
    """
    _require_names(naming)
    given = {Path(path) for path in inputs}
    found = images.find(inputs)
    earlier = [
        path
        for path in found
        if path not in given and naming.suffix and path.stem.endswith(naming.suffix)
    ]
    paths = [path for path in found if path not in earlier]
    if not paths:
        others = f" but {_count(earlier)} of an earlier run" if earlier else ""
        raise UserError(
            f"no images in {', '.join(inputs)}{others} (looked for "
            f"{', '.join(sorted(images.EXTENSIONS))})"
        )
    targets = {path: _target(path, naming, len(paths)) for path in paths}
    _require_apart(targets)
    return Plan(targets, earlier)


def _count(earlier: Sequence[Path]) -> str:
    return f"{len(earlier)} output{'s' if len(earlier) > 1 else ''}"


def _require_names(naming: Naming) -> None:
    """Refuse a suffix or extension that would lead elsewhere, or to no format."""
    if any(mark in naming.suffix for mark in "/\\\0"):
        raise UserError(
            f"--suffix {naming.suffix!r} must be a part of a name: pass -o for another folder"
        )
    if naming.ext is not None and f".{naming.ext.lstrip('.')}".lower() not in images.EXTENSIONS:
        kinds = " ".join(kind.removeprefix(".") for kind in images.EXTENSIONS)
        raise UserError(f"--ext {naming.ext!r} must be one of {kinds}")


def _target(path: Path, naming: Naming, count: int) -> Path:
    output = naming.output
    if output and output.suffix and not output.is_dir():
        if count > 1:
            raise UserError(
                f"--output {output} is a file, but there are {count} inputs: pass a folder"
            )
        return output
    kind = "." + naming.ext.lstrip(".") if naming.ext else path.suffix
    return (output or path.parent) / f"{path.stem}{naming.suffix}{kind}"


def _require_apart(targets: Mapping[Path, Path]) -> None:
    """Refuse outputs that would be written over an input, by whatever name, or over each other."""
    inputs = {_identity(path): path for path in targets}
    sources: dict[str, Path] = {}
    for path, target in targets.items():
        if target.is_dir():
            raise UserError(f"{path} would be written to {target}, which is a folder")
        if target.exists() and _identity(target) in inputs:
            raise UserError(
                f"{path} would be written to {target}, which is an input itself: pass another "
                "-o or --suffix, or leave it out of the inputs"
            )
        place = os.path.join(os.path.realpath(target.parent), target.name)
        if place in sources:
            raise UserError(
                f"{sources[place]} and {path} would both be written to {target}: upscale them "
                "into different folders"
            )
        sources[place] = path


def _identity(path: Path) -> tuple[int, int]:
    """What a file is, whatever name or link leads to it."""
    found = path.stat()
    return found.st_dev, found.st_ino
