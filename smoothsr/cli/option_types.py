"""What the words of options mean: texts of the command line to numbers and names."""

import argparse
import re

from smoothsr.evaluation import numbers as written

__all__ = [
    "deviation",
    "deviations",
    "fixed_side",
    "integers",
    "number",
    "numbers",
    "side",
    "size",
    "words",
]


def side(text: str) -> int | str:
    """Parse the side of a tile: 64, 0 or auto."""
    return text if text == "auto" else int(text)


def fixed_side(text: str) -> int:
    """Parse the side of a tile that is part of a promise."""
    if text == "auto":
        raise argparse.ArgumentTypeError("must be a number here, such as 4: results depend on it")
    return int(text)


def size(text: str) -> float:
    """Parse 2GiB, 1.5G, 800MB: bytes.

    Example:
        >>> size("2GiB"), size("1.5 MB")
        (2147483648.0, 1500000.0)
    """
    found = re.fullmatch(r"([0-9.]+) *([KMGT])(i?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"must be such as 2GiB or 800MB, got {text!r}")
    base = 1024 if found[3] else 1000
    return float(number(found[1]) * base ** ("KMGT".index(found[2].upper()) + 1))


def number(text: str) -> float:
    """Parse 0.03 or 8/255."""
    try:
        return written.number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number such as 0.03 or 8/255, got {text!r}"
        ) from None


def deviation(text: str) -> float:
    """Parse a sigma."""
    value = number(text)
    if value > 1:
        raise argparse.ArgumentTypeError(
            f"{text} must be at most 1, since values are in [0, 1]: write 8/255, not 8"
        )
    return value


def deviations(text: str) -> list[float]:
    """Parse 0,0.02,8/255, all of them sigmas."""
    try:
        found = words(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers such as 0,0.02,8/255, got {text!r}"
        ) from None
    return [deviation(word) for word in found]


def words(text: str) -> list[str]:
    """Parse none,noise:0.03."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise ValueError(text)
    return list(dict.fromkeys(found))


def numbers(text: str) -> list[float]:
    """Parse 0,0.02,8/255."""
    return [number(word) for word in words(text)]


def integers(text: str) -> list[int]:
    """Parse 1,5,21."""
    return [int(word) for word in words(text)]
