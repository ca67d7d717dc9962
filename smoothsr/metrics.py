"""Full-reference image metrics, with the conventions under which super-resolution papers report
them.

Values are rounded to 8 bits, `border` output pixels (normally the scale) are cropped from each
side, and `y=True` compares the luma of ITU-R BT.601 on the 16..235 range, unrounded, as MATLAB's
`rgb2ycbcr` and BasicSR do. LPIPS stands apart: it takes the image as it is, so that it has a
gradient.

References: Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural
Similarity", 2004 (SSIM); R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018 (LPIPS).
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["lpips", "luma", "mse", "psnr", "require_region", "ssim", "to_8bit"]


LUMA = (65.481, 128.553, 24.966)  # of R, G, B in [0, 1]; 16 is added


def to_8bit(image: Tensor) -> Tensor:
    """Round an image to 8 bits: the one rounding of everything here that speaks of 8-bit values.

    Values are multiplied by 255 in float32, on every device alike, and rounded to the nearest step;
    products in the middle of two steps go to the even one. So does BasicSR's `tensor2img`. The
    steps never decrease where values increase, so that rounding commutes with order statistics.

    Args:
        image: Any shape, floating; values beyond [0, 1] are clamped.

    Returns:
        Steps, whole numbers from 0 to 255 in float32, or NaN where the image has NaN; without a
        gradient.

    Example:
        >>> to_8bit(torch.tensor([-1.0, 0.5, 100 / 255, 2.0])).tolist()
        [0.0, 128.0, 100.0, 255.0]
    """
    return (image.detach().float() * 255).round_().clamp_(0, 255)


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
        ValueError: If shapes differ, or the crop leaves nothing, or y is asked of other than three
            channels.
    """
    first, second = _comparable(output, reference, border, y)
    return (first - second).square().mean(dim=(1, 2, 3))


def psnr(output: Tensor, reference: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Compute the peak signal-to-noise ratio of 8-bit images, per image, in dB; infinite for equal
    images.

    Takes and raises what `mse` does.

    Example:
        # 20 log10(255)
        >>> f"{psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1 / 255)).item():.4f}"
        '48.1308'
    """
    return -10 * torch.log10(mse(output, reference, border=border, y=y))


def ssim(output: Tensor, reference: Tensor, *, border: int = 0, y: bool = False) -> Tensor:
    """Compute the structural similarity of 8-bit images, per image: at most 1, which only equal
    images reach.

    An 11x11 Gaussian window of standard deviation 1.5, where it lies within the image; the mean
    over positions and channels. Takes what `mse` does.

    Returns:
        (B,), float64.

    Raises:
        ValueError: As `mse`, or if the crop leaves fewer than 11 pixels a side.

    Example:
        >>> black = torch.zeros(1, 3, 11, 11)
        >>> f"{ssim(black, black + 1).item():.6f}"  # c / (1 + c) with c = .01**2
        '0.000100'
    """
    first, second = (
        image.flatten(0, 1)[:, None] for image in _comparable(output, reference, border, y)
    )
    if min(first.shape[-2:]) < 11:
        raise ValueError(
            "ssim needs at least 11x11 pixels within the border, got "
            f"{first.shape[-2]}x{first.shape[-1]}"
        )
    window = torch.exp(
        -torch.arange(-5, 6, device=first.device, dtype=first.dtype).square() / (2 * 1.5**2)
    )
    window = window / window.sum()

    def local_mean(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))

    c1, c2 = 0.01**2, 0.03**2
    mean1, mean2 = local_mean(first), local_mean(second)
    variances = local_mean(first**2) - mean1**2 + local_mean(second**2) - mean2**2
    covariance = local_mean(first * second) - mean1 * mean2
    similarity = (
        (2 * mean1 * mean2 + c1)
        * (2 * covariance + c2)
        / ((mean1**2 + mean2**2 + c1) * (variances + c2))
    )
    return similarity.view(len(output), -1).mean(1)


def require_region(shape: Sequence[int], border: int, y: bool) -> None:
    """Require that an image (B,C,H,W) has pixels inside the border and, for luma, three channels.

    Raises:
        ValueError: If not.
    """
    if border < 0 or 2 * border >= min(shape[-2:]):
        raise ValueError(
            f"border must be at least 0 and leave some of {shape[-2]}x{shape[-1]} pixels, "
            f"got {border}"
        )
    if y and shape[1] != 3:
        raise ValueError(f"y=True needs three channels, got {shape[1]}")


def lpips(
    output: Tensor, reference: Tensor, *, weights: str | PathLike[str] | None = None
) -> Tensor:
    """Compute the learned perceptual distance (AlexNet, version 0.1), per image, with a gradient: 0
    for equal images.

    Args:
        output: (B,3,H,W) in [0, 1], clamped, not rounded; or (B,1,H,W), taken as gray. At least 32
            pixels a side.
        reference: The same shape and range.
        weights: File with the complete state dict of `lpips.LPIPS(net="alex")`. None lets the lpips
            package download AlexNet once.

    Returns:
        (B,), float32.

    Raises:
        ImportError: If the lpips package is missing.
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else, or shapes don't fit.
        OSError: If the download fails.
    """
    if (
        output.shape != reference.shape
        or output.ndim != 4
        or output.shape[1] not in (1, 3)
        or min(output.shape[-2:]) < 32
    ):
        raise ValueError(
            "lpips compares two (B,3,H,W) or (B,1,H,W) of at least 32x32 pixels, got "
            f"{(*output.shape,)} and {(*reference.shape,)}"
        )
    network = _perceptual_network(None if weights is None else fspath(weights), output.device)
    first, second = (
        image.float().clamp(0, 1).expand(-1, 3, -1, -1) for image in (output, reference)
    )
    return network(first, second, normalize=True).flatten()


@lru_cache
def _perceptual_network(weights: str | None, device: torch.device) -> nn.Module:
    try:
        from lpips import LPIPS
    except ImportError as error:
        raise ImportError(
            "the metric lpips needs the lpips package: pip install lpips torchvision"
        ) from error
    # The package draws its first weights from the global random state, warns through torchvision,
    # and reports its download.
    err, out = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        warnings.catch_warnings(),
        err,
        out,
    ):
        warnings.simplefilter("ignore")
        if weights is None:
            try:
                network = LPIPS(net="alex", verbose=False)
            except (OSError, RuntimeError) as error:
                raise OSError(
                    f"the lpips package could not download AlexNet ({error}): pass a file of "
                    "LPIPS weights"
                ) from error
        else:
            try:
                state = dict(torch.load(weights, map_location="cpu", weights_only=True))
                network = LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)
                network.load_state_dict(state)
            except OSError:
                raise
            except (
                Exception
            ) as error:  # torch and pickle raise many kinds for a file that is something else
                raise ValueError(
                    f'{weights} holds no complete state dict of lpips.LPIPS(net="alex")'
                ) from error
    return network.requires_grad_(False).to(device)


def _comparable(output: Tensor, reference: Tensor, border: int, y: bool) -> list[Tensor]:
    """Return both images cropped, rounded to 8 bits and, if asked for, as luma: (B,C,H,W) in [0,
    1], float64.
    """
    if output.shape != reference.shape or output.ndim != 4:
        raise ValueError(
            f"output and reference must both be (B,C,H,W), got {(*output.shape,)} and "
            f"{(*reference.shape,)}"
        )
    require_region(output.shape, border, y)
    rows = slice(border, output.shape[-2] - border)
    columns = slice(border, output.shape[-1] - border)
    pair = [to_8bit(image[..., rows, columns]).double() / 255 for image in (output, reference)]
    return [luma(image) for image in pair] if y else pair
