"""A U-Net for super-resolution whose output has its input's size: the network of a study of mean
smoothing for inverse problems.

    smoothsr upscale enlarged.png -m unet.safetensors --arch examples/unet.py:UNet

The input is the small image, enlarged by bilinear interpolation: for smoothsr a network of scale 1.
The sides are halved four times, so they must be multiples of 16. What `smoothsr.adapters.load`
returns takes any: it finds that out by trial runs, continues images by reflection, and crops.
Around the class itself, the sides of images, or tile + 2*halo, must be such multiples.

Reference: O. Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["MEAN", "STD", "UNet"]

MEAN, STD = 0.45, 0.27  # of photographs' values, between which and [0, 1] the network translates


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Make two 3x3 convolutions, each with batch normalization and LeakyReLU."""
    layers: list[nn.Module] = []
    for count in (inputs, outputs):
        layers.append(nn.Conv2d(count, outputs, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Map images (B,3,h,w) in [0, 1] to images of the same shape, not clamped; h and w must be
    multiples of 2 to the number of channels less one.

    Args:
        channels: Of each level, from the finest to the coarsest.
    """

    def __init__(self, channels: Sequence[int] = (8, 16, 32, 64, 128)) -> None:
        super().__init__()
        down = [*pairwise([3, *channels])]
        up = [*pairwise(channels)][::-1]
        self.down = nn.ModuleList(convolutions(*each) for each in down)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in up
        )
        self.up = nn.ModuleList(convolutions(2 * fine, fine) for fine, _ in up)
        self.last = nn.Conv2d(channels[0], 3, 1)

    def forward(self, lr: Tensor) -> Tensor:
        """Run the levels down and up; what each found on the way down is seen on the way up."""
        *finer, coarsest = self.down
        x, seen = (lr - MEAN) / STD, list[Tensor]()
        for level in finer:
            seen.append(level(x))
            x = nn.functional.max_pool2d(seen[-1], 2)
        x = coarsest(x)
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            x = level(torch.cat([seen.pop(), enlarge(x)], dim=1))
        return MEAN + STD * self.last(x)
