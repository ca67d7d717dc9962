"""What a smoother is given, checked at once: draws and statistic, module, numbers, images."""

import math

from torch import Tensor, nn

__all__ = ["rank_of", "require_image", "require_integer", "require_module", "settled_draws"]

DRAWS, PAIRED_DRAWS = 21, 6  # of a call, where nothing is said: independent ones, and in pairs


def settled_draws(n: int | None, agg: str, antithetic: bool | None) -> tuple[int, bool]:
    """Decide how many draws there are, and whether in pairs, where that was left open.

    Args:
        n: As for `SmoothedSR`.
        agg: As for `SmoothedSR`.
        antithetic: As for `SmoothedSR`.

    Raises:
        ValueError: If pairs are wanted of another statistic than the mean.

    Example:
        >>> settled_draws(None, "mean", None), settled_draws(None, "median", None)
        ((6, True), (21, False))
    """
    if antithetic not in (None, True, False):
        raise ValueError(f"antithetic must be True, False or None, got {antithetic!r}")
    paired = agg == "mean" if antithetic is None else bool(antithetic)
    if paired and agg != "mean":
        raise ValueError(
            f'antithetic pairs are for agg="mean", since ranks need independent draws; got {agg!r}'
        )
    if n is None:
        return (PAIRED_DRAWS if paired else DRAWS), paired
    return n, paired


def require_module(model: object) -> None:
    """Raise TypeError for what is no module, such as a loaded network with its name."""
    if not isinstance(model, nn.Module):
        inner = isinstance(getattr(model, "model", None), nn.Module)
        hint = (
            "pass its .model, or smoothsr.adapters.load(path).model"
            if inner
            else "pass a torch.nn.Module"
        )
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}: {hint}")


def require_integer(name: str, value: int | None, least: int) -> None:
    """Raise ValueError unless value is None or an integer of at least so much."""
    if value is not None and (value != int(value) or value < least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value}")


def rank_of(agg: str, n: int) -> int | None:
    """Find the rank that agg asks of n draws, None for the mean.

    Raises:
        ValueError: If agg is no statistic, or the median of an even n is asked for.

    Example:
        >>> rank_of("median", 21), rank_of("p10", 20), rank_of("mean", 6)
        (11, 2, None)
    """
    if agg == "mean":
        return None
    if agg == "median":
        if n % 2 == 0:
            raise ValueError(
                "n must be odd for the median, so that it is one of the draws, as the "
                f"certificate needs; got {n}"
            )
        return (n + 1) // 2
    try:
        percent = float(agg.removeprefix("p")) if agg.startswith("p") else math.nan
    except (ValueError, AttributeError):
        percent = math.nan
    if not 0 < percent < 100:
        raise ValueError(f'agg must be "median", "mean" or a percentile such as "p10", got {agg!r}')
    return max(1, math.ceil(percent * n / 100 - 1e-9))


def require_image(lr: Tensor) -> None:
    """Raise ValueError unless lr is floating, (B,C,h,w), not empty and about in [0, 1]."""
    if not isinstance(lr, Tensor) or lr.ndim != 4:
        raise ValueError(
            "lr must be a tensor (B,C,h,w), got "
            f"{(*getattr(lr, 'shape', ()),) or type(lr).__name__}"
        )
    if not lr.is_floating_point():
        raise ValueError(
            f"lr must be floating with values in [0, 1], got {lr.dtype}: divide 8-bit values by 255"
        )
    if lr.numel() == 0:
        raise ValueError(f"lr is empty: {(*lr.shape,)}")
    if not lr.isfinite().all():
        raise ValueError("lr has NaN or infinite values")
    if lr.detach().abs().max() > 8:
        raise ValueError(
            f"lr must have values in [0, 1], got up to {lr.detach().abs().max():g}: divide "
            "8-bit values by 255"
        )
