"""A trial run of a network that was just loaded: what comes out must be the enlargement that its
file promised.

The input is two smooth images of mean 0.5. Any network for super-resolution keeps that mean, unless
it is given values in another range than it was trained for.
"""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from .checkpoint import CheckpointError
from .fitted import Found, fit

__all__ = ["check", "doubt"]


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


def doubt(found: Found) -> str | None:
    """Say in one sentence why the network looks like one for another range of values; None if it
    doesn't.

    A network that is given values 255 times too small sees a black image. Its usual small error
    there is 255 times too large.
    """
    lr = _images(found)[:1]
    sr = _run(found, lr)
    if _shift(sr) < 0.25:
        return None
    result = f"{found.name} turns a mean of 0.5 into one of {sr.mean().item():.3g}"
    other = 255 if found.value_range == 1 else 1
    if _shift(_run(replace(found, value_range=float(other)), lr)) < _shift(sr) / 4:
        return (
            f"{result}: it looks like a network for values up to {other}; pass "
            f"value_range={other} if it is"
        )
    if not -1 < sr.mean() < 2:
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
        warnings.simplefilter(
            "ignore"
        )  # about the code of the architectures, which is nothing that a user could mend
        return fit(found)(lr)


def _shift(sr: Tensor) -> float:
    return (sr.mean((0, 2, 3)) - 0.5).abs().max().item()
