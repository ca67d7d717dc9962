"""DnCNN, a chain of convolutions that finds the noise in an image, and FDnCNN, which is told how
strong the noise is and makes the clean image.

The parameter names are those of their authors' code (KAIR), whose files this module reads, with or
without batch norm.

Reference: K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual
Learning of Deep CNN for Image Denoising", 2016 (arXiv 1608.03981).
"""

import re

import torch
from torch import Tensor, nn

from .checkpoint import State
from .fitted import Found, fill

__all__ = ["DnCNN", "FDnCNN", "convolutions", "detect"]


class DnCNN(nn.Module):
    """Remove noise, whose strength the network was trained for.

    Args:
        channels: Of the image, 3 for RGB.
        features: Channels of every hidden layer.
        convolutions: How many there are, the first and the last included.
        batch_norm: Whether one follows each hidden convolution.
    """

    maps = 0
    """Channels of the noise's strength beside the image's."""

    def __init__(
        self, channels: int, features: int, convolutions: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels + self.maps, features, 3, padding=1)]
        for _ in range(convolutions - 2):
            layers += [nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)]
            layers += [nn.BatchNorm2d(features)] if batch_norm else []
        layers += [nn.ReLU(), nn.Conv2d(features, channels, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, noisy: Tensor) -> Tensor:
        """Map (B,C,h,w) in [0, 1] but for the noise to the same shape without."""
        return noisy - self.model(noisy)


class FDnCNN(DnCNN):
    """Remove noise of a known strength."""

    maps = 1

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        """Denoise (B,C,h,w), given the noise's standard deviation (B,1,h,w)."""
        return self.model(torch.cat([noisy, sigma], dim=1))


def convolutions(state: State) -> list[Tensor]:
    """List the weights of the convolutions of a network that is one chain of layers, `model`, in
    their order; none if it is another.
    """
    found = {key: re.fullmatch(r"model\.(\d+)\.\w+", key) for key in state}
    places = {int(match[1]): key for key, match in found.items() if match and state[key].ndim == 4}
    return [state[places[place]] for place in sorted(places)] if all(found.values()) else []


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  it is 1
    """Build the network of a DnCNN's or FDnCNN's state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: Of no use.

    Raises:
        CheckpointError: If its shapes don't fit together.
    """
    layers = convolutions(state)
    if len(layers) < 2:
        return None
    features, channels_in = layers[0].shape[:2]
    channels = len(layers[-1])
    network = {channels + each.maps: each for each in (DnCNN, FDnCNN)}.get(channels_in)
    if network is None:
        return None
    name = f"{network.__name__} ({features} features, {len(layers)} convolutions)"
    batch_norm = any(key.endswith(".running_mean") for key in state)
    built = network(channels, features, len(layers), batch_norm)
    return Found(fill(built, [state], name), name, scale=1, channels=channels)
