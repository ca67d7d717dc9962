"""Trial runs of a network that was just loaded: what comes out must be the enlargement that its
file promised, and tells what the file doesn't.

For `check` and the range of values, the input is two smooth images of mean 0.5. Any network for
super-resolution keeps that mean, unless it is given values in another range than it was trained
for.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError
from .fitted import Found, fit

__all__ = ["Sides", "check", "find_sides", "likely_value_range", "range_warning"]

# Of what networks want sides to be multiples: windows, and the halvings of a U-Net.
MULTIPLES = (1, 2, 3, 4, 6, 7, 8, 12, 16, 24, 32, 48, 64)

# How far the mean of an output may lie from its input's before the range of values is in question.
LARGE_SHIFT = 0.25


class Sides(NamedTuple):
    """What a trial run tells of a network: output side over input side, the channels of both, and
    the least number whose multiples it takes as sides.
    """

    scale: int
    channels: int
    multiple: int


@torch.no_grad()
def find_sides(
    network: nn.Module, name: str, channels: Sequence[int], windows: Sequence[int] = ()
) -> Sides:
    """Run a network on plain images of one side after the other until one is enlarged.

    Args:
        network: In eval mode.
        name: Its name, for the error.
        channels: What it may take, the likeliest first.
        windows: More multiples to try than the usual ones.

    Raises:
        CheckpointError: If it enlarges none; tells the reason for the likeliest channels.
    """
    multiples = sorted({*MULTIPLES, *windows})
    reasons = []
    for count in channels:
        for multiple in multiples:
            lr = torch.full((1, count, *[telling_side(multiple, multiples)] * 2), 0.5)
            try:
                with warnings.catch_warnings():
                    # About the code of the architectures, which is nothing that a user could mend.
                    warnings.simplefilter("ignore")
                    sr = network(lr)
                return Sides(_enlargement(lr, sr), count, multiple)
            except CheckpointError as error:
                reason = str(error)
            except Exception as error:  # whatever a network raises that wants other sides
                reason = f"{type(error).__name__} {' '.join(str(error).split())[:160]}"
        reasons.append(reason)
    raise CheckpointError(
        f"{name} maps no image of {channels[0]} channels to an enlarged one ({reasons[0]})"
    )


def telling_side(multiple: int, multiples: Sequence[int]) -> int:
    """Find the least multiple from 17 on that is none of the other multiples, as far as can be: a
    network that takes an image of this side wants no more than that.

    Example:
        >>> [telling_side(each, MULTIPLES) for each in (1, 2, 3, 8, 12, 16)]
        [17, 22, 27, 40, 36, 80]
    """
    others = [other for other in multiples if multiple % other]
    side = multiple
    while side < 17 or any(side % other == 0 for other in others):
        side += multiple
    return side


def _enlargement(lr: Tensor, sr: Tensor) -> int:
    """The integer ratio of the sides, which must be one, of as many channels.

    A network that halves and doubles makes 16 pixels of 17, without complaint.
    """
    scale = sr.shape[-1] // lr.shape[-1]
    if scale < 1 or sr.shape != (*lr.shape[:2], *(scale * side for side in lr.shape[2:])):
        raise CheckpointError(f"it makes {(*sr.shape,)} of {(*lr.shape,)}")
    return scale


def check(found: Found) -> Found:
    """Run the network on one image, and on two at a time.

    Returns:
        found, with `singly` set if the second image changes what becomes of the first.

    Raises:
        CheckpointError: If the network fails, or its output has another size than its scale says,
            or isn't finite.
    """
    lr = _images(found)
    try:
        sr = _run(found, lr[:1])
    except Exception as error:  # any architecture, any reason
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{found.name} fails on a 16x16 image: {type(error).__name__} {reason}"
        ) from error
    expected = (1, found.channels, 16 * found.scale, 16 * found.scale)
    if sr.shape != expected:
        raise CheckpointError(
            f"{found.name} makes {(*sr.shape,)} of {(*lr[:1].shape,)}, where {expected} was "
            "expected"
        )
    if not sr.isfinite().all():
        raise CheckpointError(
            f"{found.name} makes values that are not finite of a plain image: its weights "
            "are damaged"
        )
    try:
        together = _run(found, lr)[:1]
        independent = together.shape == sr.shape and torch.allclose(together, sr, atol=1e-2)
    except Exception:  # made for one image at a time
        independent = False
    return replace(found, singly=not independent)


def likely_value_range(found: Found) -> float:
    """Tell from trial runs whether white is 1 or 255 to a network; found's own value where nothing
    speaks against it.

    A network that is given values 255 times too small sees a black image. Its usual small error
    there is 255 times too large.
    """
    lr = _images(found)[:1]
    other = replace(found, value_range=255.0 if found.value_range == 1 else 1.0)
    shift = _shift(_run(found, lr))
    is_other = shift >= LARGE_SHIFT and _shift(_run(other, lr)) < shift / 4
    return other.value_range if is_other else found.value_range


def range_warning(found: Found) -> str | None:
    """Say in one sentence why the network looks like one for another range of values; None if it
    doesn't.
    """
    sr = _run(found, _images(found)[:1])
    result = f"{found.name} turns a mean of 0.5 into one of {sr.mean().item():.3g}"
    likely = likely_value_range(found)
    if likely != found.value_range:
        return (
            f"{result}: it looks like a network for values up to {likely:g}; pass "
            f"value_range={likely:g} if it is"
        )
    if _shift(sr) >= LARGE_SHIFT and not -1 < sr.mean() < 2:
        return (
            f"{result}: it may be for another range of values, or another architecture than its "
            "keys say"
        )
    return None


def _images(found: Found) -> Tensor:
    """Make a brightness ramp and its mirror image, (2,C,16,16)."""
    weight = next(found.network.parameters())
    ramp = torch.linspace(0.3, 0.7, 16, device=weight.device).expand(found.channels, 16, 16)
    return torch.stack([ramp, ramp.flip(-1)])


@torch.no_grad()
def _run(found: Found, lr: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # About the code of the architectures, which is nothing that a user could mend.
        warnings.simplefilter("ignore")
        return fit(found)(lr)


def _shift(sr: Tensor) -> float:
    return (sr.mean((0, 2, 3)) - 0.5).abs().max().item()
