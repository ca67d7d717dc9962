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

__all__ = [
    "ANOTHER",
    "Fitted",
    "Found",
    "extend",
    "fill",
    "fit",
    "padded",
    "padded_side",
    "padding_advice",
    "padding_share",
]

# What to pass for a network that isn't known by its keys, in errors.
ANOTHER = (
    "arch='basicsr:NAME{...}', or your own class, as in arch='net.py:RFDN{nf=50, upscale=4}' "
    "(--arch on the command line)"
)


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
            f"it is no {name}: {'; '.join(problems)}; if it is another, pass {ANOTHER}"
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
        height, width = (padded_side(side, self.multiple_of, self.minimum_size) for side in (h, w))
        if self.square:
            height = width = max(height, width)
        x = extend(extend(lr, -2, height), -1, width)
        if self.value_range != 1:
            x = x * self.value_range
        if self.overwrites and x is lr:
            x = lr.clone()
        sr = torch.cat([self._run(each) for each in x.split(1)]) if self.singly else self._run(x)
        sr = sr[..., : h * self.scale, : w * self.scale]
        return sr if self.value_range == 1 else sr / self.value_range

    def _run(self, x: Tensor) -> Tensor:
        return self.call(self.network, x) if self.call else self.network(x)

    def extra_repr(self) -> str:
        """Name what the network asks for."""
        return (
            f"minimum_size={self.minimum_size}, multiple_of={self.multiple_of}, "
            f"value_range={self.value_range:g}"
        )


def extend(x: Tensor, axis: int, size: int) -> Tensor:
    """Continue an axis beyond its end by reflection until it has a size, as often as needed.

    torch's own padding stops at one reflection, and its gradient is not deterministic on CUDA.

    Args:
        x: Any shape.
        axis: Which one; a single value is repeated.
        size: Its new length; a shorter one leaves x as it is.

    Example:
        >>> extend(torch.arange(3), 0, 8).tolist()
        [0, 1, 2, 1, 0, 1, 2, 1]
    """
    while (missing := size - x.shape[axis]) > 0:
        border = min(1, x.shape[axis] - 1)  # the last value is not repeated, unless it is alone
        mirrored = x.flip(axis).narrow(axis, border, min(missing, x.shape[axis] - border))
        x = torch.cat([x, mirrored], axis)
    return x


def padded(x: Tensor, multiple_of: int) -> Tensor:
    """Continue images (B,C,h,w) by reflection, at their right and lower side, until both sides are
    multiples of a number.
    """
    height, width = (padded_side(side, multiple_of, 1) for side in x.shape[-2:])
    return extend(extend(x, -2, height), -1, width)


def padded_side(side: int, multiple_of: int, minimum_size: int) -> int:
    """Round a side in pixels up to what the network takes.

    Example:
        >>> padded_side(12, 16, 1)
        16
    """
    return -(-max(side, minimum_size) // multiple_of) * multiple_of


def padding_share(side: int, multiple_of: int, minimum_size: int) -> float:
    """Say which share of the pixels of a padded square patch is padding, 0 to 1.

    Example:
        >>> padding_share(12, 16, 1)
        0.4375
    """
    return 1 - (side / padded_side(side, multiple_of, minimum_size)) ** 2


def padding_advice(multiple_of: int, minimum_size: int, tile: int | None, halo: int) -> str | None:
    """Name a tile that needs no padding, in one sentence; None where the given one needs none.

    The network computes as much for the tile that is named as for the padded one, of which fewer
    cover the image.

    Args:
        multiple_of: Of `LoadedSR`.
        minimum_size: Of `LoadedSR`.
        tile: Side of the tiles in LR pixels; None (or 0): the whole image.
        halo: LR pixels that a patch reads beyond its tile on every side.

    Example:
        >>> print(padding_advice(16, 1, 8, 2))
        tile 8 and halo 2 make patches of 12 pixels, which this network pads to 16: 44% of its \
work is padding, and it computes 4.0 pixels for each of the image; tile 12 and halo 2 need no \
padding (1.8 pixels)
    """
    side = (tile or 0) + 2 * halo
    padded = padded_side(side, multiple_of, minimum_size)
    if not tile or padded == side:
        return None
    better = padded - 2 * halo
    share = padding_share(side, multiple_of, minimum_size)
    return (
        f"tile {tile} and halo {halo} make patches of {side} pixels, which this network pads to "
        f"{padded}: {share:.0%} of its work is padding, and it computes {(padded / tile) ** 2:.1f} "
        f"pixels for each of the image; tile {better} and halo {halo} need no padding "
        f"({(padded / better) ** 2:.1f} pixels)"
    )
