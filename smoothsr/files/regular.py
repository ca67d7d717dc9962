"""Files that end: reading a pipe or a device might wait for ever."""

import os
from pathlib import Path

__all__ = ["require_regular"]


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what is there and is neither a file nor a folder, which a read refuses by itself.

    Raises:
        OSError: If so.
    """
    found = Path(path)
    if found.exists() and not found.is_file() and not found.is_dir():
        raise OSError(f"{path} can't be read: it is a pipe or a device; pass a file")
