"""From a name or a file to a network that is ready for smoothing."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from . import basicsr_archs, builtin, edsr, own_class, probe, resselt, spandrel, torchsr
from .checkpoint import CheckpointError, State, describe, read, spellings
from .fitted import ANOTHER, Found, fit

__all__ = ["ADAPTERS", "Adapter", "LoadedSR", "available", "load", "recognize"]


@dataclass(frozen=True)
class Adapter:
    """What knows networks by their keys.

    Args:
        name: Of its module.
        detect: Builds the network of a state dict, whose scale is given where the user named one;
            None if the keys are another's.
        extra: The extra of this package that it needs, or "".
        loads: The architectures that it knows, for `available`.
    """

    name: str
    detect: Callable[[State, int | None], Found | None]
    extra: str
    loads: str


# In the order in which they are asked.
ADAPTERS = (
    Adapter("builtin", builtin.detect, "", "SRVGGNetCompact"),
    Adapter("edsr", edsr.detect, "", "EDSR, MSRResNet; EDSR of torchSR"),
    Adapter(
        "torchsr",
        torchsr.detect,
        "torchsr",
        "NinaSR, CARN (with scale), RCAN, RDN, VDSR (with scale)",
    ),
    Adapter(
        "spandrel",
        spandrel.detect,
        "load",
        "the 42 architectures of spandrel: ESRGAN, SwinIR, HAT, DAT, SPAN, SAFMN, RCAN ...",
    ),
    Adapter(
        "resselt",
        resselt.detect,
        "resselt",
        "more architectures, of resselt: RTMoSR, MoSRv2, GateR, FIGSR, SPANPlus, EIMN ...",
    ),
)

ADVICE = f"pass arch='torchsr:NAME', {ANOTHER}; or give the network to SmoothedSR yourself"

# What builds a network that arch names by its family.
FAMILIES = {"torchsr": torchsr.build, "basicsr": basicsr_archs.build}


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
        spec: "builtin", "builtin-clean", "builtin-smooth", a path to a .pth, .pt, .ckpt or
            .safetensors file, or
            "torchsr:NAME@xSCALE" for torchSR's own weights.
        arch: Names the architecture of a file: "torchsr:NAME"; "basicsr:NAME{option=value}" for any
            that an installed BasicSR knows; or "net.py:RFDN{nf=50, upscale=4}" for a class of your
            own, in a Python file of yours, which is run. Options may be in JSON too. None finds
            out.
        scale: Needed where one file serves several scales (CARN, VDSR); checked otherwise.
        device: Where the model shall be; None is the CPU.
        value_range: 255 for a network that wants [0, 255], which few files tell; None takes the
            usual one, or for a class of your own that of a trial run.

    Warns:
        UserWarning: If a trial run looks as if value_range were another.

    Raises:
        CheckpointError: If the file holds no network that is known here, is damaged, or is not what
            arch or scale say; names the packages, with their pip lines, that may know it.
        OSError: If the file, or that of arch, can't be read.
        ImportError: If the package that spec or arch names is missing; says the pip line.
        ValueError: If arch, scale or value_range make no sense.

    Example:
        >>> sr = load("builtin")
        >>> sr.name, sr.scale, (*sr.model(torch.zeros(1, 3, 5, 7)).shape,)
        ('SRVGGNetCompact (32 features, 16 convolutions)', 4, (1, 3, 20, 28))
    """
    source = os.fspath(spec)
    if value_range not in (None, 1, 255):
        raise ValueError(f"value_range must be 1 or 255, got {value_range}")
    # Networks draw initial weights before they get the file's.
    with torch.random.fork_rng(devices=[]):
        try:
            found, sha256 = _find(source, arch, scale)
            if scale not in (None, found.scale):
                raise CheckpointError(f"it is {found.name} x{found.scale}, not x{scale}")
            found.network.to(device or "cpu")
            found = probe.check(replace(found, value_range=float(value_range or found.value_range)))
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
        warning = probe.range_warning(found) if value_range is None else None
    if warning:
        warnings.warn(f"{source}: {warning}", stacklevel=2)
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
    named = f"{file} and arch="
    return [
        ("builtin", "SRVGGNetCompact x4, trained with noise for smoothing", ""),
        ("builtin-clean", "the same network, trained without noise, for comparison", ""),
        ("builtin-smooth", "the same, trained on for the mean of its noisy outputs", ""),
        *((file, adapter.loads, adapter.extra) for adapter in ADAPTERS),
        ("torchsr:NAME@xSCALE", f"torchSR's own weights: {', '.join(torchsr.NAMES)}", "torchsr"),
        (f"{named}'torchsr:NAME'", "a file for one of these", "torchsr"),
        (
            f"{named}'basicsr:NAME{{option=value}}'",
            "any architecture of an installed BasicSR, with its options",
            "basicsr",
        ),
        (
            f"{named}'FILE.py:CLASS{{option=value}}'",
            "a class of your own, in a Python file that is run",
            "",
        ),
    ]


def _find(source: str, arch: str | None, scale: int | None) -> tuple[Found, str | None]:
    build = _builder(arch) if arch else None
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
    return build(states, scale) if build else recognize(states, scale), sha256


def _builder(arch: str) -> Callable[[Sequence[State], int | None], Found]:
    """What builds the network that arch names, given the file's states and the scale."""
    family, _, spec = arch.partition(":")
    if family in FAMILIES and spec:
        return partial(FAMILIES[family], spec)
    if re.fullmatch(own_class.PATTERN, arch, re.DOTALL):
        return partial(own_class.build, arch)
    raise ValueError(
        "arch must be torchsr:NAME, basicsr:NAME{...}, or your own class as in "
        f"net.py:RFDN{{nf=50, upscale=4}}, got {arch}"
    )


def recognize(
    states: Sequence[State],
    scale: int | None,
    adapters: Sequence[Adapter] = ADAPTERS,
    advice: str = ADVICE,
) -> Found:
    """Ask one adapter after the other which network a state dict is.

    Args:
        states: The state dict under several readings of its keys.
        scale: What the user named, if anything.
        adapters: Who is asked.
        advice: What to do where none knows it.

    Raises:
        CheckpointError: If none knows it, or one does and can't build it.
    """
    untried = []
    for adapter in adapters:
        try:
            found = _ask(adapter, states, scale)
        except ImportError as error:
            untried.append(str(error))
            continue
        if found:
            return found
    unknown = f"no network that is installed here has its keys: {describe(states[-1])}"
    raise CheckpointError("; ".join([unknown, *untried, advice]))


def _ask(adapter: Adapter, states: Sequence[State], scale: int | None) -> Found | None:
    for state in states:
        try:
            found = adapter.detect(state, scale)
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
