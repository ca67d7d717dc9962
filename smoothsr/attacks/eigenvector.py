"""The direction in which noise moves a smoothed output most, as a start for attacks.

Under noise G the output F of a network wanders most along u, the top eigenvector of its covariance.
The mean of G <u, F - E F> is, by Stein's lemma, sigma^2 times the gradient of <u, E F>: the change
of the input that moves the smoothed mean fastest along u. It needs no gradient of the network, and
it is what the spectral certificate of the mean is afraid of (docs/spectral.md).
"""

import torch
from torch import Tensor

from smoothsr.smoothing import SmoothedSR

__all__ = ["leading_change"]

BATCH = 8  # noisy images at a time
STEPS = 30  # of power iteration


@torch.no_grad()
def leading_change(smoothed: SmoothedSR, lr: Tensor, *, draws: int = 256, seed: int = 0) -> Tensor:
    """Find the change of the input that moves the smoothed mean most, to first order.

    Args:
        smoothed: A smoother; its network sees the whole image, without tiles.
        lr: One image (1,C,h,w) in [0, 1].
        draws: How many noisy images it is estimated from; their outputs are in memory at once, in
            float32 0.8 GB for 256 of 512x512 colour pixels.
        seed: Of their noise.

    Returns:
        (1,C,h,w) of l2 norm 1, up to its sign; 0 where no draw differs from another.

    Example:
        >>> import torch.nn as nn
        >>> twice = nn.Upsample(scale_factor=2, mode="nearest").eval()
        >>> change = leading_change(SmoothedSR(twice, 0.05), torch.full((1, 1, 2, 2), 0.5))
        >>> round(change.norm().item(), 4)
        1.0
    """
    generator = torch.Generator(lr.device).manual_seed(seed)
    noise = torch.randn(
        (draws, *lr.shape[1:]), generator=generator, device=lr.device, dtype=lr.dtype
    )
    noisy = lr + smoothed.sigma * noise
    outputs = torch.cat([smoothed.base(part).flatten(1) for part in noisy.split(BATCH)])
    outputs -= outputs.mean(0)
    # The top eigenvector of the draws' inner products gives each draw's part <u, F - E F>.
    products = outputs @ outputs.T
    parts = products.sum(1) + products[:, 0]
    for _ in range(STEPS):
        parts = products @ (parts / parts.norm().clamp_min(1e-30))
    change = (parts.view(-1, 1, 1, 1) * noise).sum(0, keepdim=True)
    return change / change.norm().clamp_min(1e-30)
