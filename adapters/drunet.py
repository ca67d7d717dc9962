"""DRUNet, a large denoiser that is told how strong the noise is: a U-Net of residual blocks.

The parameter names are those of its authors' code (KAIR, DPIR), whose files this module reads.

Reference: K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, "Plug-and-Play Image
Restoration with Deep Denoiser Prior", 2020 (arXiv 2008.13751).
"""

import torch
from torch import Tensor, nn

from .checkpoint import State
from .fitted import Found, fill, padded

__all__ = ["DRUNet", "detect"]


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(features, features, 3, padding=1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,F,h,w) to the same shape."""
        return x + self.res(x)


class DRUNet(nn.Module):
    """Remove Gaussian noise of a known strength.

    Args:
        channels: Of the image, 3 for RGB.
        features: Of each of the four sizes, the largest first; (64, 128, 256, 512) as published.
        blocks: Of each size and direction; 4 as published.
    """

    def __init__(self, channels: int, features: tuple[int, int, int, int], blocks: int) -> None:
        super().__init__()

        def chain(width: int) -> list[nn.Module]:
            return [Block(width) for _ in range(blocks)]

        def down(wide: int, narrow: int) -> nn.Sequential:
            return nn.Sequential(*chain(wide), nn.Conv2d(wide, narrow, 2, stride=2, bias=False))

        def up(narrow: int, wide: int) -> nn.Sequential:
            larger = nn.ConvTranspose2d(narrow, wide, 2, stride=2, bias=False)
            return nn.Sequential(larger, *chain(wide))

        a, b, c, d = features
        self.m_head = nn.Conv2d(channels + 1, a, 3, padding=1, bias=False)
        self.m_down1, self.m_down2, self.m_down3 = down(a, b), down(b, c), down(c, d)
        self.m_body = nn.Sequential(*chain(d))
        self.m_up3, self.m_up2, self.m_up1 = up(d, c), up(c, b), up(b, a)
        self.m_tail = nn.Conv2d(a, channels, 3, padding=1, bias=False)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: (B,C,h,w) in [0, 1] but for the noise.
            sigma: Standard deviation of the noise, (B,1,h,w).

        Returns:
            (B,C,h,w), which may leave [0, 1] a little.
        """
        height, width = noisy.shape[-2:]
        first = self.m_head(padded(torch.cat([noisy, sigma], dim=1), 8))
        second = self.m_down1(first)
        third = self.m_down2(second)
        deepest = self.m_down3(third)
        x = self.m_up3(self.m_body(deepest) + deepest)
        x = self.m_up2(x + third)
        x = self.m_up1(x + second)
        return self.m_tail(x + first)[..., :height, :width]


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  it is 1
    """Build the network of a DRUNet's state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: Of no use.

    Raises:
        CheckpointError: If it is a DRUNet that halves and doubles in another way, or its shapes
            don't fit together.
    """
    heads = ["m_head", "m_down2.0.res.0", "m_down3.0.res.0", "m_body.0.res.0"]
    if any(f"{head}.weight" not in state for head in [*heads, "m_tail"]):
        return None
    a, b, c, d = (len(state[f"{head}.weight"]) for head in heads)
    channels = len(state["m_tail.weight"])
    blocks = len({key.split(".")[1] for key in state if key.startswith("m_body.")})
    name = f"DRUNet ({a} to {d} features, {blocks} blocks)"
    built = DRUNet(channels, (a, b, c, d), blocks)
    return Found(fill(built, [state], name), name, scale=1, channels=channels)
