"""The networks that come with the package, and every other file in their format,
SRVGGNetCompact's.
"""

import re
from math import isqrt
from pathlib import Path

from .checkpoint import CheckpointError, State
from .compact import Compact
from .fitted import Found, fill

__all__ = ["BUILTIN", "detect"]

# builtin is trained with noise on its input, as smoothing wants it; builtin-clean is the same
# without, for comparison; builtin-smooth goes on from that, for the mean of its noisy outputs.
BUILTIN = {
    name: Path(__file__).with_name("weights") / f"{name}.safetensors"
    for name in ("builtin", "builtin-clean", "builtin-smooth")
}


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  its shapes tell it
    """Build the network of a SRVGGNetCompact state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: What the user named, which `load` holds the network's against.

    Raises:
        CheckpointError: If it is one whose activation the file doesn't tell, or its shapes don't
            fit together.
    """
    if "body.0.weight" not in state or not all(
        re.fullmatch(r"body\.\d+\.(weight|bias)", key) for key in state
    ):
        return None
    last = max(int(key.split(".")[1]) for key in state)
    if last >= len(state):  # before a network of that length is built
        raise CheckpointError(
            f"its keys reach up to body.{last}, but it holds {len(state)} tensors only"
        )
    features, channels = state["body.0.weight"].shape[:2]
    ratio = isqrt(state.get(f"body.{last}.weight", state["body.0.weight"]).shape[0] // channels)
    convolutions = last // 2 - 1
    # PReLU is the only activation that stores anything.
    if "body.1.weight" not in state and convolutions >= 0:
        raise CheckpointError(
            "it is a SRVGGNetCompact with ReLU or leaky ReLU, and doesn't tell which; pass "
            "arch='basicsr:SRVGGNetCompact"
            f'{{"num_feat": {features}, "num_conv": {convolutions}, "upscale": {ratio}, '
            f'"act_type": "relu"}}\' (or "leakyrelu")'
        )
    name = f"SRVGGNetCompact ({features} features, {convolutions} convolutions)"
    network = fill(Compact(channels, features, convolutions, ratio), [state], name)
    return Found(network, name, ratio, channels)
