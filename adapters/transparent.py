"""A module around a network that checkpoints can't tell from the network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["Transparent"]


class Transparent(nn.Module):
    """A module around one network whose state_dict is the network's, in both directions and
    wherever it is nested: keys, order and versions. Its other children are no part of it.

    Hooks rename the keys, and do so unconditionally: a network's own keys may begin with any word.
    Nested in another module, versions are saved but can't be handed on when loading: torch looks
    them up by the modules' own names.
    """

    inner = "network"
    """The name of the child that is the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.add_module(self.inner, network)
        self.register_state_dict_post_hook(_bare)
        self.register_load_state_dict_pre_hook(_wrapped)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict of the bare network, as the network itself does."""
        return self.get_submodule(self.inner).load_state_dict(state_dict, strict, assign)


def _bare(module: Transparent, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave only the network's own under the prefix, under the names that it has by itself."""
    inner = f"{prefix}{module.inner}"
    metadata = getattr(state, "_metadata", {})  # versions, under the modules' names
    for mapping in (state, metadata):
        own = {key: mapping.pop(key) for key in [*mapping] if f"{key}.".startswith(prefix)}
        for key, value in own.items():
            if key == inner:
                mapping[prefix[:-1]] = value
            elif key.startswith(f"{inner}."):
                mapping[prefix + key.removeprefix(f"{inner}.")] = value


def _wrapped(module: Transparent, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the bare network's keys the names that they have in the module, and what other children
    hold already.
    """
    own = {key: state.pop(key) for key in [*state] if key.startswith(prefix)}
    bare = {key.removeprefix(prefix): value for key, value in own.items()}
    state.update({f"{prefix}{module.inner}.{key}": value for key, value in bare.items()})
    for name, child in module.named_children():
        if name != module.inner:
            kept = child.state_dict()
            state.update({f"{prefix}{name}.{key}": value for key, value in kept.items()})
