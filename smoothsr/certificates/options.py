"""What may be asked of a certificate, in words: each set of them once, for type checkers and for
the refusal of other words.
"""

from typing import Any, Literal, get_args

__all__ = ["Agg", "Kind", "Method", "Norm", "Per", "Predictor", "Scope", "require_option"]

Agg = Literal["median", "mean"]
"""The statistics that are certified; percentiles are only served."""
Predictor = Literal["served", "ideal"]
"""The statistic of few fresh draws, or that of infinitely many."""
Per = Literal["value", "image"]
"""What a failure probability speaks of: each output value, or all of them at once."""
Scope = Literal["image", "pixel"]
"""What a certificate holds for at once: all of its values, or those of one pixel chosen before."""
Method = Literal["collective", "box"]
"""Whether tiles share an attacker's budget, or each is hit by all of it."""
Norm = Literal["l2", "linf"]
Kind = Literal["levels", "spectral", "both"]
"""What is drawn for: bounds of every value, a bound of the mean's whole deviation, or both."""


def require_option(name: str, value: str, options: Any) -> None:
    """Require that a word is one of a Literal's.

    Raises:
        ValueError: If not, naming those that are.
    """
    if value not in get_args(options):
        allowed = ", ".join(map(repr, get_args(options)))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
