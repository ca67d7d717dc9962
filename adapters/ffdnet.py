"""FFDNet, a small denoiser that is told how strong the noise is.

The image is folded to half its sides with four times the channels, beside which one more channel
holds the noise's standard deviation; convolutions and ReLUs at that size make the clean image. The
parameter names are those of its authors' code (KAIR), whose files this module reads.

`ResidualFFDNet` is the denoiser of this project. It computes what to add to the image, which trains
better, and its map of the noise is folded as the image is: four channels in place of their mean,
since on small tiles the noise differs between neighbouring pixels.

Reference: K. Zhang, W. Zuo, L. Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN Based
Image Denoising", 2018 (arXiv 1710.04026).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .checkpoint import State
from .convolution_chain import Chain, recognize_chain
from .fitted import Found, padded

__all__ = ["FFDNet", "ResidualFFDNet", "detect"]


class FFDNet(Chain):
    """Remove Gaussian noise of a known strength.

    Example:
        >>> sum(p.numel() for p in FFDNet(3, 96, 12).parameters())
        852108
    """

    fold = 4
    maps = 1  # the mean of 2x2 pixels; of ResidualFFDNet 4, each of them

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: (B,C,h,w) in [0, 1] but for the noise.
            sigma: Standard deviation of the noise, (B,1,h,w).

        Returns:
            (B,C,h,w), which may leave [0, 1] a little.
        """
        height, width = noisy.shape[-2:]
        image, level = (F.pixel_unshuffle(padded(each, 2), 2) for each in (noisy, sigma))
        if self.maps == 1:
            level = level.mean(1, keepdim=True)
        clean = F.pixel_shuffle(self.model(torch.cat([image, level], dim=1)), 2)
        return clean[..., :height, :width]


class ResidualFFDNet(FFDNet):
    """The same, which is told of each pixel how strong the noise is, and computes what to add.

    Example:
        >>> sum(p.numel() for p in ResidualFFDNet(3, 64, 8).parameters())
        237772
    """

    maps = 4

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise as FFDNet does."""
        return noisy + super().forward(noisy, sigma)


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  it is 1
    """Build the network of a FFDNet's state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: Of no use.

    Raises:
        CheckpointError: If its shapes don't fit together.
    """
    return recognize_chain(state, (FFDNet, ResidualFFDNet))
