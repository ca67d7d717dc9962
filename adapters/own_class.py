"""A class of the user's own, from a Python file that the user names: FILE.py:CLASS{nf=50}.

The file is the user's and is run, as `python FILE.py` would run it; the checkpoint is not.
"""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from torch import nn

from .checkpoint import State
from .fitted import Found
from .named import assemble, parse
from .probe import check, likely_value_range

__all__ = ["PATTERN", "build"]

PATTERN = r"(.+?\.py):(\w.*)"


def build(arch: str, states: Sequence[State], scale: int | None) -> Found:
    """Build the network of the user's own class, with the weights of a file.

    Scale, multiples of the sides, channels and value range are found out by trial runs.

    Args:
        arch: FILE.py:CLASS, or FILE.py:CLASS{...} with the options as keywords or in JSON.
        states: The file's state dict under several readings of its keys.
        scale: Checked against the trial run, unless None.

    Raises:
        CheckpointError: If the weights are not that network's, or it maps no image to an enlarged
            one.
        ValueError: If the file can't be run or has no such network, or the options are not its
            options.
        FileNotFoundError: If there is no such file.
    """
    match = re.fullmatch(PATTERN, arch, re.DOTALL)
    if match is None:
        raise ValueError(f"arch must be FILE.py:CLASS or FILE.py:CLASS{{option=value}}, got {arch}")
    path = Path(match[1]).expanduser()
    name, options = parse(match[2])
    network = _network_class(path, name)
    found = check(assemble(network, options, states, scale, f"{name} of {path.name}"))
    return replace(found, value_range=likely_value_range(found))


def _network_class(path: Path, name: str) -> type[nn.Module]:
    """Run the file and take the class out of it."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, in which arch names the class {name}")
    members = vars(_run(path))
    network = members.get(name)
    if isinstance(network, type) and issubclass(network, nn.Module):
        return network
    others = [
        key
        for key, value in members.items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    ]
    what = "is no torch.nn.Module class" if name in members else "is not there"
    raise ValueError(f"{path}: {name} {what}; its networks are: {', '.join(others) or 'none'}")


def _run(path: Path) -> ModuleType:
    """Import a file under a name of its own, or return it where the same was imported before.

    It becomes a module of a package that is its folder, so that `from .block import x` works too,
    and folders with files of the same names don't mix. It stays in sys.modules, where pickle looks
    for its classes.
    """
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    package = f"smoothsr_own_{digest[:12]}"
    name = f"{package}.{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # no importer takes .py files
        raise ValueError(f"{path} can't be imported")
    folder = ModuleType(package)
    folder.__path__ = [str(path.parent)]
    module = importlib.util.module_from_spec(spec)
    sys.modules.update({package: folder, name: module})
    try:
        with _neighbours_first(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file's own, whatever it is
        for half_run in [each for each in sys.modules if each.partition(".")[0] == package]:
            del sys.modules[half_run]
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} can't be run: {type(error).__name__} {reason}") from error
    return module


@contextmanager
def _neighbours_first(folder: Path) -> Iterator[None]:
    """Let `import block` find the folder's block.py first, as `python FILE.py` does; then put back
    what was.
    """
    names = {each.stem for each in folder.glob("*.py")}
    names |= {each.parent.name for each in folder.glob("*/__init__.py")}
    names -= sys.stdlib_module_names
    search = sys.path[:]
    foreign = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in names
        and folder not in Path(getattr(module, "__file__", None) or "").parents
    }
    for name in foreign:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = search
        sys.modules.update(foreign)
