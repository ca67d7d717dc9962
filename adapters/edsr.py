"""EDSR and its sister MSRResNet, in the key format of BasicSR; and EDSR in that of torchSR and the
original code.

Both are residual blocks at the input's resolution, then pixel shuffles. What a file doesn't tell is
taken as the papers have it: EDSR works on 0..255 around the mean of DIV2K, and its large version
(256 features) scales residuals by 0.1.

References: B. Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPRW 2017 (arXiv 1707.02921); C. Ledig et al., "Photo-Realistic Single Image Super-Resolution Using
a Generative Adversarial Network", 2017 (arXiv 1609.04802).
"""

import re
from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import CheckpointError, State
from .fitted import Found, fill

__all__ = ["EDSR", "MSRResNet", "detect"]

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, features: int, weight: float = 1.0) -> None:
        super().__init__()
        self.conv1 = _conv(features, features)
        self.conv2 = _conv(features, features)
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,F,h,w) to the same shape."""
        return x + self.weight * self.conv2(F.relu(self.conv1(x)))


class EDSR(nn.Module):
    """Residual blocks beside a long identity, then one pixel shuffle per factor of two (or one of
    three).

    Args:
        features: Channels of every hidden layer.
        blocks: How many residual blocks there are.
        scale: A power of two, or 3.
        weight: Factor on each block's residual.
        value_range: What the network scales white to, inside.
        mean: Mean colour in [0, 1], subtracted at the input and added at the output.
    """

    mean: Tensor

    def __init__(
        self,
        features: int = 64,
        blocks: int = 16,
        scale: int = 4,
        *,
        weight: float = 1.0,
        value_range: float = 255.0,
        mean: Sequence[float] = DIV2K_MEAN,
    ) -> None:
        super().__init__()
        self.value_range = value_range
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.conv_first = _conv(3, features)
        self.body = nn.Sequential(*(ResidualBlock(features, weight) for _ in range(blocks)))
        self.conv_after_body = _conv(features, features)
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        shuffles = [
            layer
            for step in steps
            for layer in (_conv(features, features * step**2), nn.PixelShuffle(step))
        ]
        self.upsample = nn.Sequential(*shuffles)
        self.conv_last = _conv(features, 3)

    def forward(self, lr: Tensor) -> Tensor:
        """Map lr (B,3,h,w) in [0, 1] to sr (B,3,s*h,s*w), which may leave [0, 1] a little."""
        x = self.conv_first((lr - self.mean) * self.value_range)
        x = x + self.conv_after_body(self.body(x))
        return self.conv_last(self.upsample(x)) / self.value_range + self.mean


class MSRResNet(nn.Module):
    """SRResNet without batch norm, which adds to a bilinear enlargement.

    Args:
        channels: Of input and output.
        features: Channels of every hidden layer.
        blocks: How many residual blocks there are.
        scale: 2, 3 or 4.
    """

    def __init__(
        self, channels: int = 3, features: int = 64, blocks: int = 16, scale: int = 4
    ) -> None:
        super().__init__()
        self.scale = scale
        step = 2 if scale == 4 else scale
        self.conv_first = _conv(channels, features)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.upconv1 = _conv(features, features * step**2)
        if scale == 4:
            self.upconv2 = _conv(features, features * step**2)
        self.conv_hr = _conv(features, features)
        self.conv_last = _conv(features, channels)

    def forward(self, lr: Tensor) -> Tensor:
        """Map lr (B,C,h,w) in [0, 1] to sr (B,C,s*h,s*w), which may leave [0, 1] a little."""
        x = self.body(_leaky(self.conv_first(lr)))
        for conv in (self.upconv1, self.upconv2) if self.scale == 4 else (self.upconv1,):
            x = _leaky(F.pixel_shuffle(conv(x), 2 if self.scale == 4 else self.scale))
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.conv_last(_leaky(self.conv_hr(x))) + base


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  its shapes tell it
    """Build the network of an EDSR or MSRResNet state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: What the user named, which `load` holds the network's against.

    Raises:
        CheckpointError: If its shapes don't fit together.
    """
    if {
        "head.0.weight",
        "body.0.body.0.weight",
        "tail.0.0.weight",
        "sub_mean.bias",
    } <= state.keys():
        return _from_torchsr(state)
    if {"conv_first.weight", "body.0.conv1.weight", "conv_last.weight"} <= state.keys():
        if "conv_after_body.weight" in state and "upsample.0.weight" in state:
            return _edsr(state)
        if "conv_hr.weight" in state and "upconv1.weight" in state:
            return _msrresnet(state)
    return None


def _edsr(state: State, **options: float | list[float]) -> Found:
    features, channels = state["conv_first.weight"].shape[:2]
    if channels != 3:
        raise CheckpointError(
            f"it is an EDSR for {channels} channels; only those for 3 have a known mean colour"
        )
    blocks = _count(state, r"body\.(\d+)\.conv1\.weight")
    steps = _count(state, r"upsample\.(\d+)\.weight")
    scale = 3 if state["upsample.0.weight"].shape[0] == 9 * features else 2**steps
    name = f"EDSR ({features} features, {blocks} blocks)"
    weight = 0.1 if features == 256 else 1.0
    network = EDSR(features, blocks, scale, weight=weight, **options)  # type: ignore[arg-type]
    return Found(fill(network, [state], name), name, scale, 3)


def _msrresnet(state: State) -> Found:
    features, channels = state["conv_first.weight"].shape[:2]
    blocks = _count(state, r"body\.(\d+)\.conv1\.weight")
    scale = 4 if "upconv2.weight" in state else isqrt(state["upconv1.weight"].shape[0] // features)
    name = f"MSRResNet ({features} features, {blocks} blocks)"
    return Found(
        fill(MSRResNet(channels, features, blocks, scale), [state], name), name, scale, channels
    )


def _from_torchsr(state: State) -> Found:
    """Rename torchSR's keys to BasicSR's, and read range and mean off the stored shift of
    colours.
    """
    last = _count(state, r"body\.(\d+)\.(?:body\.0\.)?weight") - 1
    table = [
        (r"head\.0\.", "conv_first."),
        (r"body\.(\d+)\.body\.0\.", r"body.\1.conv1."),
        (r"body\.(\d+)\.body\.2\.", r"body.\1.conv2."),
        (rf"body\.{last}\.(?=weight|bias)", "conv_after_body."),
        (r"tail\.0\.", "upsample."),
        (r"tail\.1\.", "conv_last."),
    ]
    renamed = {
        key: value for key, value in state.items() if not key.startswith(("sub_mean.", "add_mean."))
    }
    for pattern, name in table:
        renamed = {re.sub("^" + pattern, name, key): value for key, value in renamed.items()}
    shift = -state["sub_mean.bias"]
    value_range = 255.0 if shift.max() > 1 else 1.0
    return _edsr(renamed, value_range=value_range, mean=(shift / value_range).tolist())


def _count(state: State, pattern: str) -> int:
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
