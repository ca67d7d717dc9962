"""Changes as a file of 8 bits holds them: by whole steps, and no larger than they were."""

import torch
from torch import Tensor

from smoothsr.certificates.options import Norm

__all__ = ["whole_steps"]

NEAR = 1e-3  # of a step, by which float32 may miss a whole one


def whole_steps(change: Tensor, norm: Norm) -> Tensor:
    """Round a change to whole 8-bit steps without making it larger.

    Each value is rounded towards zero. What is left of an l2 norm then goes where most was cut off,
    a step each: a small norm spread over all values would leave nothing of an attack, though a few
    whole steps fit into it.

    Args:
        change: Any shape, in [0, 1] units.
        norm: In which it must not grow.

    Returns:
        float64, multiples of 1/255.

    Example:
        >>> change = torch.tensor([0.2, -1.7, 0.9, 0.8]) / 255  # of l2 norm 2.1 steps
        >>> (whole_steps(change, "linf") * 255).tolist(), (whole_steps(change, "l2") * 255).tolist()
        ([0.0, -1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 1.0])
    """
    steps = 255 * change.detach().double()
    sizes = steps.abs()
    kept = (sizes + NEAR).floor()
    if norm == "l2":
        left = sizes.square().sum() - kept.square().sum() + NEAR
        order = (sizes - kept).flatten().argsort(descending=True)
        prices = (2 * kept + 1).flatten()[order]  # of one step more, in squared norm
        paid = order[(prices.cumsum(0) <= left) & (sizes.flatten()[order] > 0)]
        kept.view(-1)[paid] += 1
    return torch.copysign(kept, steps) / 255
