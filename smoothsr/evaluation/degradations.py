"""What cameras, networks and users do to images: noise, JPEG, blur, resizing.

Each takes and returns (B,C,h,w) in [0, 1], of the same shape, dtype and device. They are the
classical part of the degradation chains by which real-world super-resolution networks are trained
(X. Wang et al., "Real-ESRGAN", 2021), as functions that repeat: the noise is a pure function of its
seed.
"""

import math
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from smoothsr.metrics import to_8bit

__all__ = ["blur", "jpeg", "noise", "resize"]


def noise(image: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Add Gaussian noise of standard deviation sigma, the same for a seed on every device, and
    clamp.

    Raises:
        ValueError: If sigma is not greater than 0, or greater than 1.
    """
    _require(
        0 < sigma <= 1,
        f"the noise must be greater than 0 and at most 1, as values are; got {sigma:g}: "
        "write 25/255, not 25",
    )
    # The name keeps this noise apart from that of a smoother with the same seed.
    generator = np.random.default_rng([abs(seed), int(seed < 0), *b"degradation"])
    values = generator.standard_normal(image.shape, np.float32)
    return (image + sigma * torch.from_numpy(values).to(image)).clamp(0, 1)


def jpeg(image: Tensor, quality: float) -> Tensor:
    """Compress and decompress one or three channels as JPEG of a quality from 1 to 100, colours at
    half the resolution.

    Raises:
        ValueError: If quality is out of its range, or there are other than 1 or 3 channels.
    """
    _require(
        quality in range(1, 101),
        f"the JPEG quality must be an integer from 1 to 100, got {quality:g}",
    )
    _require(image.shape[1] in (1, 3), f"JPEG holds 1 or 3 channels, got {image.shape[1]}")
    results = []
    for samples in to_8bit(image).byte().permute(0, 2, 3, 1).cpu().numpy():
        stream = BytesIO()
        picture = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
        picture.save(stream, "JPEG", quality=int(quality), subsampling=2)
        results.append(np.atleast_3d(np.asarray(Image.open(stream))))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).to(image) / 255


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of standard deviation sigma pixels; the border is repeated.

    Raises:
        ValueError: If sigma is not greater than 0 and finite.
    """
    from scipy.ndimage import gaussian_filter  # slow to import

    _require(
        0 < sigma < math.inf, f"the blur must be greater than 0 pixels and finite, got {sigma:g}"
    )
    pixels = image.detach().cpu().to(torch.promote_types(image.dtype, torch.float32)).numpy()
    return (
        torch.from_numpy(gaussian_filter(pixels, (0, 0, sigma, sigma), mode="nearest"))
        .to(image)
        .clamp(0, 1)
    )


def resize(image: Tensor, factor: float) -> Tensor:
    """Resize by a factor and back, with an antialiased bicubic kernel: below 1 it loses detail.

    Raises:
        ValueError: If factor is not greater than 0 and finite, or leaves no pixel.
    """
    _require(
        0 < factor < math.inf,
        f"the factor of resizing must be greater than 0 and finite, got {factor:g}",
    )
    height, width = image.shape[-2:]
    size = (round(height * factor), round(width * factor))
    _require(min(size) >= 1, f"resizing {width}x{height} pixels by {factor:g} leaves none")
    pixels = image.to(
        torch.promote_types(image.dtype, torch.float32)
    )  # half precision is not implemented everywhere
    for target in (size, (height, width)):
        pixels = F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=True)
    return pixels.clamp(0, 1).to(image)


def _require(met: bool, text: str) -> None:
    if not met:
        raise ValueError(text)
