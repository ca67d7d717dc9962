"""What cameras, networks and users do to images: noise, JPEG, blur, resizing. Each result is in [0, 1], of the input's shape.

The classical part of the degradation chains by which real-world super-resolution networks are trained (X. Wang et al.,
"Real-ESRGAN", 2021), as functions that repeat: the noise is a pure function of its seed.
"""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blur", "jpeg", "noise", "resize"]


def noise(image: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Add Gaussian noise of standard deviation sigma to (B,C,h,w), the same for a seed on every device, and clamp.

    Raises:
        ValueError: If sigma is not greater than 0.
    """
    _require(sigma > 0, f"the noise must be greater than 0, got {sigma}")
    values = np.random.default_rng([abs(seed), int(seed < 0)]).standard_normal(image.shape, np.float32)
    return (image + sigma * torch.from_numpy(values).to(image)).clamp(0, 1)


def jpeg(image: Tensor, quality: float) -> Tensor:
    """Compress and decompress (B,C,h,w), C of 1 or 3, as JPEG of a quality from 1 to 100, colours at half the resolution.

    Raises:
        ValueError: If quality is out of its range, or C is neither 1 nor 3.
    """
    _require(quality == int(quality) and 1 <= quality <= 100, f"the JPEG quality must be an integer from 1 to 100, got {quality}")
    _require(image.shape[1] in (1, 3), f"JPEG holds 1 or 3 channels, got {image.shape[1]}")
    results = []
    for samples in image.detach().cpu().float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy():
        stream = BytesIO()
        picture = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
        picture.save(stream, "JPEG", quality=int(quality), subsampling=2)
        results.append(np.atleast_3d(np.asarray(Image.open(stream))))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(image) / 255


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur (B,C,h,w) by a Gaussian of standard deviation sigma pixels; the border is repeated.

    Raises:
        ValueError: If sigma is not greater than 0.
    """
    from scipy.ndimage import gaussian_filter  # slow to import

    _require(sigma > 0, f"the blur must be greater than 0 pixels, got {sigma}")
    return torch.from_numpy(gaussian_filter(image.detach().cpu().float().numpy(), (0, 0, sigma, sigma), mode="nearest")).to(image)


def resize(image: Tensor, factor: float) -> Tensor:
    """Resize (B,C,h,w) by a factor and back, with an antialiased bicubic kernel: below 1 it loses detail.

    Raises:
        ValueError: If factor is not greater than 0, or leaves no pixel.
    """
    height, width = image.shape[-2:]
    size = (round(height * factor), round(width * factor))
    _require(min(size) >= 1, f"resizing {width}x{height} pixels by {factor} leaves none")
    for target in (size, (height, width)):
        image = F.interpolate(image, target, mode="bicubic", align_corners=False, antialias=True)
    return image.clamp(0, 1)


def _require(met: bool, text: str) -> None:
    if not met:
        raise ValueError(text)
