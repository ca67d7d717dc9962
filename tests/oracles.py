"""Three networks of which the smoothed output, and the worst that an attack can do to it, are known
exactly.

Each is a monotone function of a linear map: f(x)_i = link((J x + c)_i). With Gaussian noise, (J (x
+ G) + c)_i is normal around mean_i with standard deviation sigma ||J_i||; so the Phi(z) quantile of
f(x + G)_i is link(mean_i + z sigma ||J_i||), and an attack delta moves mean_i by J_i delta, which
is at most ||J_i|| ||delta||.
"""

import copy
import math
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from scipy.special import bdtrc
from torch import Tensor, nn

from smoothsr.certificates.certificate import Certificate
from smoothsr.engine import draws
from smoothsr.engine.batching import Batching
from smoothsr.engine.noise import Noise
from smoothsr.engine.tiles import grid

__all__ = ["LinearSR", "Same", "Step", "Truth", "allowed", "gentle", "leaves", "truth"]

# How far beyond a radius the truth is taken, so that outputs on the very edge of an 8-bit step
# count
NUDGE = 1e-7


class LinearSR(nn.Module):
    """A 3x3 convolution with weights of both signs, wrapped around the border, and pixels repeated
    to the scale.

    Every output value is .5 plus an inner product of norm `gain` with x - .5: an attack of l2 norm
    r moves it by gain * r at most. On images that stay in .4 to .6, outputs stay inside (0, 1) with
    noise up to .1.

    Example:
        >>> net = LinearSR(channels=3)
        >>> round(net.convolution.weight[1].norm().item(), 6)
        0.5
        >>> round(net(torch.full((1, 3, 4, 4), 0.5)).max().item(), 6)
        0.5
    """

    def __init__(self, channels: int = 1, scale: int = 2, gain: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
        weight = torch.arange(9.0 * channels**2).view(channels, channels, 3, 3)
        weight = torch.cos(2 * weight + 1)  # positive and negative, no two alike
        weight *= gain / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        self.convolution.weight = nn.Parameter(weight)
        self.convolution.bias = nn.Parameter(0.5 - 0.5 * weight.sum(dim=(1, 2, 3)))
        self.eval()

    def linear(self, x: Tensor) -> Tensor:
        return _repeat(self.convolution(x), self.scale)

    def link(self, value: Tensor) -> Tensor:
        return value

    def forward(self, x: Tensor) -> Tensor:
        return self.link(self.linear(x))


class Same(nn.Module):
    """The identity, pixels repeated to the scale: at scale 1 all output values are independent."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.eval()

    def linear(self, x: Tensor) -> Tensor:
        return _repeat(x, self.scale)

    def link(self, value: Tensor) -> Tensor:
        return value

    def forward(self, x: Tensor) -> Tensor:
        return self.link(self.linear(x))


class Step(nn.Module):
    """1 on the whole patch where the patch's mean exceeds .5, else 0: one small uniform change
    flips every tile.
    """

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.eval()

    def linear(self, x: Tensor) -> Tensor:
        return _repeat(x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x), self.scale)

    def link(self, value: Tensor) -> Tensor:
        return (value > 0.5).to(value.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.link(self.linear(x))


class Oracle(Protocol):
    """A linear map, and what is made of each of its values."""

    def linear(self, x: Tensor) -> Tensor: ...

    def link(self, value: Tensor) -> Tensor: ...


class Truth(NamedTuple):
    """What an oracle does to images of one shape: exact, whatever the noise."""

    net: Oracle
    jacobian: Tensor  # float64 (C*H*W, c*h*w) of the linear map
    constant: Tensor  # float64 (1,C,H,W)

    @property
    def norm(self) -> Tensor:
        """How far an attack of norm 1 can move each value of the linear map: (1,C,H,W)."""
        return self.jacobian.norm(dim=1).view_as(self.constant)

    def output(self, lr: Tensor, shift: float | Tensor = 0.0) -> Tensor:
        """Compute the 8-bit steps (1,C,H,W) of the smoothed output.

        Args:
            lr: (1,c,h,w), attacked or not.
            shift: sigma * z for the Phi(z) quantile; or an attack's norm, each value under the
                attack that is worst for it.
        """
        mean = (self.jacobian @ lr.double().flatten()).view_as(self.constant) + self.constant
        return (self.net.link(mean + shift * self.norm).clamp(0, 1) * 255).round()


@torch.no_grad()
def truth(
    net: nn.Module, shape: tuple[int, int, int, int], tile: int | None = None, halo: int = 0
) -> Truth:
    """Find an oracle's truth for images (1,c,h,w): its linear map at each unit vector, run without
    noise on the same tiles.
    """
    exact = cast(Oracle, copy.deepcopy(net).double())
    tiles, batching = grid(shape[2], shape[3], tile, halo), Batching(1, False)

    def linear_part(patches: Tensor, _: Tensor) -> Tensor:
        return exact.linear(patches)

    def linear(x: Tensor) -> Tensor:
        sampler = draws.Sampler(
            lambda patches, _: exact.linear(patches), x.view(shape), tiles, Noise(0.0, 0), batching
        )
        return draws.smooth(sampler, 1, None)

    units = torch.eye(math.prod(shape), dtype=torch.float64)
    constant = linear(torch.zeros_like(units[0]))
    return Truth(
        exact, torch.stack([(linear(unit) - constant).flatten() for unit in units], dim=1), constant
    )


def leaves(certificate: Certificate, exact: Truth, lr: Tensor, radii: np.ndarray) -> bool:
    """Whether an attack of one of the radii moves some value of the ideal median out of its
    bounds.
    """
    for radius in radii:
        lower, upper = (bound * 255 for bound in certificate.bounds(float(radius), "ideal"))
        low, high = exact.output(lr, -radius - NUDGE), exact.output(lr, radius + NUDGE)
        if ((low < lower - 0.01) | (high > upper + 0.01)).any():
            return True
    return False


def gentle(seed: int, channels: int = 1, side: int = 4) -> Tensor:
    """An image (1,C,side,side) with values in .4 to .6."""
    return 0.4 + 0.2 * torch.rand(
        1, channels, side, side, generator=torch.Generator().manual_seed(seed)
    )


def allowed(trials: int, probability: float, significance: float = 1e-3) -> int:
    """The largest count of events of at most this probability each that is no evidence against it,
    in a one-sided test at a level of significance.

    Example:
        >>> allowed(200, 0.05)
        21
    """
    return next(
        count for count in range(trials + 1) if bdtrc(count, trials, probability) <= significance
    )


def _repeat(x: Tensor, scale: int) -> Tensor:
    return x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
