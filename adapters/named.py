"""A network that the user names with its options, as NAME{nf=50, upscale=4}, and of which a trial
run tells the rest.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .checkpoint import CheckpointError, State
from .fitted import Found, fill
from .probe import find_sides

__all__ = ["assemble", "parse"]

# What architectures call the channels of their input.
CHANNELS = ("num_in_ch", "in_chans", "in_channels", "in_nc")


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Split NAME{options} into name and options; only literals are read, and nothing is run.

    Args:
        spec: NAME; or NAME{...} with the options as keywords of Python or as an object of JSON.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse("RFDN{nf=50, upscale=4}") == parse('RFDN{"nf": 50, "upscale": 4}')
        True
    """
    match = re.fullmatch(r"(\w+)\s*(\{.*\})?", spec.strip(), re.DOTALL)
    if match is None:
        raise ValueError(f"must be NAME or NAME{{option=value}}, got {spec}")
    text = match[2] or "{}"
    try:
        return match[1], json.loads(text)
    except json.JSONDecodeError:
        return match[1], _keywords(text)


def _keywords(text: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"dict({text[1:-1]})", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            named = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
            if None not in named:  # the name of an unpacked dictionary
                return {str(name): value for name, value in named.items()}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"options must be as in {{nf=50, upscale=4}} or JSON, got {text}")


def assemble(
    architecture: Callable[..., nn.Module],
    options: dict[str, Any],
    states: Sequence[State],
    scale: int | None,
    label: str,
) -> Found:
    """Build a network by its options, fill it, and find out its scale and the sides it wants.

    Args:
        architecture: The network's class, or what makes one.
        options: Its keyword arguments.
        states: The file's state dict under several readings of its keys.
        scale: Checked against the trial run, unless None.
        label: The network's name in errors.

    Raises:
        CheckpointError: If the weights are not that network's, it maps no image to an enlarged one,
            or enlarges by another scale.
        ValueError: If the options are not its options.
    """
    try:
        with warnings.catch_warnings():
            # About the code of the architectures, which is nothing that a user could mend.
            warnings.simplefilter("ignore")
            network = architecture(**options)
    except Exception as error:  # each architecture checks its options in its own way
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{label} can't be built with {options}: {type(error).__name__} {reason}"
        ) from error
    fill(network, states, label)
    channels = [options[key] for key in CHANNELS if key in options] or [3, 1]
    window = options.get("window_size")
    windows = [window] if isinstance(window, int) and window > 0 else []
    sides = find_sides(network.eval(), label, channels, windows)
    if scale not in (None, sides.scale):
        raise CheckpointError(f"{label} with {options} enlarges x{sides.scale}, not x{scale}")
    return Found(
        network, label, sides.scale, sides.channels, multiple_of=sides.multiple, overwrites=True
    )
