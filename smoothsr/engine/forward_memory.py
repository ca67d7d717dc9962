"""What one pass of a network holds in memory while it runs without gradients."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smoothsr.engine.tiles import ratio

__all__ = ["CORNER", "Footprint", "footprint"]

CORNER = 48  # pixels a side of what is measured
# What passes hold beyond the inputs and outputs of their modules, such as copies in another layout:
# resident memory grew by 1.1 (CARN), 1.6 (RRDBNet), 1.7 (DITN), 2.1 (SPAN) and 2.3 times (built-in)
# of what is counted here.
WORKSPACE = 2.4


class Footprint(NamedTuple):
    """What a pass takes and gives.

    Attributes:
        pixel_bytes: What one draw's pass holds at its fullest, for each input pixel.
        scale: Side of the output over that of the input.
    """

    pixel_bytes: float
    scale: int


def footprint(network: nn.Module, run: Callable[[Tensor], Tensor], lr: Tensor) -> Footprint:
    """Measure on a corner of lr (1,C,h,w) what one draw's pass takes.

    Args:
        network: Whose modules are watched.
        run: Runs the network.
        lr: What it is to run on.
    """
    corner = lr[..., :CORNER, :CORNER].clone()
    held = _Held()
    hooks = [module.register_forward_hook(held.count) for module in network.modules()]
    try:
        with torch.no_grad():
            output = run(corner)
    finally:
        for hook in hooks:
            hook.remove()
    height, width = corner.shape[2:]
    scale = ratio((height, width), (*output.shape[-2:],))
    return Footprint(WORKSPACE * held.most / (height * width), scale)


class _Held:
    """Counts the bytes of inputs and outputs of modules that are alive at once; `most` is the
    largest count.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def count(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Take note after a module has run, while its input is still there."""
        for tensor in (*inputs, output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata)
        self.most = max(self.most, self.now)

    def _forget(self, address: int) -> None:
        self.now -= self._sizes.pop(address, 0)
