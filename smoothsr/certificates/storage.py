"""Results on disk: files that appear whole or not at all, and one .npz that holds arrays and
options, without pickle.

The .npz has a format version and a digest of its content.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from smoothsr.files.atomic import replacing
from smoothsr.files.regular import require_regular

__all__ = ["UnreadableError", "read", "write"]


class UnreadableError(ValueError):
    """A file that is something else, or only a part."""


def write(
    path: str | os.PathLike[str],
    version: int,
    options: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """Write a file; one that is there is replaced only when the new one is complete.

    Args:
        path: Where to.
        version: Of the format.
        options: In JSON's types.
        arrays: Of numbers.
    """
    text = json.dumps({"format": version, **options}, sort_keys=True)
    parts: dict[str, Any] = {
        "options": np.array(text),
        "digest": np.array(_content_digest(text, arrays)),
        **arrays,
    }
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **parts)


def read(
    path: str | os.PathLike[str], version: int, names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote.

    Args:
        path: Where from.
        version: Of the format.
        names: Of the arrays.

    Raises:
        OSError: If the file can't be read.
        UnreadableError: If it is something else, or a part.
        ValueError: If it is of another version, or was changed.
    """
    require_regular(path)
    with Path(path).open("rb") as handle:
        try:
            with np.load(handle, allow_pickle=False) as file:
                text, written = str(file["options"]), str(file["digest"])
                options = json.loads(text)
                found = options.pop("format")
                known = names if found == version else ()  # others have other arrays
                arrays = {name: file[name] for name in known}
        # numpy, zipfile and zlib raise many kinds for a file that is something else.
        except Exception as error:
            if isinstance(error, MemoryError) or (
                isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
            ):
                raise  # the disk, or the computer, and not the file
            raise UnreadableError(f"{path} is no certificate, or not a whole one") from error
    if found != version:
        raise ValueError(
            f"{path} has format version {found}, this program reads {version}: certify again"
        )
    if written != _content_digest(text, arrays):
        raise ValueError(f"{path} was changed after it was written: its digest does not fit")
    return options, arrays


def _content_digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
