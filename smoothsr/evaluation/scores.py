"""The score of one output by one metric, with the conventions of papers."""

from pathlib import Path

import torch
from torch import Tensor

from smoothsr import metrics
from smoothsr.evaluation.records import Image

__all__ = ["METRICS", "score"]

METRICS = ("psnr", "psnr_y", "ssim", "ssim_y", "mse", "lpips")


def score(metric: str, output: Tensor, image: Image, lpips_weights: Path | None = None) -> float:
    """Score an output against HR; borders of `scale` pixels are cropped, but for LPIPS.

    Args:
        metric: Of METRICS.
        output: (1,C,s*h,s*w) in [0, 1].
        image: Whose HR it is held against.
        lpips_weights: File for `metrics.lpips`.

    Raises:
        ValueError: If the output has not HR's shape, or is too small for the metric.
    """
    if output.shape != image.hr.shape:
        raise ValueError(
            f"{image.name}: HR is {(*image.hr.shape,)}, the output {(*output.shape,)}: "
            "another scale?"
        )
    if metric == "lpips":  # not in the network's precision
        with torch.autocast(output.device.type, enabled=False):
            return metrics.lpips(output, image.hr, weights=lpips_weights).item()
    name, _, channel = metric.partition("_")
    pair = [picture.cpu() for picture in (output, image.hr)]  # for float64, which some lack
    if channel and output.shape[1] == 1:  # gray has the luma of a colour of equal channels
        pair = [picture.expand(-1, 3, -1, -1) for picture in pair]
    border = image.hr.shape[-1] // image.lr.shape[-1]
    found: float = getattr(metrics, name)(*pair, border=border, y=bool(channel)).item()
    return found
