"""Numbers as users write them."""

import math

__all__ = ["number"]


def number(text: str) -> float:
    """Parse 0.03 or 8/255.

    Raises:
        ValueError: If text is no finite number.

    Example:
        >>> number("51/255")
        0.2
    """
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(text)
    except ZeroDivisionError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no finite number")
    return value
