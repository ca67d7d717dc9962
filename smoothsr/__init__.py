"""Randomized smoothing with certificates for any super-resolution network in PyTorch.

from smoothsr import SmoothedSR
smoothed = SmoothedSR(network, sigma=0.03)
sr = smoothed(lr)                       # an output that small input changes do not break
certificate = smoothed.certify(lr)      # and how far that holds, provably
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothsr.certificates.certificate import Certificate as Certificate
    from smoothsr.smoothing import SmoothedSR as SmoothedSR

__version__ = "0.1.0"
__all__ = ["Certificate", "SmoothedSR", "__version__"]

_HOMES = {"Certificate": "smoothsr.certificates.certificate", "SmoothedSR": "smoothsr.smoothing"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import smoothsr` and `smoothsr --help` need no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'smoothsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
