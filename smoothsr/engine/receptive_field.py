"""How far around a tile a network must see for the tile's output to be that of the whole image.

The receptive field of a stack of convolutions is finite, and often much smaller in effect than on
paper. Others have none: statistics of the whole image reach everywhere, and windows lie elsewhere
in a patch than in the image. So it is found by trying: a small patch out of a larger image whose
surroundings are as different as can be, which is what tiles do to a network. Gradients would show
less: they know nothing of what the edge of a patch does, nor of large changes.
"""

import bisect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reach", "find_reach"]

MOST = 32  # the widest halo that is considered, in pixels
STEP = 4  # between halos that are tried
TILE = 8  # side of the tile that is tried
BEYOND = 17  # pixels that the image goes on beyond the widest halo; odd, so that no windows fit
TOLERANCE = 1 / 255  # an 8-bit step: no seam is to be seen
MARGIN = 4  # the halo must keep to a share of it, since one image is tried and not all


class Reach(NamedTuple):
    """What was found.

    Attributes:
        halo: The narrowest that does, or the widest that was tried.
        difference: The most that it lets an output value differ from the whole image's, in [0, 1].
    """

    halo: int
    difference: float

    @property
    def finite(self) -> bool:
        """Whether tiles with this halo show no seams."""
        return self.difference <= TOLERANCE


@torch.no_grad()
def find_reach(f: Callable[[Tensor], Tensor], like: Tensor) -> Reach:
    """Find the narrowest halo at which a tile's output is the whole image's, well within 1/255.

    Args:
        f: The base predictor, (1,C,h,w) to (1,C,s*h,s*w) in [0, 1].
        like: (1,C,h,w), whose channels, precision and device the images have that are tried.

    Example:
        >>> find_reach(torch.nn.AvgPool2d(11, 1, padding=5), torch.zeros(1, 1, 1, 1)).halo
        8
        >>> find_reach(lambda x: x - x.mean(), torch.zeros(1, 1, 1, 1)).finite
        False
    """
    edge = MOST + BEYOND
    image = _image(like, 2 * edge + TILE)
    whole = _middle(f(image), image)

    def difference(halo: int) -> float:
        kept = slice(edge - halo, edge + TILE + halo)
        patch = image[..., kept, kept].clone()
        return (_middle(f(patch), patch) - whole).abs().max().item()

    halos = range(STEP, MOST + 1, STEP)
    found = bisect.bisect_left(halos, True, key=lambda halo: difference(halo) <= TOLERANCE / MARGIN)
    halo = halos[min(found, len(halos) - 1)]
    return Reach(halo, difference(halo))


def _image(like: Tensor, side: int) -> Tensor:
    """A dark texture, as far as the widest halo sees, in a bright frame."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, like.shape[1], side // 4, side // 4, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.randn(texture.shape, generator=generator)
    image = 0.1 + 0.4 * texture + 0.03 * noise
    frame = torch.ones_like(image)
    inner = slice(BEYOND, side - BEYOND)
    frame[..., inner, inner] = image[..., inner, inner]
    return frame.to(like)


def _middle(output: Tensor, patch: Tensor) -> Tensor:
    """The output of the tile in the middle of a square patch."""
    side = patch.shape[-1]
    scale = output.shape[-1] // side
    start = scale * (side - TILE) // 2
    kept = slice(start, start + scale * TILE)
    return output[..., kept, kept]
