"""Results on disk: files that appear whole or not at all, and one .npz that holds arrays and
options, without pickle.

The .npz has a format version and a digest of its content. A stack of levels is stored as the
differences from each to the next, small numbers that are compressed further and faster.
"""

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from smoothsr.files.atomic import replacing
from smoothsr.files.regular import require_regular

__all__ = ["UnreadableError", "read", "write"]

FORMAT = 4
PLAIN = 3  # the format before, whose stacks are stored as they are
READABLE = PLAIN, FORMAT
DIFFERENCES = "_differences"  # at the end of a stack's name in the file


class UnreadableError(ValueError):
    """A file that is something else, or only a part."""


def write(
    path: str | os.PathLike[str],
    options: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    stacks: Mapping[str, np.ndarray],
) -> None:
    """Write a file; one that is there is replaced only when the new one is complete.

    Args:
        path: Where to.
        options: In JSON's types.
        arrays: Of numbers.
        stacks: uint8 (G,C,H,W), of levels that differ little from one to the next.
    """
    text = json.dumps({"format": FORMAT, **options}, sort_keys=True)
    parts = {
        "options": np.array(text),
        "digest": np.array(_content_digest(text, {**arrays, **stacks})),
        **arrays,
    }
    with (
        replacing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in parts.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        for name, stack in stacks.items():
            with archive.open(f"{name}{DIFFERENCES}.npy", "w", force_zip64=True) as entry:
                descr = np.lib.format.dtype_to_descr(stack.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": stack.shape}
                np.lib.format.write_array_header_1_0(entry, header)
                for level in _differences(stack):
                    entry.write(level.tobytes())


def read(
    path: str | os.PathLike[str], names: Sequence[str], stack_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write` wrote, or an earlier version of it did.

    Args:
        path: Where from.
        names: Of the arrays.
        stack_names: Of the stacks.

    Returns:
        The options, and all arrays.

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
                arrays = _arrays(file, found, names, stack_names) if found in READABLE else {}
        # numpy, zipfile and zlib raise many kinds for a file that is something else.
        except Exception as error:
            if isinstance(error, MemoryError) or (
                isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
            ):
                raise  # the disk, or the computer, and not the file
            raise UnreadableError(f"{path} is no certificate, or not a whole one") from error
    if found not in READABLE:
        raise ValueError(
            f"{path} has format version {found}, this program reads {READABLE[0]} to {FORMAT}: "
            "certify again"
        )
    if written != _content_digest(text, arrays):
        raise ValueError(f"{path} was changed after it was written: its digest does not fit")
    return options, arrays


def _arrays(
    file: Mapping[str, np.ndarray], version: int, names: Sequence[str], stack_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Read the arrays and stacks of a file."""
    if version == PLAIN:
        return {name: file[name] for name in (*names, *stack_names)}
    stacks = {name: file[name + DIFFERENCES] for name in stack_names}
    for stack in stacks.values():
        _add_up(stack)
    return {name: file[name] for name in names} | stacks


def _differences(stack: np.ndarray) -> Iterator[np.ndarray]:
    """Subtract from each level the one before, modulo 256."""
    before = np.uint8(0)
    for level in stack:
        yield level - before
        before = level


def _add_up(stack: np.ndarray) -> None:
    """Make levels of their differences, in place."""
    for before, level in pairwise(stack):
        level += before


def _content_digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
