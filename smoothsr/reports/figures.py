"""Pictures and maps as they are shown in figures, and how figures are written.

An image is shown with no more pixels than its place in a figure has: what is drawn would take a
hundred bytes for each pixel otherwise.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smoothsr.files.atomic import replacing
from smoothsr.metrics import to_8bit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["is_reduced", "save_figure", "show_map", "show_picture"]

LONGEST = 640  # pixels of a side that are shown


def save_figure(figure: "Figure", path: Path, dpi: int = 110) -> None:
    """Write a PNG."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=dpi)


def show_picture(axis: "Axes", image: Tensor, *, means: bool = True) -> None:
    """Show an image (1,C,H,W) in [0, 1], gray if it has one channel; where it has more pixels than
    are shown, their means, or the nearest of them.
    """
    sides, image = _sides(image), image.detach().float()
    reduced = (
        functional.adaptive_avg_pool2d(image, sides)
        if means
        else functional.interpolate(image, sides, mode="nearest-exact")
    )
    shown = to_8bit(reduced)
    array = shown[0].byte().cpu().permute(1, 2, 0).numpy()
    _show(axis, image, array if array.shape[2] == 3 else array[..., 0], "gray", 255)


def show_map(axis: "Axes", values: np.ndarray, colours: str, top: float, largest: bool) -> Any:
    """Show a map on a colour scale from 0; NaN is left bare.

    Args:
        axis: Where.
        values: (H,W), at least 0; where there are more than are shown, the worst of those that
            share a place stands for them, NaN before all others.
        colours: A colour map's name.
        top: The end of the scale.
        largest: Whether the largest value is the worst; else the smallest is.

    Returns:
        What a colour bar is made of.
    """
    image = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    sign = 1 if largest else -1
    worst = sign * functional.adaptive_max_pool2d(sign * image, _sides(image))
    return _show(axis, image, worst[0, 0].numpy(), colours, top)


def is_reduced(sides: tuple[int, int]) -> bool:
    """Whether of so many rows and columns not all are shown."""
    return max(sides) > LONGEST


def _sides(image: Tensor) -> tuple[int, int]:
    """Height and width as shown."""
    height, width = image.shape[2:]
    shrunk = max(1.0, max(height, width) / LONGEST)
    return max(1, round(height / shrunk)), max(1, round(width / shrunk))


def _show(axis: "Axes", image: Tensor, array: np.ndarray, colours: str, top: float) -> Any:
    """Show an array in the coordinates of the image (1,C,H,W) that it stands for, in a frame: a
    white picture without one would seem to be missing.
    """
    height, width = image.shape[2:]
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(
        array,
        cmap=colours,
        vmin=0,
        vmax=top,
        interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
