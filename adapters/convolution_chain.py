"""Networks that are one chain of convolutions with ReLUs between them, as many denoisers are."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from .checkpoint import State
from .fitted import Found, fill

__all__ = ["Chain", "recognize_chain"]


class Chain(nn.Module):
    """Convolutions of 3x3 and ReLUs, `model`; what forward makes of them is up to each network.

    Args:
        channels: Of the image, 3 for RGB.
        features: Channels of every hidden layer.
        convolutions: How many there are, the first and the last included.
        batch_norm: Whether one follows each hidden convolution.
    """

    fold = 1
    """How many pixels of the image become channels of one pixel."""
    maps = 0
    """Channels of the noise's strength beside the image's."""

    def __init__(
        self, channels: int, features: int, convolutions: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        outer = self.fold * channels
        layers: list[nn.Module] = [nn.Conv2d(outer + self.maps, features, 3, padding=1)]
        for _ in range(convolutions - 2):
            layers += [nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)]
            layers += [nn.BatchNorm2d(features)] if batch_norm else []
        layers += [nn.ReLU(), nn.Conv2d(features, outer, 3, padding=1)]
        self.model = nn.Sequential(*layers)


def recognize_chain(state: State, networks: Sequence[type[Chain]]) -> Found | None:
    """Build the one of some networks whose channels a state dict has; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        networks: Of one fold, and of different numbers of maps.

    Raises:
        CheckpointError: If its shapes don't fit together.
    """
    layers = _convolutions(state)
    if len(layers) < 2:
        return None
    fold = networks[0].fold
    features, channels_in = layers[0].shape[:2]
    channels = len(layers[-1]) // fold
    network = {fold * channels + each.maps: each for each in networks}.get(channels_in)
    if network is None or not channels:
        return None
    name = f"{network.__name__} ({features} features, {len(layers)} convolutions)"
    batch_norm = any(key.endswith(".running_mean") for key in state)
    built = network(channels, features, len(layers), batch_norm)
    return Found(fill(built, [state], name), name, scale=1, channels=channels)


def _convolutions(state: State) -> list[Tensor]:
    """List the weights of the convolutions of `model` in their order; none if the state dict has
    anything else.
    """
    found = {key: re.fullmatch(r"model\.(\d+)\.\w+", key) for key in state}
    places = {int(match[1]): key for key, match in found.items() if match and state[key].ndim == 4}
    return [state[places[place]] for place in sorted(places)] if all(found.values()) else []
