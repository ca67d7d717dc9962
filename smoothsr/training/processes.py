"""What processes of torchrun that share a batch tell each other."""

import torch.distributed as dist
from torch import Tensor

__all__ = ["averaged"]


def averaged(tensor: Tensor) -> Tensor:
    """Average a tensor over processes, in place; it stays as it is where there is one."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor
