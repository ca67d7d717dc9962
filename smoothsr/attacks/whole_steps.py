"""Changes as a file of 8 bits holds them: by whole steps, within their budget."""

import torch
from torch import Tensor

from smoothsr.certificates.options import Norm

__all__ = ["whole_steps"]

NEAR = 5e-5  # of a step, by which a budget in floats may miss a whole number of steps


def whole_steps(change: Tensor, eps: float, norm: Norm) -> Tensor:
    """Round a change to whole 8-bit steps within its budget.

    Under linf each value goes to the nearest step that is allowed. Under l2 each goes towards zero,
    and what is left of the budget then goes where most was cut off, a step each: a small norm
    spread over all values would leave nothing of an attack, though a few whole steps fit into it.

    Args:
        change: Any shape, in [0, 1] units.
        eps: The budget, in [0, 1] units.
        norm: Of the budget.

    Returns:
        float64, multiples of 1/255.

    Example:
        >>> change = torch.tensor([0.2, -1.7, 0.9, 0.8]) / 255
        >>> (whole_steps(change, 2 / 255, "linf") * 255).tolist()
        [0.0, -2.0, 1.0, 1.0]
        >>> (whole_steps(change, 1.8 / 255, "l2") * 255).tolist()
        [0.0, -1.0, 1.0, 1.0]
    """
    steps, most = 255 * change.detach().double(), 255 * eps + NEAR
    if norm == "linf":
        return steps.round().clamp(-int(most), int(most)) / 255
    sizes = steps.abs().flatten()
    kept = (sizes + NEAR).floor()
    while len(raised := _affordable(sizes, kept, most**2 - float(kept.square().sum()))):
        kept[raised] += 1
    return torch.copysign(kept.reshape(steps.shape), steps) / 255


def _affordable(sizes: Tensor, kept: Tensor, left: float) -> Tensor:
    """Choose the values that a step more brings nearest to their sizes (m,), and whose squared norm
    grows by no more than what is left in all; none twice.
    """
    prices = 2 * kept + 1
    able = ((sizes > kept) & (prices <= left)).nonzero().flatten()
    # Among equals by lot, always the same: a uniform change stays spread over the image.
    able = able[torch.randperm(len(able), generator=torch.Generator().manual_seed(0)).to(able)]
    order = able[(sizes - kept)[able].argsort(descending=True, stable=True)]
    return order[prices[order].cumsum(0) <= left]
