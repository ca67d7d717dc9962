"""What an attacker may change: budgets in two norms, and changes that keep to them.

A change is a tensor (B,C,h,w) that is added to lr; a limit is (B,1,1,1), the largest norm that the
change of each image may have.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

__all__ = [
    "Norm",
    "PerImage",
    "clip",
    "l2_budget",
    "length",
    "limit",
    "normalize",
    "per_image",
    "project",
    "random_changes",
    "to_border",
    "uniform_changes",
]

Norm = Literal["l2", "linf"]
PerImage = float | Tensor  # one number for all images, or (B,)


def l2_budget(rms: float, lr: Tensor) -> float:
    """Compute the l2 budget that allows an image of lr's size a root mean square change of rms:
    sqrt(C*h*w) * rms.
    """
    return rms * math.sqrt(lr[0].numel())


def limit(lr: Tensor, eps: PerImage, norm: Norm) -> Tensor:
    """Compute the limit of a budget: eps, less all that rounding lr + change to lr's dtype can add.

    Raises:
        ValueError: If lr is not (B,C,h,w) in [0, 1], norm is unknown, or eps is not greater than
            what rounding can change.
    """
    if lr.ndim != 4 or not lr.is_floating_point() or not (lr.min() >= 0 and lr.max() <= 1):
        raise ValueError(
            f"lr must be (B,C,h,w), floating-point and in [0, 1], got {(*lr.shape,)} of {lr.dtype}"
        )
    if norm not in ("l2", "linf"):
        raise ValueError(f'norm must be "l2" or "linf", got {norm!r}')
    unit = torch.finfo(lr.dtype).eps  # a number up to 1 is rounded by unit / 4 at most
    rounding = unit / 4 * (l2_budget(1, lr) if norm == "l2" else 1)
    found = per_image("eps", eps, lr) * (1 - 4 * unit) - rounding
    if (found <= 0).any():
        raise ValueError(
            f"eps must be greater than what rounding to {lr.dtype} can change, got {eps}"
        )
    return found


def per_image(name: str, number: PerImage, lr: Tensor) -> Tensor:
    """Return one number, or one for each image, as (B,1,1,1).

    Raises:
        ValueError: If there is another count of numbers, or one is not greater than 0 and finite.
    """
    numbers = torch.as_tensor(number, dtype=lr.dtype, device=lr.device)
    if numbers.shape not in ((), lr.shape[:1]) or not ((numbers > 0) & numbers.isfinite()).all():
        raise ValueError(
            f"{name} must be greater than 0 and finite, a number or one for each of "
            f"{len(lr)} images, got {number}"
        )
    return numbers.expand(len(lr)).view(-1, 1, 1, 1)


def length(change: Tensor) -> Tensor:
    """Return the l2 norm of each image, (B,1,1,1), summed in float64 where there is such: in
    float32 sums of millions drift.
    """
    exact = torch.float32 if change.device.type == "mps" else torch.float64
    return vector_norm(change, dim=(1, 2, 3), keepdim=True, dtype=exact).to(change.dtype)


def normalize(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the steepest direction of length 1 in norm."""
    if norm == "linf":
        return gradient.sign()
    return gradient / length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def project(change: Tensor, limit: Tensor, norm: Norm) -> Tensor:
    """Return the nearest change within the limit."""
    if norm == "linf":
        return change.clamp(-limit, limit)
    return change * (limit / length(change).clamp_min(limit))


def clip(lr: Tensor, change: Tensor) -> Tensor:
    """Return the nearest change that keeps lr + change in [0, 1]; no value's change grows, so it
    stays within the budget.
    """
    return change.clamp(-lr, 1 - lr)


def to_border(lr: Tensor, direction: Tensor, limit: Tensor, norm: Norm) -> Tensor:
    """Return the change of the largest allowed size in a direction, cut to [0, 1]."""
    return clip(lr, project(limit * normalize(direction, norm), limit, norm))


def random_changes(lr: Tensor, limit: Tensor, norm: Norm, count: int, seed: int) -> list[Tensor]:
    """Return changes to random points of the budget's border; the same for all images.

    Raises:
        ValueError: If count is not at least 1.
    """
    if count < 1:
        raise ValueError(f"restarts must be at least 1, got {count}")
    generator = torch.Generator(lr.device).manual_seed(seed)

    def noise() -> Tensor:
        shape = lr[:1].shape
        return torch.randn(shape, generator=generator, dtype=lr.dtype, device=lr.device)

    return [to_border(lr, noise(), limit, norm) for _ in range(count)]


def uniform_changes(lr: Tensor, limit: Tensor, norm: Norm) -> list[Tensor]:
    """Return the two changes of all values alike, up and down: by eps, or in l2 by eps/sqrt(C*h*w).

    A smoothed network averages small changes of either sign away, but passes these on in full.
    """
    up = torch.ones_like(lr)
    return [to_border(lr, direction, limit, norm) for direction in (up, -up)]
