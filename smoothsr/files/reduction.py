"""LR images from HR ones, as benchmarks make them."""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["reduced"]


def reduced(hr: Tensor, scale: int) -> Tensor:
    """Reduce HR by an antialiased bicubic kernel.

    Args:
        hr: (B,C,s*h,s*w) in [0, 1].
        scale: s.

    Returns:
        LR (B,C,h,w) in [0, 1], not rounded.
    """
    size = (hr.shape[2] // scale, hr.shape[3] // scale)
    lr = F.interpolate(hr, size, mode="bicubic", antialias=True, align_corners=False)
    return lr.clamp(0, 1)
