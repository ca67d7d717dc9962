"""Sound arithmetic: noise on a lattice, so that a guarantee in real numbers holds for floats too.

A sum x + G that is rounded to floating point has low bits that tell something about x, which no
Gaussian would: a network could read them, and its certificate would be wrong. Here x is a whole
number of 8-bit steps, the noise is rounded to a whole number of fine steps, and their sum is exact.
Rounding to the lattice commutes with adding one of its points, so that the sum *is* the real x + G,
rounded to the lattice. It is then the network's first layer that rounds, and every theorem about
functions of x + G holds, for any two inputs on the 8-bit lattice.

What is left is the law of the noise itself: made in float64, its probability of a lattice point is
off by less than 1e-9 of it.
"""

import torch
from torch import Tensor

__all__ = ["FINE", "UNIT", "noisy", "on_lattice", "snapped"]

FINE = 256  # fine steps in an 8-bit one: noise is rounded by no more than 1/512 of a step
UNIT = 255 * FINE  # fine steps in 1
NEAR = 0.1  # in 8-bit steps: half precision has such errors


def snapped(lr: Tensor) -> Tensor:
    """Round an input to whole 8-bit steps, as a file would; gradients pass as if it did not.

    Args:
        lr: Any shape, in [0, 1] units; not clamped.

    Example:
        >>> (snapped(torch.tensor([0.1, 0.5])) * 255).tolist()
        [26.0, 128.0]
    """
    return _through(_steps(lr).to(lr.dtype) / 255, lr)


def on_lattice(lr: Tensor) -> bool:
    """Whether all values of an input are whole numbers of 8-bit steps, but for rounding errors.

    Example:
        >>> on_lattice(torch.arange(256) / 255), on_lattice(torch.tensor([0.1]))
        (True, False)
    """
    return bool((255 * lr.detach().float() - _steps(lr)).abs().max() < NEAR)


def noisy(patch: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Add noise on the lattice.

    Args:
        patch: (C,h,w) or (1,C,h,w), floating; its values are rounded to whole 8-bit steps.
        noise: (b,C,h,w), standard normal, float64.
        sigma: Standard deviation, a number or (h,w).

    Returns:
        (b,C,h,w), multiples of 1/65280 in the dtype of patch; gradients reach patch.

    Raises:
        ValueError: If noise is not float64.

    Example:
        >>> noise = torch.tensor([[[[0.3]]]], dtype=torch.float64)
        >>> (noisy(torch.full((1, 1, 1, 1), 0.2), noise, 0.1) * 65280).item()
        15014.0
    """
    if noise.dtype != torch.float64:
        raise ValueError(f"noise on the lattice is made in float64, got {noise.dtype}")
    steps = FINE * _steps(patch).double() + (UNIT * sigma * noise).round()
    return _through((steps / UNIT).to(patch.dtype), patch)


def _through(value: Tensor, source: Tensor) -> Tensor:
    """Value to the last bit, with the gradient of source: the sum with 0 is exact."""
    return value + (source - source.detach())


def _steps(lr: Tensor) -> Tensor:
    """The nearest whole numbers of 8-bit steps."""
    return (255 * lr.detach().float()).round()
