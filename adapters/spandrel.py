"""The 42 architectures that the package spandrel knows by their keys: ESRGAN, SwinIR, HAT, DAT,
SPAN, SAFMN and so on.

spandrel's own descriptor runs without gradients and clamps its output, so only its detection and
its networks are used here; what sides a network wants is kept by `Fitted`.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, State
from .fitted import ANOTHER, Found

__all__ = ["detect", "from_descriptor"]


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  its shapes tell it
    """Build the network that spandrel sees in a state dict; None if it sees none.

    Args:
        state: Keys without a wrapper's prefix.
        scale: What the user named, which `load` holds the network's against.

    Raises:
        CheckpointError: If spandrel can't build what it sees, or it is no image-to-image network.
        ImportError: If spandrel is not installed.
    """
    try:
        import spandrel
    except ImportError as error:
        raise ImportError(
            "spandrel knows 42 more architectures: pip install spandrel torchvision"
        ) from error

    for support in spandrel.MAIN_REGISTRY.architectures("detection"):
        if support.detect(state):
            return _build(support.architecture, state)
    return None


def from_descriptor(descriptor: Any) -> Found:
    """Take the network out of a spandrel descriptor, as it is, with the sides that the descriptor
    says it wants.

    Args:
        descriptor: spandrel's ImageModelDescriptor; any other is refused.

    Raises:
        CheckpointError: If it is no image-to-image network, or makes more or fewer channels than it
            takes.
    """
    from spandrel import ImageModelDescriptor

    name = descriptor.architecture.name
    if not isinstance(descriptor, ImageModelDescriptor):
        raise CheckpointError(
            f"it is {name}, an inpainting network, which wants a mask beside the image"
        )
    if descriptor.input_channels != descriptor.output_channels:
        channels = f"{descriptor.input_channels} channels to {descriptor.output_channels}"
        raise CheckpointError(
            f"it is {name} from {channels}; only networks with as many out as in are supported"
        )
    tags = f" ({', '.join(descriptor.tags)})" if descriptor.tags else ""
    size = descriptor.size_requirements
    # The default way to call is a lambda in spandrel's descriptor module, which can't be pickled;
    # it is network(x).
    call = descriptor._call_fn
    return Found(
        descriptor.model,
        f"{name}{tags}",
        descriptor.scale,
        descriptor.input_channels,
        minimum_size=max(size.minimum, 1),
        multiple_of=size.multiple_of,
        square=size.square,
        overwrites=True,  # its RCAN scales the image in place
        call=None if call.__module__ == ImageModelDescriptor.__module__ else call,
    )


def _build(architecture: Any, state: State) -> Found:
    try:
        with warnings.catch_warnings():
            # About the code of the architectures, which is nothing that a user could mend.
            warnings.simplefilter("ignore")
            descriptor = architecture.load(dict(state))
    except Exception as error:  # whatever the reading of hyper-parameters off odd shapes raises
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"its keys are of {architecture.name}, but it can't be built: {reason}; if it is "
            f"another, pass {ANOTHER}"
        ) from error
    found = from_descriptor(descriptor)
    _make_differentiable(found.network)
    return found


def _make_differentiable(network: nn.Module) -> None:
    """Replace PLKSR's layers that write into their input in eval mode, which autograd refuses, by
    equal ones that don't.
    """
    for parent in list(network.modules()):
        child: Any
        for name, child in parent.named_children():
            if type(child).__name__ == "PLKConv2d" and not getattr(child, "with_idt", False):
                setattr(parent, name, PartialConvolution(child.conv, child.idx))


class PartialConvolution(nn.Module):
    """Convolve the first channels, pass the others on."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,F,h,w) to the same shape."""
        return torch.cat([self.conv(x[:, : self.channels]), x[:, self.channels :]], dim=1)
