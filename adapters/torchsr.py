"""Networks of the package torchSR: NinaSR, CARN, RCAN, RDN and VDSR by the keys of a file, and all
of its names.

Reference: G. Gouvine, "NinaSR: efficient small and large convnets for super-resolution",
https://github.com/Coloquinte/torchSR
"""

import re
from collections.abc import Sequence
from importlib import import_module
from math import isqrt
from typing import Any, NamedTuple

from torch import nn

from .checkpoint import CheckpointError, State
from .fitted import Found, fill

__all__ = ["NAMES", "build", "detect", "pretrained"]

NAMES = (
    "carn",
    "carn_m",
    "edsr",
    "edsr_baseline",
    "ninasr_b0",
    "ninasr_b1",
    "ninasr_b2",
    "rcan",
    "rdn",
    "vdsr",
)


class Recipe(NamedTuple):
    """A class in one of torchSR's modules, and its arguments."""

    module: str
    kind: str
    options: dict[str, Any]


def detect(state: State, scale: int | None) -> Found | None:
    """Build the network of a torchSR state dict; None if it is another's.

    Args:
        state: Keys without a wrapper's prefix.
        scale: Needed for CARN and VDSR alone, whose files are for several scales.

    Raises:
        CheckpointError: If the scale is needed and None, or the shapes don't fit together.
        ImportError: If torchsr is needed and not installed.
    """
    recipe = _recognize(state)
    if recipe is None:
        return None
    module = _installed(recipe.module, recipe.kind)
    options = {**recipe.options, "scale": recipe.options["scale"] or _needed(recipe.kind, scale)}
    name = f"torchSR {recipe.kind}"
    return _found(
        fill(getattr(module, recipe.kind)(**options), [state], name), name, options["scale"]
    )


def build(spec: str, states: Sequence[State], scale: int | None) -> Found:
    """Build the network that spec names, with the weights of a file.

    Args:
        spec: NAME or NAME@xSCALE.
        states: The file's state dict under several readings of its keys.
        scale: Of a network whose name and file don't tell.

    Raises:
        CheckpointError: If the weights are not that network's, or the scale is needed and None.
        ValueError: If there is no such network.
        ImportError: If torchsr is not installed.
    """
    name, scale = _parse(spec, scale)
    if scale is None:
        recipes = [recipe for state in states if (recipe := _recognize(state))]
        scale = recipes[0].options["scale"] if recipes else None
    scale = _needed(name, scale)
    network = getattr(_installed(None, name), name)(scale=scale, pretrained=False)
    return _found(fill(network, states, f"torchsr:{name}"), f"torchSR {name}", scale)


def pretrained(spec: str, scale: int | None) -> Found:
    """Build the network that spec names, with the weights that torchSR publishes.

    They are downloaded once.

    Args:
        spec: NAME or NAME@xSCALE.
        scale: Where spec has none.

    Raises:
        CheckpointError: If there are none, or they can't be had.
        ValueError: If there is no such network.
        ImportError: If torchsr is not installed.
    """
    name, scale = _parse(spec, scale)
    scale = _needed(name, scale)
    models = _installed(None, name)
    try:
        network = getattr(models, name)(scale=scale, pretrained=True)
    except Exception as error:  # no such file, no network, a broken download
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"torchSR's weights for {name} x{scale} can't be had ({reason}); pass a file of "
            f"them and arch='torchsr:{name}@x{scale}'"
        ) from error
    return _found(network, f"torchSR {name}", scale)


class Shapes:
    """What a state dict's keys and shapes tell.

    Args:
        state: Keys without a wrapper's prefix.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def has(self, *keys: str) -> bool:
        """Whether there is a weight of each of these names."""
        return all(f"{key}.weight" in self.state for key in keys)

    def outputs(self, key: str) -> int:
        """How many channels a layer makes."""
        return self.state[f"{key}.weight"].shape[0]

    def count(self, pattern: str) -> int:
        """How many different indices stand at the pattern's group."""
        return len({match[1] for key in self.state if (match := re.match(pattern, key))})


def _recognize(state: State) -> Recipe | None:
    """Tell torchSR's architectures by keys that only they have, and read their hyper-parameters off
    the shapes.
    """
    recipes = (read(Shapes(state)) for read in (_carn, _rdn, _ninasr, _edsr, _rcan, _vdsr))
    return next((recipe for recipe in recipes if recipe), None)


def _carn(shapes: Shapes) -> Recipe | None:
    if not shapes.has("b1.c1.body.0", "upsample.up2.body.0", "upsample.up4.body.0"):
        return None
    return Recipe("carn", "CARNM" if shapes.has("b1.b1.body.4") else "CARN", {"scale": None})


def _rdn(shapes: Shapes) -> Recipe | None:
    first = "rdbs.0.layers.0.conv"
    if not shapes.has("sfe1", first, "rdbs.0.lff", "upscale.0", "output"):
        return None
    growth = shapes.outputs(first)
    last = shapes.outputs("upscale.0")
    options = {
        "scale": 4 if shapes.has("upscale.2") else isqrt(last // growth),
        "G0": shapes.outputs("sfe1"),
        "D": shapes.count(r"rdbs\.(\d+)\."),
        "C": shapes.count(r"rdbs\.0\.layers\.(\d+)\."),
        "G": growth,
    }
    return Recipe("rdn", "RDN", options)


def _ninasr(shapes: Shapes) -> Recipe | None:
    if not shapes.has("head.1", "body.0.body.2.body.1", "tail.0"):
        return None
    features = shapes.outputs("head.1")
    options = {
        "scale": isqrt(shapes.outputs("tail.0") // 3),
        "n_resblocks": shapes.count(r"body\.(\d+)\."),
        "n_feats": features,
        "expansion": shapes.outputs("body.0.body.0") / features,
    }
    return Recipe("ninasr", "NinaSR", options)


ATTENTION = "body.0.body.0.body.3.conv_du.0"  # a layer of RCAN's that EDSR has not


def _edsr(shapes: Shapes) -> Recipe | None:
    if not shapes.has("head.0", "tail.0.0", "tail.1", "sub_mean") or shapes.has(ATTENTION):
        return None
    features = shapes.outputs("head.0")
    options = {
        "scale": _shuffled(shapes, features),
        "n_feats": features,
        "n_resblocks": shapes.count(r"body\.(\d+)\.body\."),
        "res_scale": 0.1 if features == 256 else 1.0,
    }
    return Recipe("edsr", "EDSR", options)


def _rcan(shapes: Shapes) -> Recipe | None:
    if not shapes.has("head.0", "tail.0.0", "tail.1", "sub_mean", ATTENTION):
        return None
    features = shapes.outputs("head.0")
    options = {
        "scale": _shuffled(shapes, features),
        "n_feats": features,
        "n_resgroups": shapes.count(r"body\.(\d+)\.body\."),
        "n_resblocks": shapes.count(r"body\.0\.body\.(\d+)\.body\."),
        "reduction": features // shapes.outputs(ATTENTION),
    }
    return Recipe("rcan", "RCAN", options)


def _shuffled(shapes: Shapes, features: int) -> int:
    """The scale of one pixel shuffle by 3, or of several by 2."""
    if shapes.outputs("tail.0.0") == 9 * features:
        return 3
    return 2 ** shapes.count(r"tail\.0\.(\d+)\.")


def _vdsr(shapes: Shapes) -> Recipe | None:
    if not shapes.has("body.0", "body.2", "sub_mean", "add_mean"):
        return None
    options = {
        "scale": None,
        "n_resblocks": shapes.count(r"body\.(\d+)\."),
        "n_feats": shapes.outputs("body.0"),
        "pretrained": False,
    }
    return Recipe("vdsr", "VDSR", options)


def _parse(spec: str, scale: int | None) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\w+?)(?:@x(\d+))?", spec)
    if match is None or match[1] not in NAMES:
        raise ValueError(
            f"torchsr:{spec} must be torchsr:NAME or torchsr:NAME@xSCALE, with a NAME of "
            f"{', '.join(NAMES)}"
        )
    named = int(match[2]) if match[2] else None
    if named and scale and named != scale:
        raise ValueError(f"torchsr:{spec} contradicts scale={scale}")
    return match[1], named or scale


def _needed(name: str, scale: int | None) -> int:
    if scale is None:
        raise CheckpointError(
            f"nothing tells which scale {name} is for; pass scale=2, 3 or 4 (-s on the "
            "command line)"
        )
    return scale


def _found(network: nn.Module, name: str, scale: int) -> Found:
    # VDSR works in the units of its colour shift, which is part of the file; EDSR and RCAN bring
    # theirs to [0, 1] themselves.
    state = network.state_dict()
    wide = (
        "head.0.weight" not in state
        and "sub_mean.bias" in state
        and bool(state["sub_mean.bias"].abs().max() > 1)
    )
    return Found(network, name, scale, 3, value_range=255.0 if wide else 1.0)


def _installed(module: str | None, name: str) -> Any:
    # torchsr.models.edsr, the attribute, is a function; the module of that name is to be had by
    # import_module alone.
    try:
        return import_module(f"torchsr.models.{module}" if module else "torchsr.models")
    except ImportError as error:
        raise ImportError(f"{name} needs the package torchsr: pip install torchsr") from error
