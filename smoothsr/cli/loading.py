"""The networks that options name, ready to be run and not trained."""

import re
import warnings
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from smoothsr import adapters
from smoothsr.adapters import LoadedDenoiser, LoadedSR
from smoothsr.adapters.own_class import PATTERN
from smoothsr.cli.devices import find_device
from smoothsr.cli.errors import UserError
from smoothsr.engine.passes import Passes, Watched
from smoothsr.files.digests import fingerprint
from smoothsr.files.regular import require_regular

__all__ = [
    "NetworkOptions",
    "Networks",
    "for_channels",
    "load",
    "load_denoiser",
    "load_frozen",
    "of_own_class",
]


@dataclass(frozen=True)
class NetworkOptions:
    """Which network and denoiser, a name or a file each; what the network's file may not tell; and
    how and where they run.
    """

    model: str
    arch: str | None = None
    scale: int | None = None
    device: str = "cpu"
    denoiser: str = "none"
    compiled: bool = False
    passes: Passes | None = None  # counts what the network runs

    @classmethod
    def of(cls, args: Namespace) -> "NetworkOptions":
        """Take them from the command line."""
        compiled = getattr(args, "compile", False)
        passes = Passes() if getattr(args, "profile", False) else None
        where = (args.model, args.arch, args.scale, args.device, args.denoiser)
        return cls(*where, compiled, passes)


class Networks(NamedTuple):
    """A network, what is before it, and where both are; and whether the network's class is the
    user's own, of which nothing is known.
    """

    sr: LoadedSR
    denoiser: LoadedDenoiser | None
    device: torch.device
    own: bool = False

    @property
    def before(self) -> nn.Module | None:
        """The denoiser's module, if there is one."""
        return None if self.denoiser is None else self.denoiser.model

    @property
    def text(self) -> str:
        """Name both."""
        behind = f" behind {self.denoiser.name}" if self.denoiser else ""
        return f"{self.sr.name}, x{self.sr.scale}{behind}"

    @property
    def digests(self) -> list[str]:
        """Tell them from others."""
        network = self.sr.sha256 or fingerprint(self.sr.model)
        return [network, *([self.denoiser.sha256] if self.denoiser else [])]

    @property
    def record(self) -> dict[str, dict[str, str | None] | None]:
        """Name both for files."""
        before = None if self.denoiser is None else _record(self.denoiser)
        return {"model": _record(self.sr), "denoiser": before}


def _record(loaded: LoadedSR | LoadedDenoiser) -> dict[str, str | None]:
    return {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256}


def load(options: NetworkOptions) -> Networks:
    """Load the networks that the options name."""
    device = find_device(options.device)
    sr = load_frozen(options.model, options.arch, options.scale, device)
    if options.compiled:
        sr.model.compile()  # in place: no key of its state changes
    if options.passes:
        sr = replace(sr, model=Watched(sr.model, options.passes))
    own = of_own_class(options.arch)
    return Networks(sr, load_denoiser(options.denoiser, device), device, own)


def of_own_class(arch: str | None) -> bool:
    """Whether --arch names a class of the user's."""
    return bool(arch and re.fullmatch(PATTERN, arch, re.DOTALL))


def load_denoiser(spec: str, device: torch.device) -> LoadedDenoiser | None:
    """Load a denoiser by its name or file; "none" is none."""
    if spec == "none":
        return None
    require_regular(spec)
    return adapters.load_denoiser(spec, device=device)


def load_frozen(
    spec: str, arch: str | None, scale: int | None, device: torch.device | str = "cpu"
) -> LoadedSR:
    """Load a network whose weights want no gradients: none of its outputs then keeps a graph, but
    where an input wants one.
    """
    require_regular(spec)
    with warnings.catch_warnings():
        # torch's word on networks of no channels, which are refused in a line of their own.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        loaded = adapters.load(spec, arch=arch, scale=scale, device=device)
    loaded.model.requires_grad_(False)
    return loaded


def for_channels(loaded: LoadedSR, channels: int) -> nn.Module:
    """Return the network for images of so many channels: gray ones go through a colour network as
    gray RGB.
    """
    if channels == 1 and loaded.channels == 3:
        return adapters.GrayAsRGB(loaded.model)
    if channels != loaded.channels:
        raise UserError(f"the network takes {loaded.channels} channels, the image has {channels}")
    return loaded.model
