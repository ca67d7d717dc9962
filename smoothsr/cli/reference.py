"""The ground truth that an output is compared with."""

from pathlib import Path

from torch import Tensor

from smoothsr.cli.errors import UserError
from smoothsr.files import images
from smoothsr.files.images import Picture

__all__ = ["read_reference"]


def read_reference(path: Path | None, picture: Picture, scale: int) -> Tensor | None:
    """Read the ground truth (1,C,s*h,s*w) of a picture's output, if there is one.

    Raises:
        UserError: If it is of another size or number of channels than the output.
    """
    if path is None:
        return None
    pixels = images.read(path).pixels
    _, channels, height, width = picture.pixels.shape
    if pixels.shape != (1, channels, scale * height, scale * width):
        raise UserError(
            f"{path} is {pixels.shape[3]}x{pixels.shape[2]} pixels, {pixels.shape[1]} channels; "
            f"the output has {scale * width}x{scale * height} pixels, {channels} channels"
        )
    return pixels
