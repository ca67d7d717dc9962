"""Denoisers for the noise that smoothing adds: one call for a name or a file, and one interface,
whether a network is told how strong the noise is or not.

Reference: H. Salman, M. Sun, G. Yang, A. Kapoor, J. Z. Kolter, "Denoised Smoothing: A Provable
Defense for Pretrained Classifiers", 2020 (arXiv 2003.01908).
"""

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import dncnn, drunet, ffdnet
from .checkpoint import CheckpointError, State, read, spellings
from .fitted import Found, fit
from .loading import ADAPTERS, Adapter, recognize
from .transparent import Transparent

__all__ = ["BUILTIN", "DENOISERS", "Denoiser", "LoadedDenoiser", "as_denoiser", "load_denoiser"]

BUILTIN = Path(__file__).with_name("weights") / "denoiser.safetensors"
DENOISERS = (  # in the order in which they are asked, before those of super-resolution
    Adapter("ffdnet", ffdnet.detect, "", "FFDNet"),
    Adapter("drunet", drunet.detect, "", "DRUNet"),
    Adapter("dncnn", dncnn.detect, "", "DnCNN, FDnCNN"),
)
PROBED = 0.05  # standard deviation of the noise that a trial run is told


class Denoiser(Transparent):
    """A network that removes noise, on images of any channels.

    Gray images go through a colour network as gray RGB, and the channels of colour ones one by one
    through a gray network.

    Args:
        network: Maps (B,C,h,w) to the same shape. If its forward has a second argument without a
            default, that is the noise's standard deviation on each pixel, (B,1,h,w).
        channels: C; None: the network takes images as they are.
    """

    network: nn.Module

    def __init__(self, network: nn.Module, channels: int | None = None) -> None:
        super().__init__(network)
        self.channels = channels
        self.told = _wants_two(network)
        self.train(network.training)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: (B,C,h,w) in [0, 1] but for the noise.
            sigma: Standard deviation of the noise: a number, or (B,1,h,w).

        Returns:
            (B,C,h,w), which may leave [0, 1] a little.

        Raises:
            ValueError: If the network changes the image's shape.
        """
        batch, channels, height, width = noisy.shape
        level = sigma.to(noisy).expand(batch, 1, height, width)
        if self.channels in (None, channels):
            clean = self._run(noisy, level)
        elif self.channels == 1:
            each = noisy.reshape(-1, 1, height, width)
            clean = self._run(each, level.repeat_interleave(channels, 0)).view_as(noisy)
        else:
            clean = self._run(noisy.repeat(1, self.channels, 1, 1), level).mean(1, keepdim=True)
        if clean.shape != noisy.shape:
            raise ValueError(
                f"the denoiser makes {(*clean.shape,)} of {(*noisy.shape,)}: it must keep the shape"
            )
        return clean

    def _run(self, noisy: Tensor, level: Tensor) -> Tensor:
        return self.network(noisy, level) if self.told else self.network(noisy)


def _wants_two(network: nn.Module) -> bool:
    """Whether a network's forward has a second argument, which it must be given."""
    given = [
        each
        for each in inspect.signature(network.forward).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(given) > 1 and given[1].default is inspect.Parameter.empty


@dataclass(frozen=True)
class LoadedDenoiser:
    """A denoiser, and what is known of it.

    Args:
        model: In eval mode; its weights want no gradients.
        name: The architecture, with its main hyper-parameters.
        source: What was asked for: "builtin" or a path.
        sha256: Of the file, in hexadecimal.
    """

    model: Denoiser
    name: str
    source: str
    sha256: str


def load_denoiser(
    spec: str | os.PathLike[str], *, device: torch.device | str | None = None
) -> LoadedDenoiser:
    """Load a denoiser: the one that comes with the package, or a file.

    A file's keys and shapes tell which network it is: FFDNet, DRUNet, DnCNN or FDnCNN, for colour
    or gray; or any that `load` knows and that keeps the image's size.

    Args:
        spec: "builtin", or a path to a .pth, .pt, .ckpt or .safetensors file.
        device: Where the network shall be; None is the CPU.

    Raises:
        CheckpointError: If the file holds no denoiser that is known here, or is damaged.
        OSError: If the file can't be read.

    Example:
        >>> load_denoiser("builtin").name
        'ResidualFFDNet (64 features, 10 convolutions)'
    """
    source = os.fspath(spec)
    path = BUILTIN if source == "builtin" else Path(source)
    if not path.exists():
        raise FileNotFoundError(f'no file {source}; pass one, or "builtin"')
    with torch.random.fork_rng(devices=[]):  # networks draw initial weights
        try:
            state, sha256 = read(path)
            found = _detect(spellings(state))
            model = Denoiser(fit(found), found.channels).eval().requires_grad_(False)
            _try(model, found)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error
    return LoadedDenoiser(model.to(device or "cpu"), found.name, source, sha256)


def _detect(states: Sequence[State]) -> Found:
    """Find the network of a file's keys, as stored or without their prefixes."""
    advice = "or give the network to SmoothedSR yourself"
    found = recognize(states, None, (*DENOISERS, *ADAPTERS), advice)
    if found.scale != 1:
        raise CheckpointError(
            f"it is {found.name}, which enlarges x{found.scale}, and a denoiser keeps the size: "
            "pass it as the model"
        )
    return found


@torch.no_grad()
def _try(model: Denoiser, found: Found) -> None:
    """Run the network on a plain image.

    Raises:
        CheckpointError: If it fails, or makes something else than an image of that size.
    """
    noisy = torch.linspace(0.3, 0.7, 16).expand(1, found.channels, 16, 16)
    try:
        clean = model(noisy, torch.tensor(PROBED))
    except Exception as error:  # any architecture, any reason
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{found.name} fails on a 16x16 image: {type(error).__name__} {reason}"
        ) from error
    if not clean.isfinite().all():
        raise CheckpointError(
            f"{found.name} makes values that are not finite of a plain image: its weights are "
            "damaged"
        )


def as_denoiser(
    denoiser: nn.Module | str | os.PathLike[str] | None, like: Tensor | None = None
) -> Denoiser | None:
    """Make a denoiser of what a user passes: a name, a file, or a network; None stays None.

    Args:
        denoiser: As for `SmoothedSR`.
        like: Whose device and precision a loaded one gets.

    Raises:
        TypeError: If it is none of these.
    """
    if denoiser is None or isinstance(denoiser, Denoiser):
        return denoiser
    if isinstance(denoiser, nn.Module):
        return Denoiser(denoiser)
    if isinstance(denoiser, str | os.PathLike):
        model = load_denoiser(denoiser).model
        return model if like is None else model.to(like)
    hint = "pass its .model" if isinstance(denoiser, LoadedDenoiser) else "pass one of these"
    raise TypeError(
        f'denoiser must be "builtin", a file or a torch.nn.Module, got {type(denoiser).__name__}: '
        f"{hint}"
    )
