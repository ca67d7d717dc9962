"""Files that appear whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "staged"]


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


def _temporary(folder: Path, name: str) -> Path:
    return folder / f"{name}.{secrets.token_hex(4)}.part"
