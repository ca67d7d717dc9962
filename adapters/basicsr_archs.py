"""Any architecture that an installed BasicSR knows by name, extensions that the user imported
before included.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from torch import nn

from .checkpoint import State
from .fitted import Found
from .named import assemble, parse

__all__ = ["PIP", "build", "mend_torchvision"]

PIP = 'pip install ".[basicsr]" && pip install --no-build-isolation --no-deps basicsr'


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
        spec: NAME, or NAME{...} with the options as keywords or in JSON, those under network_g in
            BasicSR's YAML.
        states: The file's state dict under several readings of its keys.
        scale: Checked against the trial run, unless None.

    Raises:
        CheckpointError: If the weights are not that network's.
        ValueError: If there is no such network, or the options can't be read or are not its own.
        ImportError: If basicsr is not installed.
    """
    name, options = parse(spec)
    label = f"basicsr:{name}"
    found = assemble(_architecture(name), options, states, scale, label)
    return replace(found, name=f"BasicSR {name}")


def _architecture(name: str) -> type[nn.Module]:
    try:
        mend_torchvision()
        import basicsr.archs  # noqa: F401  fills the registry
        from basicsr.utils.registry import ARCH_REGISTRY
    except ImportError as error:
        raise ImportError(
            f"basicsr:{name} needs the package basicsr ({error}), in a clone of smoothsr: {PIP}"
        ) from error
    # The second is how BasicSR renames those that other packages define too.
    for registered in (name, f"{name}_basicsr"):
        if registered in ARCH_REGISTRY:
            return ARCH_REGISTRY.get(registered)
    raise ValueError(
        f"basicsr has no architecture {name}; it has {', '.join(sorted(ARCH_REGISTRY.keys()))}"
    )
