"""From a name or a file to a network that is ready for smoothing."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from . import basicsr_archs, builtin, edsr, probe, spandrel, torchsr
from .checkpoint import CheckpointError, State, describe, read, spellings
from .fitted import Found, fit

__all__ = ["LoadedSR", "available", "load"]


@dataclass(frozen=True)
class LoadedSR:
    """A super-resolution network, and what is known of it.

    Args:
        model: Maps (B,C,h,w) in [0, 1] to (B,C,s*h,s*w) in the same range but not clamped;
            differentiable, in eval mode.
        scale: Integer ratio s of output to input side.
        channels: C, of input and output.
        value_range: What white is to the network inside the model: 1 or 255.
        multiple_of: Sides that are multiples of this need no padding inside the model. A tile and
            halo that are keep the windows of a network (DITN, SwinIR, HAT) where they are in the
            whole image.
        minimum_size: Nor do sides of at least this.
        name: The architecture, with its main hyper-parameters.
        source: What was asked for: a name or a path.
        sha256: Of the file, in hexadecimal; None where there is no file at hand.
    """

    model: nn.Module
    scale: int
    channels: int
    value_range: float
    multiple_of: int
    minimum_size: int
    name: str
    source: str
    sha256: str | None


def load(
    spec: str | os.PathLike[str],
    *,
    arch: str | None = None,
    scale: int | None = None,
    device: torch.device | str | None = None,
    value_range: float | None = None,
) -> LoadedSR:
    """Load a super-resolution network by its name or from a checkpoint file, and find out what it
    is.

    A file's keys and shapes tell architecture and hyper-parameters; wrappers (`params_ema`,
    `state_dict` ...) and prefixes (`module.`, `net_g.` ...) are taken off, fp16 weights become
    float32, and nothing in the file is executed.

    Args:
        spec: "builtin", "builtin-clean", a path to a .pth, .pt, .ckpt or .safetensors file, or
            "torchsr:NAME@xSCALE" for torchSR's own weights.
        arch: Names the architecture of a file: "torchsr:NAME", or 'basicsr:NAME{"option": value}'
            for any that an installed BasicSR knows. None finds out.
        scale: Needed where one file serves several scales (CARN, VDSR); checked otherwise.
        device: Where the model shall be; None is the CPU.
        value_range: 255 for a network that wants [0, 255], which few files tell; None takes the
            usual one.

    Raises:
        CheckpointError: If the file holds no network that is known, is damaged, or is not what arch
        or scale say.
        OSError: If the file can't be read.
        ImportError: If a package is missing; says the pip line.
        ValueError: If arch, scale or value_range make no sense.

    Example:
        >>> sr = load("builtin")
        >>> sr.name, sr.scale, (*sr.model(torch.zeros(1, 3, 5, 7)).shape,)
        ('SRVGGNetCompact (32 features, 16 convolutions)', 4, (1, 3, 20, 28))
    """
    source = os.fspath(spec)
    if value_range not in (None, 1, 255):
        raise ValueError(f"value_range must be 1 or 255, got {value_range}")
    with torch.random.fork_rng(
        devices=[]
    ):  # networks draw initial weights before they get the file's
        try:
            found, sha256 = _find(source, arch, scale)
            if scale not in (None, found.scale):
                raise CheckpointError(f"it is {found.name} x{found.scale}, not x{scale}")
            found.network.to(device or "cpu")
            found = probe.check(replace(found, value_range=float(value_range or found.value_range)))
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        doubt = probe.doubt(found) if value_range is None else None
    if doubt:
        warnings.warn(f"{source}: {doubt}", stacklevel=2)
    return LoadedSR(
        model=fit(found),
        scale=found.scale,
        channels=found.channels,
        value_range=found.value_range,
        multiple_of=found.multiple_of,
        minimum_size=found.minimum_size,
        name=found.name,
        source=source,
        sha256=sha256,
    )


def available() -> list[tuple[str, str, str]]:
    """List what `load` takes: (spec, what it is, the extra that it needs or "").

    Example:
        >>> available()[0]
        ('builtin', 'SRVGGNetCompact x4, trained with noise for smoothing', '')
    """
    file = "FILE (.pth .pt .ckpt .safetensors)"
    return [
        ("builtin", "SRVGGNetCompact x4, trained with noise for smoothing", ""),
        ("builtin-clean", "the same network, trained without noise, for comparison", ""),
        (file, "SRVGGNetCompact, EDSR, MSRResNet; EDSR of torchSR", ""),
        (
            file,
            "the 42 architectures of spandrel: ESRGAN, SwinIR, HAT, DAT, SPAN, SAFMN, RCAN ...",
            "load",
        ),
        (file, "NinaSR, CARN (with scale), RCAN, RDN, VDSR (with scale)", "torchsr"),
        ("torchsr:NAME@xSCALE", f"torchSR's own weights: {', '.join(torchsr.NAMES)}", "torchsr"),
        (file + " and arch='torchsr:NAME'", "a file for one of these", "torchsr"),
        (
            file + " and arch='basicsr:NAME{...}'",
            "any architecture of an installed BasicSR, options in JSON",
            "basicsr",
        ),
    ]


def _find(source: str, arch: str | None, scale: int | None) -> tuple[Found, str | None]:
    family, _, rest = (arch or "").partition(":")
    if family not in ("", "torchsr", "basicsr") or (arch and not rest):
        raise ValueError(f"arch must be torchsr:NAME or basicsr:NAME{{...}}, got {arch}")
    if source.startswith("basicsr:"):
        raise ValueError(
            f"{source} names an architecture without weights; pass a file of them and "
            f"arch='{source}'"
        )
    if source.startswith("torchsr:"):
        if arch:
            raise ValueError(
                f"arch goes with a file, but {source} is none; leave arch={arch!r} out"
            )
        return torchsr.pretrained(source.removeprefix("torchsr:"), scale), None
    path = builtin.BUILTIN.get(source, source)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"no file {source}; names of networks are {', '.join(builtin.BUILTIN)} and "
            "torchsr:NAME@xSCALE"
        )
    state, sha256 = read(path)
    states = spellings(state)
    if family == "torchsr":
        return torchsr.build(rest, states, scale), sha256
    if family == "basicsr":
        return basicsr_archs.build(rest, states, scale), sha256
    found = _detect(states, scale) or spandrel.detect(states)
    if found:
        return found, sha256
    raise CheckpointError(
        f"no known network has its keys: {describe(states[-1])}; pass arch='torchsr:NAME' or "
        f"arch='basicsr:NAME{{...}}', or build "
        "the network yourself and give it to SmoothedSR"
    )


def _detect(states: Sequence[State], scale: int | None) -> Found | None:
    for state in states:
        try:
            found = builtin.detect(state) or edsr.detect(state) or torchsr.detect(state, scale)
        except (CheckpointError, ImportError):
            raise
        except Exception as error:  # known keys, but shapes that no hyper-parameters explain
            reason = f"{type(error).__name__} {' '.join(str(error).split())[:160]}"
            raise CheckpointError(
                f"its tensors have known keys and unknown shapes ({reason}): {describe(state)}"
            ) from error
        if found:
            return found
    return None
