"""Plugin for BasicSR: importing it registers the architecture `SmoothedSR` and the models that
train for it.

Checked with BasicSR 1.4.2 and basicsr-fixed 1.4.2; see docs/basicsr.md. A project with a train.py
of its own imports this module at the top of it, before basicsr; others run `python -m
smoothsr.adapters.basicsr`.
"""

from smoothsr.adapters.basicsr_archs import PIP, mend_torchvision

try:
    # Here, since the workers of a data loader import this package before they unpickle anything of
    # BasicSR
    mend_torchvision()
    import basicsr  # noqa: F401
except ImportError as missing:
    raise ImportError(
        f"smoothsr.adapters.basicsr needs the package basicsr ({missing}), in a clone of "
        f"smoothsr: {PIP}"
    ) from missing

from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from smoothsr.adapters.basicsr.arch import SmoothedSR
from smoothsr.adapters.basicsr.model import SmoothedESRGANModel, SmoothedSRGANModel, SmoothedSRModel

__all__ = ["SmoothedESRGANModel", "SmoothedSR", "SmoothedSRGANModel", "SmoothedSRModel"]

for registry, member in (
    (ARCH_REGISTRY, SmoothedSR),
    (MODEL_REGISTRY, SmoothedSRModel),
    (MODEL_REGISTRY, SmoothedSRGANModel),
    (MODEL_REGISTRY, SmoothedESRGANModel),
):
    if member.__name__ not in registry:  # BasicSR asserts that nothing is registered twice
        registry.register(member)
