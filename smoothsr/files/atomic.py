"""Files that appear whole or not at all, and folders that are there before the work begins."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["adding", "output_folder", "replacing", "require_own", "staged"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name; the file that is written there becomes path when it is complete, and
    never before.

    The name is this call's own, since several processes, of several machines, may write the same
    result.
    """
    target = Path(path)
    part = _temporary(target.parent, target.name)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def adding(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name, as `replacing` does; but of several files of one path the first that
    is complete stays, whoever writes it.

    On file systems without hard links, of two that are complete at the same moment the last stays.
    """
    target = Path(path)
    part = _temporary(target.parent, target.name)
    try:
        yield part
        try:
            os.link(part, target)
        except FileExistsError:
            pass
        except OSError:
            if not target.exists():
                part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; the files that are written there move into folder once all are
    complete, so that a full disk leaves no half of a set.

    Raises:
        IsADirectoryError: If folder holds a folder of a file's name.
    """
    stage = _temporary(folder, "set")
    stage.mkdir()
    try:
        yield stage
        files = sorted(stage.iterdir())
        for file in files:
            if (folder / file.name).is_dir():
                raise IsADirectoryError(f"{folder / file.name} is a folder: pass another --output")
        for file in files:
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def require_own(mark: Path, targets: Iterable[Path]) -> None:
    """Refuse to write over files that are of something else: where an earlier run has written them,
    its mark is there too.

    Raises:
        FileExistsError: If so.
    """
    others = [target for target in targets if target.exists() and not mark.exists()]
    if others:
        raise FileExistsError(
            f"{others[0]} is there, and no {mark.name}, so it is of something else: pass another "
            "--output, or move it"
        )


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder and try to write in it, before work that would be lost; folders that were made
    here and are empty at the end, since all work failed, go again.

    Raises:
        OSError: If nothing can be written there.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    taken = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if taken.exists() and not taken.is_dir():
        raise NotADirectoryError(f"{taken} is a file, and results go to a folder: pass another")
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = _temporary(folder, "probe")
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise type(error)(f"nothing can be written to {folder}: {reason}") from error
        yield
    finally:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _temporary(folder: Path, name: str) -> Path:
    return folder / f"{name}.{secrets.token_hex(4)}.part"
