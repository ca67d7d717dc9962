"""The architectures that the package resselt knows by their keys and spandrel does not: FIGSR,
GateR, RTMoSR, MoSRv2, EIMN and so on.
"""

import warnings

from .checkpoint import CheckpointError, State
from .fitted import ANOTHER, Found
from .probe import find_sides

__all__ = ["detect"]


def detect(state: State, scale: int | None) -> Found | None:  # noqa: ARG001  its shapes tell it
    """Build the network that resselt sees in a state dict; None if it sees none.

    Args:
        state: Keys without a wrapper's prefix.
        scale: What the user named, which `load` holds the network's against.

    Raises:
        CheckpointError: If resselt can't build what it sees, or it is no image-to-image network.
        ImportError: If resselt is not installed.
    """
    try:
        import resselt
        from resselt.registry import ArchitectureNotFound
    except ImportError as error:
        raise ImportError(
            "resselt knows more, such as RTMoSR and EIMN: pip install resselt einops"
        ) from error

    try:
        with warnings.catch_warnings():
            # About the code of the architectures, which is nothing that a user could mend.
            warnings.simplefilter("ignore")
            network = resselt.load_from_state_dict(dict(state))
    except ArchitectureNotFound:
        return None
    except Exception as error:  # whatever the reading of hyper-parameters off odd shapes raises
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        raise CheckpointError(
            f"resselt knows its keys but can't build it: {reason}; pass {ANOTHER}"
        ) from error
    info = network.parameters_info
    if info.in_channels != info.out_channels:
        channels = f"{info.in_channels} channels to {info.out_channels}"
        raise CheckpointError(
            f"it is {info.name} from {channels}; only networks with as many out as in are supported"
        )
    name = f"resselt {info.name}"
    sides = find_sides(network.eval(), name, [info.in_channels])
    return Found(
        network, name, sides.scale, sides.channels, multiple_of=sides.multiple, overwrites=True
    )
