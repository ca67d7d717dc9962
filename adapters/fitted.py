"""What a network asks of its input, and the thin module that sees to it.

Many networks want sides that are multiples of a window, or of a least size, or values in [0, 255].
`Fitted` does that inside, so that to its user every network maps (B,C,h,w) in [0, 1] to
(B,C,s*h,s*w), while its state_dict stays the bare network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, State
from .transparent import Transparent

__all__ = ["Fitted", "Found", "fill", "fit"]


@dataclass
class Found:
    """A network with its weights, and what it asks of its input.

    Args:
        network: Any module that maps an image batch to one.
        name: The architecture, with the hyper-parameters that tell it from its sisters.
        scale: Output side over input side.
        channels: Of input and output.
        value_range: What white is to the network: 1 or 255.
        minimum_size: Least height and width, in pixels.
        multiple_of: Height and width must be multiples of this.
        square: Height and width must be equal.
        overwrites: The network may write into its input.
        singly: The network is right for one image at a time only.
        call: How to call the network, where that is not network(x); a local function can't be
            pickled, nor then can the model.
    """

    network: nn.Module
    name: str
    scale: int
    channels: int
    value_range: float = 1.0
    minimum_size: int = 1
    multiple_of: int = 1
    square: bool = False
    overwrites: bool = False
    singly: bool = False
    call: Callable[[nn.Module, Tensor], Tensor] | None = None


def fit(found: Found) -> nn.Module:
    """Return the network as it is if it takes any image, else a `Fitted` around it; in eval
    mode.
    """
    asks = (
        found.value_range,
        found.minimum_size,
        found.multiple_of,
        found.square,
        found.overwrites,
        found.singly,
        found.call,
    )
    return (found.network if asks == (1, 1, 1, False, False, False, None) else Fitted(found)).eval()


def fill(network: nn.Module, states: Sequence[State], name: str) -> nn.Module:
    """Load the state dict, of those given, that has most keys in common with the network; all of
    it, exactly.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    state = max(states, key=lambda each: len(each.keys() & wanted.keys()))
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    problems = [
        f"{key} is {(*state[key].shape,)}, not {(*wanted[key].shape,)}" for key in wrong[:1]
    ]
    problems += [
        f"{len(keys)} are {how} ({keys[0]} ...)"
        for keys, how in ((missing, "missing"), (extra, "left over"))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"it is no {name}: {'; '.join(problems)}; pass arch='basicsr:NAME{{...}}' if it "
            "is another"
        )
    network.load_state_dict(state)
    return network


class Fitted(Transparent):
    """Pad, scale and crop around a network, as `Found` says.

    Padding continues the image by reflection at its right and lower side, as often as needed, and
    the output is cropped.
    """

    network: nn.Module

    def __init__(self, found: Found) -> None:
        super().__init__(found.network)
        self.scale = found.scale
        self.value_range = found.value_range
        self.minimum_size = found.minimum_size
        self.multiple_of = found.multiple_of
        self.square = found.square
        self.overwrites = found.overwrites
        self.singly = found.singly
        self.call = found.call

    def forward(self, lr: Tensor) -> Tensor:
        """Map lr (B,C,h,w) in [0, 1] to sr (B,C,s*h,s*w), which may leave [0, 1] a little."""
        h, w = lr.shape[-2:]
        height, width = self._side(h), self._side(w)
        if self.square:
            height = width = max(height, width)
        x = lr
        if height > h:
            x = x.index_select(-2, _reflected(h, height, lr.device))
        if width > w:
            x = x.index_select(-1, _reflected(w, width, lr.device))
        if self.value_range != 1:
            x = x * self.value_range
        if self.overwrites and x is lr:
            x = lr.clone()
        sr = torch.cat([self._run(each) for each in x.split(1)]) if self.singly else self._run(x)
        sr = sr[..., : h * self.scale, : w * self.scale]
        return sr if self.value_range == 1 else sr / self.value_range

    def _run(self, x: Tensor) -> Tensor:
        return self.call(self.network, x) if self.call else self.network(x)

    def _side(self, side: int) -> int:
        return -(-max(side, self.minimum_size) // self.multiple_of) * self.multiple_of

    def extra_repr(self) -> str:
        """Name what the network asks for."""
        return (
            f"minimum_size={self.minimum_size}, multiple_of={self.multiple_of}, "
            f"value_range={self.value_range:g}"
        )


def _reflected(side: int, padded: int, device: torch.device) -> Tensor:
    """Index a side of the image up to its end, back to its start, and so on (torch's own reflection
    stops at one bounce).

    Example:
        >>> _reflected(3, 8, torch.device("cpu")).tolist()
        [0, 1, 2, 1, 0, 1, 2, 1]
    """
    period = max(2 * (side - 1), 1)
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, period - position)
