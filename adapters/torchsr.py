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
    try:
        module = _installed(recipe.module, recipe.kind)
    except ImportError:
        if recipe.kind == "RCAN":
            return None  # spandrel knows it too
        raise
    options = {**recipe.options, "scale": recipe.options["scale"] or _needed(recipe.kind, scale)}
    name = f"torchSR {recipe.kind}"
    return _found(
        fill(getattr(module, recipe.kind)(**options), [state], name), name, options["scale"]
    )


def build(spec: str, states: Sequence[State], scale: int | None) -> Found:
    """Build the network that spec names (after `torchsr:`), with the weights of a file.

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
    """Build the network that spec names (after `torchsr:`), with the weights that torchSR
    publishes, which it downloads once.

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


def _recognize(state: State) -> Recipe | None:
    """Tell torchSR's architectures by keys that only they have, and read their hyper-parameters off
    the shapes.
    """

    def outputs(key: str) -> int:
        return state[f"{key}.weight"].shape[0]

    def count(pattern: str) -> int:
        return len({match[1] for key in state if (match := re.match(pattern, key))})

    def has(*keys: str) -> bool:
        return all(f"{key}.weight" in state for key in keys)

    if has("b1.c1.body.0", "upsample.up2.body.0", "upsample.up4.body.0"):
        return Recipe("carn", "CARNM" if has("b1.b1.body.4") else "CARN", {"scale": None})
    sizes: dict[str, Any]
    if has("sfe1", "rdbs.0.layers.0.conv", "rdbs.0.lff", "upscale.0", "output"):
        growth = outputs("rdbs.0.layers.0.conv")
        sizes = {
            "G0": outputs("sfe1"),
            "D": count(r"rdbs\.(\d+)\."),
            "C": count(r"rdbs\.0\.layers\.(\d+)\."),
            "G": growth,
        }
        return Recipe(
            "rdn",
            "RDN",
            {"scale": 4 if has("upscale.2") else isqrt(outputs("upscale.0") // growth), **sizes},
        )
    if has("head.1", "body.0.body.2.body.1", "tail.0"):
        features = outputs("head.1")
        sizes = {
            "n_resblocks": count(r"body\.(\d+)\."),
            "n_feats": features,
            "expansion": outputs("body.0.body.0") / features,
        }
        return Recipe("ninasr", "NinaSR", {"scale": isqrt(outputs("tail.0") // 3), **sizes})
    if has("head.0", "tail.0.0", "tail.1", "sub_mean"):
        features = outputs("head.0")
        sizes = {
            "n_feats": features,
            "scale": 3 if outputs("tail.0.0") == 9 * features else 2 ** count(r"tail\.0\.(\d+)\."),
        }
        blocks = count(r"body\.(\d+)\.body\.")
        if not has("body.0.body.0.body.3.conv_du.0"):
            return Recipe(
                "edsr",
                "EDSR",
                {"n_resblocks": blocks, "res_scale": 0.1 if features == 256 else 1.0, **sizes},
            )
        sizes |= {"n_resgroups": blocks, "n_resblocks": count(r"body\.0\.body\.(\d+)\.body\.")}
        return Recipe(
            "rcan",
            "RCAN",
            {"reduction": features // outputs("body.0.body.0.body.3.conv_du.0"), **sizes},
        )
    if has("body.0", "body.2", "sub_mean", "add_mean"):
        sizes = {
            "n_resblocks": count(r"body\.(\d+)\."),
            "n_feats": outputs("body.0"),
            "pretrained": False,
        }
        return Recipe("vdsr", "VDSR", {"scale": None, **sizes})
    return None


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
        raise ImportError(
            f'{name} needs the package torchsr: pip install "smoothsr[torchsr]"'
        ) from error
