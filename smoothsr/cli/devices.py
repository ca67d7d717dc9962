"""Where networks run, in which precision, and whether twice alike."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from smoothsr.cli.errors import UserError, message

__all__ = ["autocast", "find_device", "reproducible"]


def find_device(name: str) -> torch.device:
    """Return the device that --device names; "auto" is an accelerator where there is one."""
    if name == "auto":
        accelerator = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        name = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(name)
        # torchrun's: a device for each process.
        if device.type != "cpu" and device.index is None and "LOCAL_RANK" in os.environ:
            device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=device).item()  # "meta" makes tensors, but computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = message(error).split(". ")[0]  # some go on to list all devices there are
        raise UserError(f"device {name!r} can't be used: {reason}") from error
    return device


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Run in "float32", "bfloat16" or "float16"."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


@contextmanager
def reproducible() -> Iterator[None]:
    """Let results depend on seeds alone, as far as the device can; what can't warns."""
    before, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    # Without it, CUDA's matrix products are not.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
