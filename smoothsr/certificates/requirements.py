"""What must hold before anything is drawn for a certificate."""

from collections.abc import Iterable
from typing import get_args

import torch
from torch import Tensor, nn

from smoothsr.certificates.evidence import Request
from smoothsr.certificates.options import Agg, Kind, Scope, require_option
from smoothsr.engine.arguments import require_image, require_integer
from smoothsr.engine.lattice import on_lattice

__all__ = ["require_certifiable", "require_eval"]


def require_certifiable(lr: Tensor, agg: str, lattice: bool, request: Request) -> None:
    """Refuse an input or a request of which there is no certificate.

    Args:
        lr: The input.
        agg: The smoother's statistic.
        lattice: Whether its noise is on the lattice of 8-bit steps.
        request: What is asked for.

    Raises:
        ValueError: If so.
    """
    require_image(lr)
    if len(lr) != 1:
        raise ValueError(f"certify takes one image (1,C,h,w), got {(*lr.shape,)}: call it for each")
    if lattice and not on_lattice(lr):
        raise ValueError(
            "with lattice=True an input of whole 8-bit steps is certified, and lr has others: "
            "round it first, or pass lattice=False"
        )
    if agg not in get_args(Agg):
        raise ValueError(f"certify speaks of the median or the mean, got agg={agg!r}")
    if (agg == "mean" or request.kind != "levels") and torch.finfo(lr.dtype).bits < 32:
        raise ValueError(
            "a mean is certified for lr in float32 or float64, since rounding would add up; got "
            f"{lr.dtype}"
        )
    _require_sensible(request)


def require_eval(layers: Iterable[nn.Module]) -> None:
    """Refuse layers that let the outputs of a batch depend on each other.

    Raises:
        ValueError: If one is in train mode, or a batch norm without running statistics.
    """
    for layer in layers:
        if layer.training:
            raise ValueError(
                "the model is in train mode, where outputs of a batch may depend on each other: "
                "call model.eval()"
            )
        batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if batch_norm and layer.running_mean is None:
            raise ValueError(
                "the model has batch norm without running statistics: outputs of a batch depend on "
                "each other"
            )


def _require_sensible(request: Request) -> None:
    n, alpha, levels, scope, kind = request
    require_integer("n", n, 1)
    require_integer("levels", levels, 2)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    require_option("scope", scope, Scope)
    require_option("kind", kind, Kind)
    if kind != "levels" and (n < 2 or scope != "image"):
        raise ValueError(
            f'kind="{kind}" needs n >= 2 and scope="image", got {n} and "{scope}": certify with '
            'kind="levels"'
        )
