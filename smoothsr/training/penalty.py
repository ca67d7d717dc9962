"""Gradient regularization: a price on how fast the loss changes with the input.

It is CertSR's third rival: lambda * ||grad_x L||, lambda = .001, with the norm itself and not its
square. Its gradient in the weights is a second derivative of the network (double backward).

Reference: H. Drucker, Y. LeCun, "Improving generalization performance using double
backpropagation", IEEE Transactions on Neural Networks 3(6), 1992.
"""

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.parallel import DistributedDataParallel

from smoothsr.engine.compiled import is_compiled
from smoothsr.training.objective import BaseLoss, StepSeed

__all__ = ["GradientPenalty", "gradient_norm"]


def gradient_norm(loss: Tensor, lr: Tensor) -> Tensor:
    """Compute the l2 norm of each image's gradient of its own loss, and the mean over images;
    differentiable.

    Args:
        loss: The mean over images of losses of which each depends on its own image alone; with a
            graph to lr.
        lr: (B,C,h,w).

    Returns:
        One number, in units of the loss over those of lr.

    Example:
        >>> lr = torch.zeros(2, 1, 2, 2, requires_grad=True)
        >>> gradient_norm(3 * lr.mean(), lr).item()  # 3/4 at each of an image's four values
        1.5
    """
    (slope,) = torch.autograd.grad(loss, lr, create_graph=True)
    return len(lr) * vector_norm(slope, dim=(1, 2, 3)).mean()


class GradientPenalty(nn.Module):
    """A base loss, plus a price on its gradient at the input: an objective, in the place of
    `criterion(model(lr), hr)`.

    base(model(lr), hr) + weight * mean over images of ||grad_lr of that image's base loss||_2.

    It costs about two training steps. Autocast is left out: the gradients of a mean over many
    pixels are below what half precision can hold. In train mode BatchNorm joins the images of a
    batch, and an image's gradient is then that of the whole batch's loss.

    Args:
        base: Maps (sr, hr) to one number, the mean over images.
        weight: Factor.

    Raises:
        ValueError: If weight is negative or not finite; or, when it is called, if the model was
            compiled, since torch.compile has no second derivatives, or is a DistributedDataParallel
            with static_graph=True, which takes the penalty's own gradient for that of the step.
    """

    def __init__(self, base: BaseLoss, weight: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number >= 0, got {weight}")
        self.base, self.weight = base, weight

    def forward(
        self, model: nn.Module, lr: Tensor, hr: Tensor, _at: StepSeed | None = None
    ) -> Tensor:
        """Compute the loss of a batch: lr (B,C,h,w), hr (B,C,H,W); nothing is random."""
        _require_second_derivatives(model)
        lr = lr if lr.requires_grad else lr.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(lr.device.type, enabled=False):
            loss = self.base(model(lr), hr)
            return loss + self.weight * gradient_norm(loss, lr)

    def extra_repr(self) -> str:
        """Name the weight."""
        return f"weight={self.weight}"


def _require_second_derivatives(model: nn.Module) -> None:
    """Refuse a network whose second derivatives torch can't compute, or would not share."""
    if is_compiled(model):
        raise ValueError(
            "the gradient penalty needs second derivatives, which torch.compile has not: pass the "
            "network as it was before"
        )
    if isinstance(model, DistributedDataParallel) and model.static_graph:
        raise ValueError(
            "the gradient penalty needs two backward passes, which DistributedDataParallel with "
            "static_graph=True does not share: leave that option out"
        )
