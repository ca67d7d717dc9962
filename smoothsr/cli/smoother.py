"""What the commands of the command line do, once their options are parsed: a module each, and here
what they share.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from smoothsr import SmoothedSR, adapters
from smoothsr.adapters import LoadedSR
from smoothsr.attacks import gradient_memory
from smoothsr.files.images import Picture

__all__ = [
    "FAILURES",
    "UserError",
    "autocast",
    "bar",
    "find_device",
    "like",
    "load",
    "message",
    "network",
    "precision",
    "predictor",
    "reproducible",
    "require_memory",
    "smooth",
]

FAILURES = (
    ValueError,
    OSError,
    ImportError,
    MemoryError,
    RuntimeError,
)  # of one image, which do not stop the others


class UserError(ValueError):
    """One line for the user."""


def find_device(name: str) -> torch.device:
    """Return the device that --device names; "auto" is an accelerator where there is one."""
    if name == "auto":
        accelerator = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        name = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(name)
        if (
            device.type != "cpu" and device.index is None and "LOCAL_RANK" in os.environ
        ):  # torchrun's: a device for each process
            device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not there: {message(error)}") from error
    return device


def load(args: argparse.Namespace) -> tuple[LoadedSR, torch.device]:
    """Load the one model that the options name."""
    device = find_device(args.device)
    return adapters.load(args.model, arch=args.arch, scale=args.scale, device=device), device


def network(loaded: LoadedSR, channels: int) -> nn.Module:
    """Return the network for images of so many channels: gray ones go through a colour network as
    gray RGB.
    """
    if channels == 1 and loaded.channels == 3:
        return adapters.GrayAsRGB(loaded.model)
    if channels != loaded.channels:
        raise UserError(f"the network takes {loaded.channels} channels, the image has {channels}")
    return loaded.model


def smooth(args: argparse.Namespace, loaded: LoadedSR, picture: Picture) -> SmoothedSR:
    """Wrap the network as the options say."""
    options = {
        "tile": args.tile or None,
        "halo": args.halo,
        "batch_size": args.batch_size,
        "seed": getattr(args, "seed", None),
    }
    return SmoothedSR(
        network(loaded, picture.pixels.shape[1]), args.sigma, args.n, args.agg, **options
    )


def predictor(args: argparse.Namespace) -> str:
    """The options that define the predictor, as upscale and certify take them."""
    tile = f"--tile {args.tile} --halo {args.halo}" if args.tile else "--tile 0"
    return (
        f"--sigma {args.sigma:g} -n {args.n} --agg {args.agg} {tile} --precision {args.precision}"
    )


def require_memory(
    args: argparse.Namespace, picture: Picture, loaded: LoadedSR, bytes_per_value: int
) -> None:
    """Refuse draws or levels that would take more than gradient_memory.LIMIT, and say which option
    helps.
    """
    _, channels, height, width = picture.pixels.shape
    pixels = height * width
    if args.command == "upscale" and args.tile:
        pixels = min(pixels, args.tile**2)
    needed = channels * pixels * loaded.scale**2 * bytes_per_value
    if needed > gradient_memory.LIMIT:
        advice = (
            "pass a smaller --tile" if args.tile and args.command == "upscale" else "pass --tile 64"
        )
        if args.command == "certify":
            advice = "pass fewer --levels, or certify a crop" if args.tile else "leave --tile at 8"
        raise UserError(f"{width}x{height} pixels would take {needed / 2**30:.1f} GiB: {advice}")


def like(picture: Picture, sr: Tensor, bits: int) -> Picture:
    """The output as a picture: alpha enlarged beside it, the profile carried."""
    alpha = picture.alpha
    if alpha is not None:
        alpha = F.interpolate(alpha, sr.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
    return Picture(sr, alpha, bits, picture.icc)


def precision(args: argparse.Namespace, device: torch.device) -> torch.autocast:
    """Run in the precision that the options ask for."""
    return autocast(args.precision, device)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Run in the precision of that name."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


@contextmanager
def reproducible() -> Iterator[None]:
    """Let results depend on seeds alone, as far as the device can; what can't warns."""
    before, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it, CUDA's matrix products are not
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of draws."""
    with tqdm(desc=name, unit="draw", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def message(error: BaseException) -> str:
    """Say in one line what an error says."""
    return " ".join(str(error).split()) or type(error).__name__
