"""Small networks whose gradients are checked."""

import torch
from torch import nn


def smooth_network(scale: int = 2, seed: int = 0) -> nn.Module:
    """A network of two convolutions with a smooth activation, in float64, so that finite
    differences are exact to many digits.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(3, scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        ).double()


def pair(batch: int = 2, side: int = 4, scale: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A random LR and HR of it in float64."""
    generator = torch.Generator().manual_seed(1)
    lr, hr = (
        torch.rand(batch, 1, length, length, generator=generator, dtype=torch.float64)
        for length in (side, side * scale)
    )
    return lr, hr
