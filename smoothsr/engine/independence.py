"""What a certificate takes on trust of a network, tried: that it is a fixed function of each image.

A network that draws random numbers of its own, keeps a state, or lets the images of a batch depend
on each other makes draws that are not independent, and bounds that do not hold.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from smoothsr.engine.batching import out_of_memory

__all__ = ["agree", "require_independence", "rounding"]

FLOOR = 1e-4  # root mean square difference, in [0, 1], that float32 never reaches by rounding
ROUNDINGS = 4  # so many rounding errors of a lower precision may separate two runs


def require_independence(
    f: Callable[[Tensor], Tensor], patch: Tensor, precision: torch.dtype, batch_size: int | None
) -> Tensor:
    """Require that two runs of one batch agree, and an image alone with the same image in a batch.

    Args:
        f: The base predictor, (b,C,h,w) to (b,C,H,W) in [0, 1].
        patch: One patch (1,C,h,w), as f takes it.
        precision: Of the arithmetic in f, whose rounding errors may differ between batch sizes.
        batch_size: The most images that f is given at once; None does not limit them.

    Returns:
        f's output (1,C,H,W) of the patch.

    Raises:
        ValueError: If they differ by more than rounding does, or f fails on the patch.
    """
    # What differs most from the patch shows best what leaks from one image to another.
    other = torch.full_like(patch, float(patch.mean() < 0.5))
    batch = patch if batch_size == 1 else torch.cat([other, patch])
    try:
        first = f(batch.clone())
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            height, width = patch.shape[2:]
            raise ValueError(
                f"the model fails on a patch of {width}x{height} pixels, tile and halo ({error}): "
                "if it is too small, pass a larger tile or halo"
            ) from error
        if len(batch) == 1:
            raise
        batch, first = patch, f(patch.clone())  # then draws run one by one
    limit = rounding(precision)
    if (apart := _distance(first, f(batch.clone()))) > limit:
        raise ValueError(
            f"two runs of the model on the same input differ by {apart * 255:.2g}/255 (RMS): it "
            "draws random numbers of its own or keeps a state, and nothing can be certified of it"
        )
    if len(batch) == 1:
        return first
    alone = torch.cat([f(image.clone()) for image in batch.split(1)])
    if (apart := _distance(first, alone)) > limit:
        raise ValueError(
            f"the model's output for an image differs by {apart * 255:.2g}/255 (RMS) between the "
            "image alone and in a batch: draws would depend on each other; pass batch_size=1"
        )
    return first[-1:]


def rounding(precision: torch.dtype) -> float:
    """The largest root mean square, in [0, 1], by which outputs of one network on one input may
    differ.
    """
    return max(FLOOR, ROUNDINGS * torch.finfo(precision).eps)


def agree(first: Tensor, second: Tensor, precision: torch.dtype) -> bool:
    """Whether two outputs (b,C,H,W) differ by no more than rounding does."""
    return first.shape == second.shape and _distance(first, second) <= rounding(precision)


def _distance(first: Tensor, second: Tensor) -> float:
    """The largest root mean square difference of an image."""
    return (first - second).cpu().double().square().mean(dim=(1, 2, 3)).max().sqrt().item()
