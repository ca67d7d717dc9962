"""Copies of a network that threads may run at the same time, each by itself.

A copy that leans on its original, or on something that all copies share, makes draws that depend on
each other or on no noise at all, and a certificate that is false. So what may lean is not copied,
and each copy is tried.
"""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

import torch
from torch import Tensor, nn

from smoothsr.engine.independence import agree

__all__ = ["independent_copies"]

M = TypeVar("M", bound=nn.Module)


def independent_copies(
    network: M,
    run: Callable[[M, Tensor], Tensor],
    count: int,
    patch: Tensor,
    precision: torch.dtype,
) -> list[M]:
    """Copy a network with its weights, unless it leans on something.

    Hooks, and functions among a module's attributes, may close over anything, and a mode of torch
    may hold for the calling thread alone: then there are no copies. Nor are there where copying
    fails, where a copy shares modules or tensors with the network or another copy, or where it
    gives something else for an image that the network has not seen last. What classes or modules
    of Python hold is not seen.

    Args:
        network: In eval mode.
        run: Runs it, or a copy, on patches.
        count: How many copies are wanted.
        patch: One patch (1,C,h,w) in [0, 1], to try them on.
        precision: Of the network's arithmetic.

    Returns:
        As many, or none.
    """
    if count < 1 or any(map(_leans, network.modules())) or torch._C._len_torch_function_stack():
        return []
    other = 1 - patch
    expected = run(network, other.clone())
    run(network, patch.clone())
    copies, parts = list[M](), _parts(network)
    for _ in range(count):
        try:
            each = copy.deepcopy(network)
            found = run(each, other.clone())
        except Exception:  # of any kind: a network is anybody's code
            return []
        if parts & _parts(each) or not agree(found, expected, precision):
            return []
        copies.append(each)
        parts |= _parts(each)
    return copies


def _leans(module: nn.Module) -> bool:
    """Whether a module runs code that may know it, or another one, by a name of its own."""
    functions = (each for each in vars(module).values() if isinstance(each, FunctionType))
    hooks = (module._forward_pre_hooks, module._forward_hooks)
    return any(hooks) or any(each.__closure__ for each in functions)


def _parts(network: nn.Module) -> set[int]:
    """What tells modules and tensors of a network from those of another."""
    tensors = [each for each in (*network.parameters(), *network.buffers()) if each.numel()]
    storages = {each.untyped_storage().data_ptr() for each in tensors}
    return {id(module) for module in network.modules()} | storages
