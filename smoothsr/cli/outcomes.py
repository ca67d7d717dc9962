"""What became of each image of `upscale`, told by part files to the processes that share them."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from smoothsr.files.parts import Parts

__all__ = ["SKIPPED", "UPSCALED", "Outcomes"]

UPSCALED, SKIPPED = "upscaled", "skipped"


class Outcomes:
    """Upscaled, skipped, or the reason of a failure, of each image.

    One process keeps them to itself, and goes on from what several left; of several each leaves a
    part file for an image, so that the last one to end can tell how all have ended, and a killed
    one, started again, goes on. (None may end with a failure before, since torchrun would stop the
    others.)

    Args:
        parts: The files.
        targets: All images, and where their outputs go.
        options: Tells all that outputs depend on but the image.
    """

    def __init__(self, parts: Parts, targets: Mapping[Path, Path], options: str) -> None:
        self.parts, self.targets = parts, targets
        self._names = {
            path: _name(place, path, target, options)
            for place, (path, target) in enumerate(targets.items())
        }
        self._own: dict[Path, str] = {}

    def by_draws(self, path: Path) -> Parts | None:
        """Return files by which processes share the draws of an image, if there are fewer images
        than processes; or by which one goes on that finds draws of it.
        """
        folder = self.parts.folder / self._names[path]
        if len(self.targets) < self.parts.ranks:
            return replace(self.parts, folder=folder)
        return Parts(folder) if folder.exists() else None

    def share(self) -> list[Path]:
        """Return the images that this process has still to upscale, or to make draws of. What an
        earlier run said of their failures is forgotten.
        """
        mine = [*self.targets]
        if len(mine) >= self.parts.ranks:
            mine = mine[self.parts.rank :: self.parts.ranks]
        for path in mine:
            self.parts.drop(f"{self._names[path]}_failed_*")
        missing = {*self.parts.missing([self._names[path] for path in mine])}
        return [
            path for path in mine if self._names[path] in missing or not self.targets[path].exists()
        ]

    def add(self, path: Path, outcome: str) -> None:
        """Keep what became of an image."""
        self._own[path] = outcome
        if self.parts.ranks > 1:
            self.parts.add(self._stored(path, outcome), {"outcome": np.array(outcome)})

    def all(self) -> dict[Path, str]:
        """Return what became of all images, and remove the files unless one failed.

        Raises:
            NotLastError: If another process does so.
        """
        missing = {*self.parts.missing([*self._names.values()])}
        names = {
            path: _failed(name) if name in missing else name
            for path, name in self._names.items()
            if self.parts.ranks > 1 or path not in self._own
        }
        self.parts.require_last([*names.values()])
        found = {path: str(self.parts.read(name)["outcome"]) for path, name in names.items()}
        outcomes = self._own | found
        if any(outcome not in (UPSCALED, SKIPPED) for outcome in outcomes.values()):
            self._leave([*names.values()])
        elif found:
            self.parts.remove()
        else:
            with suppress(OSError):  # there is none, or others have parts in it
                self.parts.folder.rmdir()
        return outcomes

    def _leave(self, names: Sequence[str]) -> None:
        """Leave what is done for the next run, which tries again what failed."""
        if names:
            self.parts.reopen(names)
        for name in self._names.values():
            self.parts.drop(f"{name}_failed_*")

    def _stored(self, path: Path, outcome: str) -> str:
        """Name a part file: a failure is one of this run alone, and is tried again by the next."""
        name = self._names[path]
        return name if outcome in (UPSCALED, SKIPPED) else _failed(name)


def _failed(name: str) -> str:
    run = [os.environ.get(f"TORCHELASTIC_{what}", "") for what in ("RUN_ID", "RESTART_COUNT")]
    return f"{name}_failed_{hashlib.sha256(repr(run).encode()).hexdigest()[:8]}"


def _name(place: int, path: Path, target: Path, options: str) -> str:
    """Tell an image as it is now, whatever path leads to it on another machine."""
    found = path.stat()
    what = repr([place, target.name, options, found.st_size, found.st_mtime_ns])
    return hashlib.sha256(what.encode()).hexdigest()[:16]
