"""What gradients keep in memory, and how to run a smoothed network so that they fit."""

import math

import torch
from torch import Tensor

from smoothsr.engine.batching import Batching
from smoothsr.engine.forward_memory import CORNER
from smoothsr.smoothing import SmoothedSR, variant

__all__ = ["LIMIT", "gradient_bytes", "patches", "within_memory"]

LIMIT = 4 * 2**30  # bytes that one output takes without being asked to cut the image


def gradient_bytes(smoothed: SmoothedSR, lr: Tensor) -> float:
    """Measure on a corner of lr (1,C,h,w) what one draw keeps for its gradient, besides the
    weights: bytes for each input pixel.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in smoothed.parameters()}
    kept = dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor.detach()

    corner = lr[..., :CORNER, :CORNER].detach().clone().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        smoothed.base(corner)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / (
        corner.shape[2] * corner.shape[3]
    )


def patches(smoothed: SmoothedSR, lr: Tensor) -> tuple[int, int]:
    """Count the patches that the network reads of lr (1,C,h,w), and the pixels of each: all are
    alike.
    """
    tiles = smoothed.grid(lr)
    return len(tiles), len(tiles[0].rows.gather) * len(tiles[0].columns.gather)


def within_memory(smoothed: SmoothedSR, lr: Tensor, bytes_per_pixel: float) -> SmoothedSR:
    """Return the smoother itself if the gradient of its output for lr (1,C,h,w) keeps at most LIMIT
    bytes.

    Else return one of the same weights and options that recomputes its draws in the backward pass,
    no more at a time than keep as much, or one by one.
    """
    count, pixels = patches(smoothed, lr)
    if smoothed.n * count * pixels * bytes_per_pixel <= LIMIT:
        return smoothed
    known = smoothed.batching
    most = max(1, math.floor(LIMIT / (pixels * bytes_per_pixel)))
    batching = Batching(known.batch_size, known.convolutional, most, known.steady)
    return variant(smoothed, recompute=True, batching=batching)
