"""Networks that torch compiles when they are first run."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["is_compiled", "uncompiled"]


def is_compiled(network: nn.Module) -> bool:
    """Whether a network, or a part of it, was compiled, by `network.compile()` or by
    `torch.compile(network)`.
    """
    ways = ("_compiled_call_impl", "_orig_mod")
    return any(getattr(part, way, None) for part in network.modules() for way in ways)


def uncompiled(network: nn.Module) -> AbstractContextManager[Any]:
    """Run a network that may be compiled as it was before, on shapes that come once only."""
    return torch.compiler.set_stance("force_eager") if is_compiled(network) else nullcontext()
