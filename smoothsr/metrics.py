"""Full-reference image metrics, with the conventions under which super-resolution papers report them.

Values are rounded to 8 bits, `border` output pixels (normally the scale) are cropped from each side, and `y=True` compares the
luma of ITU-R BT.601 on the 16..235 range, unrounded, as MATLAB's `rgb2ycbcr` and BasicSR do.
"""

import torch
from torch import Tensor

__all__ = ["luma", "mse", "psnr"]


LUMA = (65.481, 128.553, 24.966)  # of R, G, B in [0, 1]; 16 is added


def luma(image: Tensor) -> Tensor:
    """Compute BT.601 luma.

    Args:
        image: RGB (B,3,H,W) in [0, 1].

    Returns:
        Luma (B,1,H,W), on the scale where 8-bit video black is 16/255 and white 235/255.

    Example:
        >>> (luma(torch.ones(1, 3, 1, 1)) * 255).item()
        235.0
    """
    weights = image.new_tensor(LUMA).view(1, 3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16) / 255


def mse(output: Tensor, reference: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Compute the mean squared error of 8-bit images, per image.

    Args:
        output: (B,C,H,W) in [0, 1]; clamped and rounded to 8 bits before comparing.
        reference: The same shape and range, rounded likewise.
        border: Pixels cropped from each side first.
        y: Compare luma only; needs three channels.

    Returns:
        (B,) in units of the [0, 1] range squared, float64.

    Raises:
        ValueError: If shapes differ, or the crop leaves nothing, or y is asked of other than three channels.
    """
    if output.shape != reference.shape or output.ndim != 4:
        raise ValueError(f"output and reference must both be (B,C,H,W), got {(*output.shape,)} and {(*reference.shape,)}")
    if 2 * border >= min(output.shape[-2:]):
        raise ValueError(f"border {border} leaves nothing of {output.shape[-2]}x{output.shape[-1]} pixels")
    if y and output.shape[1] != 3:
        raise ValueError(f"y=True needs three channels, got {output.shape[1]}")
    rows = slice(border, output.shape[-2] - border)
    columns = slice(border, output.shape[-1] - border)
    pair = [(image[..., rows, columns].double().clamp(0, 1) * 255).round() / 255 for image in (output, reference)]
    first, second = map(luma, pair) if y else pair
    return (first - second).square().mean(dim=(1, 2, 3))


def psnr(output: Tensor, reference: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Compute the peak signal-to-noise ratio of 8-bit images, per image, in dB; infinite for equal images.

    Takes and raises what `mse` does.

    Example:
        >>> psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1 / 255)).item()  # 20 log10(255)
        48.13080360867909
    """
    return -10 * torch.log10(mse(output, reference, border=border, y=y))
