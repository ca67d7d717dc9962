"""FFDNet, a small denoiser that is told how strong the noise is.

The image is folded to half its sides with four times the channels, beside which one more channel
holds the noise's standard deviation; convolutions and ReLUs at that size make the clean image. The
parameter names are those of its authors' code (KAIR), whose files this module reads.

The denoiser of this project is one whose map of the noise is folded as the image is, four channels
in place of their mean: on small tiles the noise differs between neighbouring pixels.

Reference: K. Zhang, W. Zuo, L. Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN Based
Image Denoising", 2018 (arXiv 1710.04026).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fitted import extend

__all__ = ["FFDNet"]


class FFDNet(nn.Module):
    """Remove Gaussian noise of a known strength.

    Args:
        channels: Of the image, 3 for RGB.
        features: Channels of every hidden layer.
        convolutions: How many there are, the first and the last included.
        maps: Channels of the noise's strength: 1, the mean of 2x2 pixels, or 4, each of them.

    Example:
        >>> sum(p.numel() for p in FFDNet(3, 64, 8, maps=4).parameters())
        237772
    """

    def __init__(self, channels: int, features: int, convolutions: int, maps: int = 1) -> None:
        super().__init__()
        self.maps = maps
        layers: list[nn.Module] = [nn.Conv2d(4 * channels + maps, features, 3, padding=1)]
        for _ in range(convolutions - 2):
            layers += [nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)]
        layers += [nn.ReLU(), nn.Conv2d(features, 4 * channels, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: (B,C,h,w) in [0, 1] but for the noise.
            sigma: Standard deviation of the noise, (B,1,h,w) or what broadcasts to it.

        Returns:
            (B,C,h,w), which may leave [0, 1] a little.
        """
        height, width = noisy.shape[-2:]
        level = sigma.to(noisy).expand(len(noisy), 1, height, width)
        image, level = (F.pixel_unshuffle(_even(each), 2) for each in (noisy, level))
        if self.maps == 1:
            level = level.mean(1, keepdim=True)
        clean = F.pixel_shuffle(self.model(torch.cat([image, level], dim=1)), 2)
        return clean[..., :height, :width]


def _even(x: Tensor) -> Tensor:
    height, width = (side + side % 2 for side in x.shape[-2:])
    return extend(extend(x, -2, height), -1, width)
