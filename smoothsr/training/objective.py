"""What a training step descends: an objective of a network and a batch, and what fixes its noise.

An objective is any function of (model, lr, hr, at) that returns one number. It takes the place of
`criterion(model(lr), hr)` in a training loop, since smoothing, attacks and penalties have to run
the network themselves. All here run it once on one batch where they can, so that DataParallel and
DistributedDataParallel see one forward pass for each backward pass.
"""

import secrets
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["BaseLoss", "Objective", "StepSeed", "gaussian", "inner"]

BaseLoss = Callable[[Tensor, Tensor], Tensor]
"""(sr, hr), each (B,C,H,W) -> one number, the mean over images: `torch.nn.L1Loss()`."""


class StepSeed(NamedTuple):
    """What fixes the noise of one training step.

    Args:
        seed: Of the step, the same in all processes that share a batch.
        first: The number, in that batch, of the first image that this process has.
    """

    seed: int
    first: int = 0


class Objective(Protocol):
    """Maps a network, lr (B,C,h,w) in [0, 1] and hr (B,C,s*h,s*w) to one number, differentiable in
    the network's weights. `at` fixes the noise; None takes a fresh one.
    """

    def __call__(
        self, model: nn.Module, lr: Tensor, hr: Tensor, at: StepSeed | None = None, /
    ) -> Tensor: ...


def gaussian(lr: Tensor, draws: int, at: StepSeed | None) -> Tensor:
    """Draw standard normal noise for each image, (draws,B,C,h,w).

    An image's noise depends on the step's seed and the image's number alone: processes that share a
    batch draw what one process would. The global random state is neither read nor changed.

    Args:
        lr: (B,C,h,w), whose dtype and device the noise has.
        draws: For each image.
        at: Fixes it; None takes a fresh seed from the operating system.

    Example:
        >>> two = gaussian(torch.zeros(2, 1, 4, 4), 3, StepSeed(5))
        >>> second = gaussian(torch.zeros(1, 1, 4, 4), 3, StepSeed(5, first=1))
        >>> torch.equal(two[:, 1:], second)
        True
    """
    seed, first = StepSeed(secrets.randbits(32)) if at is None else at
    each = []
    for number in range(first, first + len(lr)):
        generator = torch.Generator(lr.device).manual_seed(_mixed(seed, number))
        shape = (draws, *lr.shape[1:])
        each.append(torch.randn(shape, generator=generator, dtype=lr.dtype, device=lr.device))
    return torch.stack(each, 1)


def _mixed(seed: int, number: int) -> int:
    """Mix a seed and a number to 63 bits, so that neighbours have nothing in common (the finalizer
    of SplitMix64: G. Steele et al., OOPSLA 2014).
    """
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 1) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


def inner(model: nn.Module) -> nn.Module:
    """Return the network inside DataParallel or DistributedDataParallel: what an attack of a
    training step runs, since gradients of the input are no business of theirs.
    """
    return model.module if isinstance(model, DataParallel | DistributedDataParallel) else model
