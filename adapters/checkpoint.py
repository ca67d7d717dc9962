"""Reading checkpoint files: tensors and nothing else.

A file is judged by its content, not by its name. Pickles go through PyTorch's weights-only
unpickler, which builds tensors and plain containers and calls nothing that a file asks for;
everything else is refused with one line that says what the file is.
"""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["CheckpointError", "State", "describe", "read", "spellings", "unwrap"]

State = dict[str, Tensor]

# In order of preference: the averaged weights of a BasicSR file before the last ones.
WRAPPERS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "net_g",
    "generator",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net_g.", "netG.", "generator.")
# Beside these a file may hold a discriminator, which is left out.
GENERATORS = ("net_g.", "netG.", "generator.")


class CheckpointError(ValueError):
    """A file that can't be loaded as a network: one line says what was found and what to pass."""


def read(path: str | Path) -> tuple[State, str]:
    """Read the network's tensors from a checkpoint file, and execute nothing of it.

    Args:
        path: A torch.save file (.pth, .pt, .ckpt) or a .safetensors file.

    Returns:
        The innermost state dict, on the CPU; and the SHA-256 of the file in hexadecimal.

    Raises:
        CheckpointError: If the file is anything else, is damaged, or holds no tensors by name.
        OSError: If it can't be read.
    """
    data = Path(path).read_bytes()
    if data.startswith((b"PK\x03\x04", b"\x80")):
        loaded = _unpickle(data)
    elif data[8:9] == b"{":
        loaded = _parse_safetensors(data)
    else:
        raise CheckpointError(f"{_what_else(data)}; pass a .pth, .pt, .ckpt or .safetensors file")
    return unwrap(loaded), hashlib.sha256(data).hexdigest()


def unwrap(loaded: Any) -> State:
    """Take the state dict out of what was stored around it.

    Raises:
        CheckpointError: If there are no tensors by name in it, or a convolution of 0 channels.

    Example:
        >>> zero = torch.zeros(1)
        >>> list(unwrap({"iter": 5000, "params": {"a": zero}, "params_ema": {"b": zero}}))
        ['b']
    """
    for _ in range(4):  # a limit, because a pickle can contain itself
        if isinstance(loaded, Mapping):
            loaded = next(
                (
                    loaded[key]
                    for key in WRAPPERS
                    if loaded.get(key) and isinstance(loaded[key], Mapping)
                ),
                loaded,
            )
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"it holds a {type(loaded).__name__}, not a state dict; pass a file that "
            "torch.save made of one"
        )
    state = {
        key: value
        for key, value in loaded.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        keys = ", ".join(map(str, list(loaded)[:6])) or "none"
        raise CheckpointError(
            f"it holds no tensors by name, its keys are: {keys}; pass the file with the "
            "network's weights"
        )
    for key, value in state.items():
        if value.ndim == 4 and not value.numel():  # a convolution's
            raise CheckpointError(
                f"its {key} has shape {(*value.shape,)}, which holds no value; pass the file that "
                "training wrote"
            )
    return state


def spellings(state: State) -> list[State]:
    """List the state dict as stored, then with one known prefix after the other taken off its keys.

    All are to be tried, the stored one first: `model.` is a wrapper's prefix in most files, but
    part of the names in old ESRGAN's.

    Example:
        >>> [list(each) for each in spellings({"module.net_g.conv.weight": torch.zeros(1)})]
        [['module.net_g.conv.weight'], ['net_g.conv.weight'], ['conv.weight']]
    """
    found = [state]
    while shorter := _without_prefix(found[-1]):
        found.append(shorter)
    return found


def _without_prefix(state: State) -> State | None:
    for prefix in PREFIXES:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        if len(inner) == len(state) or (inner and prefix in GENERATORS):
            return inner
    return None


def describe(state: Mapping[str, Tensor], limit: int = 4) -> str:
    """Name the first keys with their shapes, for an error.

    Example:
        >>> describe({"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(1)}, limit=2)
        'a (2, 3), b (1,) and 1 more'
    """
    first = ", ".join(f"{key} {(*value.shape,)}" for key, value in list(state.items())[:limit])
    return first + (f" and {len(state) - limit} more" if len(state) > limit else "")


def _unpickle(data: bytes) -> Any:
    if data.startswith(b"PK"):
        try:
            names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        except Exception as error:  # BadZipFile for a missing end, others for damage elsewhere
            raise CheckpointError(f"it is truncated or damaged: {error}; fetch it again") from None
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                "it is a TorchScript archive, whose network is code; pass its state dict "
                "instead, or load it with torch.jit.load "
                "and give the module to SmoothedSR"
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise CheckpointError(
                f"it is a zip archive, but not one of torch.save: it holds {', '.join(names[:3])}"
            )
    try:
        with warnings.catch_warnings():
            # About the pickle's protocol; what comes of it is either tensors or an error.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        # PyTorch's own text advises to run what is in the file; it is neither passed on nor
        # chained.
        text = " ".join(str(error).split())
        if foreign := re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", text):
            raise CheckpointError(
                f"it holds a pickled {foreign[1] or foreign[2]}, which could run code and is "
                "not loaded; where you trust the file, "
                "load it yourself and torch.save the network's state_dict() alone"
            ) from None
        reason = (
            re.sub(r".*WeightsUnpickler error: | Check the documentation.*", "", text)[:160]
            or type(error).__name__
        )
        raise CheckpointError(
            f"it is damaged or truncated, or was not made by torch.save: {reason}"
        ) from None


def _parse_safetensors(data: bytes) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"it is a damaged or truncated safetensors file: {' '.join(str(error).split())[:160]}"
        ) from error


def _what_else(data: bytes) -> str:
    head = data[:200].strip()
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: `git lfs pull` fetches the file that it stands for"
    if head.startswith(b"<"):
        return "it is an HTML page: the download fetched a web page in the file's place"
    text = head.decode("utf-8", "replace")
    if text.replace("\n", " ").replace("\t", " ").isprintable() and "\ufffd" not in text:
        return f"it is text, beginning with {text[:40]!r}"
    return f"it is no checkpoint: its first bytes are {data[:8].hex(' ')}"
