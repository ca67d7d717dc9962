"""Work that is cut into parts, each kept in a file, so that a run that was killed goes on where it
was, and processes on one or many machines share it.

A part's file appears whole, and of several the first one stays: what random draws have shown is
never chosen among several. Each process makes its share, and the last one to end joins the parts.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smoothsr.files.atomic import adding

__all__ = ["NotLastError", "Parts"]

Arrays = Mapping[str, np.ndarray]
SUFFIXES = (".npz", ".npy")  # of several arrays by name, and of one
SEEN, POLL = 60.0, 0.1  # seconds until a shared disk tells of files, and between two looks


class NotLastError(Exception):
    """Another process joins the parts; the share of this one is made."""


@dataclass(frozen=True)
class Parts:
    """Part files, and this process's place among those that share them.

    Names must tell all that a part depends on, so that a part of other options is never taken for
    it.

    Args:
        folder: Of the files; made with the first.
        rank: Of this process, from 0.
        ranks: How many processes there are.
        together: Waits until all of them have called it with a name, so that they share what needs
            all parts of a kind; None: no process waits, and the last one to end does that alone.
        all_join: Whether every process joins the parts, for which they have to wait.

    Raises:
        ValueError: If all join, and do not wait for each other.
    """

    folder: Path
    rank: int = 0
    ranks: int = 1
    together: Callable[[str], object] | None = None
    all_join: bool = False

    def __post_init__(self) -> None:
        if self.all_join and not self.together:
            raise ValueError("all_join takes together: without it no process waits for the parts")

    def share(self, names: Sequence[str]) -> list[str]:
        """Return the names of this process's share of the parts that are not there. Where there are
        any, whoever was the last may be so once more.
        """
        missing = {*self.missing(names)}
        mine = [name for name in names[self.rank :: self.ranks] if name in missing]
        if mine:
            self.reopen(names)
        return mine

    def reopen(self, names: Sequence[str]) -> None:
        """Let a process be the last once more."""
        self.drop(self._last(names))

    def meet(self, names: Sequence[str]) -> None:
        """Wait for the other processes, if they wait for each other, until all parts are there.

        Raises:
            OSError: If parts that others made are not seen here.
        """
        if self.together is None:
            return
        self.together(names[0])
        for _ in range(int(SEEN / POLL)):
            if not self.missing(names) or not self.folder.exists():  # joined, and removed
                return
            time.sleep(POLL)
        raise OSError(
            f"{self.missing(names)[0]} is not seen in {self.folder}: is it a shared disk?"
        )

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return the names of parts that are not there."""
        there = set[str]()
        with suppress(FileNotFoundError):  # there is no folder yet, or another process removes it
            there = {path.stem for path in self.folder.iterdir() if path.suffix in SUFFIXES}
        return [name for name in names if name not in there]

    def add(self, name: str, arrays: Arrays | np.ndarray) -> None:
        """Keep a part, several arrays or a large one, unless it is there already.

        Raises:
            OSError: If it can't be written.
        """
        self._keep(name, arrays)

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Read a part of several arrays.

        Raises:
            OSError: If it is not there.
            ValueError: If it is damaged.
        """
        path = self._path(name)
        with path.open("rb") as file, _whole(path), np.load(file, allow_pickle=False) as stored:
            return dict(stored)

    def array(self, name: str) -> np.ndarray:
        """Open a part that is one array, of which no more is read than is looked at.

        Raises:
            OSError: If it is not there.
            ValueError: If it is damaged.
        """
        path = self._path(name, ".npy")
        with _whole(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)

    def first(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return the arrays that the first of all processes and runs gave."""
        self._keep(name, arrays)
        return self.read(name)

    def drop(self, pattern: str) -> None:
        """Remove the parts of several arrays of a name or a pattern, as far as they are there."""
        with suppress(FileNotFoundError):  # there is no folder
            for path in self.folder.glob(f"{pattern}.npz"):
                path.unlink(missing_ok=True)

    def renew(self, pattern: str) -> None:
        """Remove the parts of a pattern before any process adds one again."""
        self.drop(pattern)
        self.wait(pattern)

    def wait(self, name: str) -> None:
        """Wait for the other processes, if they wait for each other."""
        if self.together:
            self.together(name)

    def drop_alone(self, name: str) -> None:
        """Remove a part, and the folder, if there is no other: then nothing is to go on with."""
        if [path.stem for path in self.folder.glob("*")] == [name]:
            self.drop(name)
            with suppress(OSError):  # another process has added a part, or removed the folder
                self.folder.rmdir()

    def agree(self, name: str, value: int) -> int:
        """Return the number that the first of all processes and runs gave."""
        return int(self.first(name, {"value": np.array(value)})["value"])

    def wait_to_join(self, names: Sequence[str]) -> None:
        """Let a process pass that joins the parts, once all are there: every one, or the last.

        Raises:
            NotLastError: If another process joins them.
            OSError: If parts that others made are not seen here.
        """
        if self.all_join:
            self.meet(names)
        else:
            self.require_last(names)

    def require_last(self, names: Sequence[str]) -> None:
        """Let exactly one process pass, once all parts are there.

        A process of the same rank passes again, should this one be killed before it is done.

        Raises:
            NotLastError: For all others.
        """
        if self.ranks == 1:
            return
        self.meet(names)
        if missing := self.missing(names):
            raise NotLastError(f"{len(names) - len(missing)} of {len(names)} parts are there")
        last = self._last(names)
        try:
            self._write(last, {"value": np.array(self.rank)})
            first = int(self.read(last)["value"])
        except FileNotFoundError as error:  # it has joined them already, and removed the folder
            raise NotLastError("all parts are joined") from error
        if first != self.rank:
            raise NotLastError(f"all {len(names)} parts are there, and process {first} joins them")

    def remove(self) -> None:
        """Remove all parts, once what they were made for is kept elsewhere.

        Raises:
            OSError: If there are none.
        """
        # By another name first, so that no process adds to a folder that is half removed.
        gone = self.folder.with_name(f"{self.folder.name}.{secrets.token_hex(4)}.part")
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        if gone.exists():  # one was adding to it at that moment
            shutil.rmtree(gone)

    def _last(self, names: Sequence[str]) -> str:
        """Name the file that tells which process is the last."""
        return f"{names[0]}_last_of_{self.ranks}"

    def _keep(self, name: str, arrays: Arrays | np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._write(name, arrays)
        finally:
            with suppress(OSError):  # it has parts, as it should
                self.folder.rmdir()

    def _write(self, name: str, arrays: Arrays | np.ndarray) -> None:
        suffix = SUFFIXES[isinstance(arrays, np.ndarray)]
        with adding(self._path(name, suffix)) as part, part.open("wb") as file:
            if isinstance(arrays, np.ndarray):
                np.save(file, arrays)
            else:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def _path(self, name: str, suffix: str = ".npz") -> Path:
        return self.folder / f"{name}{suffix}"


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Tell of a part that is damaged."""
    try:
        yield
    except OSError:
        raise
    # numpy, zipfile and zlib raise many kinds for a file that is something else.
    except Exception as error:
        raise ValueError(f"{path} is damaged: delete it, and start again") from error
