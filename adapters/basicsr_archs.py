"""Any architecture that an installed BasicSR knows by name, extensions that the user imported
before included.
"""

import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .checkpoint import CheckpointError, State
from .fitted import Found, fill

__all__ = ["PIP", "build", "mend_torchvision"]

PIP = 'pip install "smoothsr[basicsr]" && pip install --no-build-isolation --no-deps basicsr'


def mend_torchvision() -> None:
    """Put back the one torchvision module that BasicSR 1.4.2 imports and that torchvision dropped
    in 0.17.
    """
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name):
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = ModuleType(name)
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module


def build(spec: str, states: Sequence[State], scale: int | None) -> Found:
    """Build the network that spec names, with the weights of a file.

    Args:
        spec: NAME, or NAME{...} with the options in JSON, as under network_g in BasicSR's YAML.
        states: The file's state dict under several readings of its keys.
        scale: Taken from a trial run where None.

    Raises:
        CheckpointError: If the weights are not that network's.
        ValueError: If there is no such network, or the options are not JSON or not its options.
        ImportError: If basicsr is not installed.
    """
    match = re.fullmatch(r"(\w+)\s*(\{.*\})?", spec.strip(), re.DOTALL)
    if match is None:
        raise ValueError(
            f'arch must be basicsr:NAME or basicsr:NAME{{"option": value}}, got basicsr:{spec}'
        )
    name = match[1]
    try:
        options: dict[str, Any] = json.loads(match[2] or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"the options of basicsr:{name} must be JSON: {error}") from None
    architecture = _architecture(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about the code of the architectures, which is nothing that a user could mend
            network = architecture(**options)
    except Exception as error:  # each architecture checks its options in its own way
        raise ValueError(
            f"basicsr:{name} can't be built with {options}: {type(error).__name__} {error}"
        ) from error
    fill(network, states, f"basicsr:{name}")
    channels = next(
        (
            options[key]
            for key in ("num_in_ch", "in_chans", "in_channels", "in_nc")
            if key in options
        ),
        3,
    )
    measured, multiple = _try_sides(network.eval(), name, channels, options.get("window_size", 1))
    if scale not in (None, measured):
        raise CheckpointError(f"basicsr:{name} with {options} enlarges x{measured}, not x{scale}")
    return Found(
        network, f"BasicSR {name}", measured, channels, multiple_of=multiple, overwrites=True
    )


def _architecture(name: str) -> type[nn.Module]:
    try:
        mend_torchvision()
        import basicsr.archs  # noqa: F401  fills the registry
        from basicsr.utils.registry import ARCH_REGISTRY
    except ImportError as error:
        raise ImportError(f"basicsr:{name} needs the package basicsr ({error}): {PIP}") from error
    for registered in (
        name,
        f"{name}_basicsr",
    ):  # the second is how BasicSR renames those that other packages define too
        if registered in ARCH_REGISTRY:
            return ARCH_REGISTRY.get(registered)
    raise ValueError(
        f"basicsr has no architecture {name}; it has {', '.join(sorted(ARCH_REGISTRY.keys()))}"
    )


@torch.no_grad()
def _try_sides(network: nn.Module, name: str, channels: int, window: int) -> tuple[int, int]:
    """Find out the scale, and the least number whose multiples the network takes as sides."""
    reason = ""
    for multiple in sorted({1, 2, 4, 8, 16, 32, 64, window}):
        side = multiple * (16 // multiple + 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                enlarged = network(torch.full((1, channels, side, side), 0.5)).shape[-1]
        except (
            Exception
        ) as error:  # whatever a network raises that wants other sides, or is none for images
            reason = f"{type(error).__name__} {' '.join(str(error).split())[:160]}"
            continue
        if (
            enlarged % side == 0
        ):  # a network that halves and doubles makes 16 pixels of 17, without complaint
            return enlarged // side, multiple
        reason = f"{enlarged} pixels of {side}"
    raise CheckpointError(
        f"basicsr:{name} maps no image of {channels} channels to an enlarged one ({reason})"
    )
