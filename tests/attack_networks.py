"""What the tests of the attacks attack: a network with a known worst case, one with none, and the
images.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "KERNELS",
    "SIDE",
    "Curved",
    "LinearSR",
    "blind_to_shifts",
    "changes",
    "images",
    "one_value",
    "size",
]

KERNELS = {
    "blur": [1.0, 2, 3, 2, 1],
    "sharp": [-1.0, -2, 9, -2, -1],
    "uneven": [0.1, 2, -3, 0.5, 1],
}
SIDE = 10


class LinearSR(nn.Module):
    """Nearest-neighbour upscaling by 2 and a fixed separable 5x5 convolution, zero-padded."""

    def __init__(self, name: str = "uneven") -> None:
        super().__init__()
        line = torch.tensor(KERNELS[name])
        self.kernel = nn.Parameter(
            torch.outer(line, line.flip(0) if name == "uneven" else line)[None, None] / 9
        )

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return F.conv2d(
            F.interpolate(lr, scale_factor=2.0, mode="nearest"), self.kernel.to(lr.dtype), padding=2
        )

    def matrix(self) -> np.ndarray:
        """Return the map from SIDE*SIDE input values to 4*SIDE*SIDE output values."""
        with torch.no_grad():
            return self(torch.eye(SIDE**2).view(-1, 1, SIDE, SIDE)).flatten(1).T.double().numpy()


class Curved(nn.Module):
    """A small network that is nowhere linear."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.7 * torch.randn(6, 2, 3, 3, generator=generator))
        self.last = nn.Parameter(0.7 * torch.randn(8, 6, 3, 3, generator=generator))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        hidden = torch.sin(3 * F.conv2d(lr, self.weight.to(lr.dtype), padding=1))
        return F.pixel_shuffle(F.conv2d(hidden, self.last.to(lr.dtype), padding=1), 2)


def blind_to_shifts(lr: torch.Tensor) -> torch.Tensor:
    """What a curved network makes of an image less its mean: it does not see uniform shifts."""
    return Curved()(lr - lr.mean((2, 3), keepdim=True))


def images(batch=2, channels=1, low=0.3, high=0.7, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return (
        (low + (high - low) * torch.rand(batch, channels, SIDE, SIDE, generator=generator))
        .clamp(0, 1)
        .to(dtype)
    )


def changes(attacked: torch.Tensor, lr: torch.Tensor) -> np.ndarray:
    return (attacked.double() - lr.double()).flatten(1).numpy()


def size(attacked: torch.Tensor, lr: torch.Tensor, norm: str) -> np.ndarray:
    return np.linalg.norm(changes(attacked, lr), ord=2 if norm == "l2" else np.inf, axis=1)


def one_value(output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """By how much one value in the middle exceeds the reference."""
    return (output - reference)[:, 0, SIDE, SIDE]
