"""The networks that options name, ready to be run and not trained."""

import warnings
from argparse import Namespace
from dataclasses import dataclass, replace

import torch
from torch import nn

from smoothsr import adapters
from smoothsr.adapters import LoadedSR
from smoothsr.cli.devices import find_device
from smoothsr.cli.errors import UserError
from smoothsr.engine.passes import Passes, Watched
from smoothsr.files.regular import require_regular

__all__ = ["NetworkOptions", "for_channels", "load", "load_frozen"]


@dataclass(frozen=True)
class NetworkOptions:
    """Which network: a name or a file, and what a file may not tell; and how and where it runs."""

    model: str
    arch: str | None = None
    scale: int | None = None
    device: str = "cpu"
    compiled: bool = False
    passes: Passes | None = None  # counts what the network runs

    @classmethod
    def of(cls, args: Namespace) -> "NetworkOptions":
        """Take them from the command line."""
        compiled = getattr(args, "compile", False)
        passes = Passes() if getattr(args, "profile", False) else None
        return cls(args.model, args.arch, args.scale, args.device, compiled, passes)


def load(options: NetworkOptions) -> tuple[LoadedSR, torch.device]:
    """Load the one network that the options name."""
    device = find_device(options.device)
    loaded = load_frozen(options.model, options.arch, options.scale, device)
    if options.compiled:
        loaded.model.compile()  # in place: no key of its state changes
    if options.passes:
        loaded = replace(loaded, model=Watched(loaded.model, options.passes))
    return loaded, device


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
