"""DnCNN, a chain of convolutions that finds the noise in an image, and FDnCNN, which is told how
strong the noise is and makes the clean image.

The parameter names are those of their authors' code (KAIR), whose files this module reads, with or
without batch norm.

Reference: K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual
Learning of Deep CNN for Image Denoising", 2016 (arXiv 1608.03981).
"""

import torch
from torch import Tensor

from .checkpoint import State
from .convolution_chain import Chain, recognize_chain
from .fitted import Found

__all__ = ["DnCNN", "FDnCNN", "detect"]


class DnCNN(Chain):
    """Remove noise, whose strength the network was trained for."""

    def forward(self, noisy: Tensor) -> Tensor:
        """Map (B,C,h,w) in [0, 1] but for the noise to the same shape without."""
        return noisy - self.model(noisy)


class FDnCNN(Chain):
    """Remove noise of a known strength."""

    maps = 1

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise (B,C,h,w), given the noise's standard deviation (B,1,h,w)."""
        return self.model(torch.cat([noisy, sigma], dim=1))


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  it is 1
    """Build the network of a DnCNN's or FDnCNN's state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: Of no use.

    Raises:
        CheckpointError: If its shapes don't fit together.
    """
    return recognize_chain(state, (DnCNN, FDnCNN))
