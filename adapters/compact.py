"""SRVGGNetCompact, the plainest super-resolution network in common use.

Convolutions and PReLUs at the input's resolution, one pixel shuffle, and the nearest-neighbour
enlarged input added at the end. The parameter names are those that BasicSR, Real-ESRGAN, spandrel,
chaiNNer and ComfyUI read and write, so files travel between all of them and this module.

Reference: X. Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
Synthetic Data", 2021 (arXiv 2107.10833), whose code publishes this network as `SRVGGNetCompact`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Compact", "initialize_near_identity"]


class Compact(nn.Module):
    """Upscale by learning what nearest-neighbour interpolation misses.

    Args:
        channels: Channels of input and output, 3 for RGB.
        features: Channels of every hidden layer.
        convolutions: How many hidden features-to-features convolutions there are.
        scale: Integer ratio of output to input side.

    Example:
        >>> sum(p.numel() for p in Compact(3, 32, 16, 4).parameters())
        163280
    """

    def __init__(
        self, channels: int = 3, features: int = 32, convolutions: int = 16, scale: int = 4
    ) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers.append(nn.Conv2d(features, channels * scale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)

    def forward(self, lr: Tensor) -> Tensor:
        """Map lr (B,C,h,w) in [0, 1] to sr (B,C,s*h,s*w), which may leave [0, 1] a little."""
        out = lr
        for layer in self.body:
            out = layer(out)
        # Added before the shuffle, where a pixel's s*s copies lie side by side, the enlarged input
        # need not be made.
        copies = out.unflatten(1, (lr.shape[1], self.scale**2)) + lr.unsqueeze(2)
        return F.pixel_shuffle(copies.flatten(1, 2), self.scale)


def initialize_near_identity(model: Compact) -> None:
    """Start every hidden convolution at identity plus its default noise, so that a deep plain
    network trains.

    A convolution W with an identity branch beside it computes (W + I) x, and the gradient of W is
    that of W + I. Training with the branch and folding it into the weights afterwards is therefore
    the same, step for step, as starting at W + I (without weight decay), and needs no second form
    of the network.
    """
    with torch.no_grad():
        for conv in model.body[2:-1]:
            if isinstance(conv, nn.Conv2d):
                conv.weight.mul_(0.5)
                for i in range(conv.out_channels):
                    conv.weight[i, i, 1, 1] += 1
        model.body[-1].get_parameter("weight").mul_(0.1)
