"""Existing super-resolution networks, and denoisers, ready for smoothing: one call for a name or a
checkpoint file.
"""

from .checkpoint import CheckpointError
from .denoisers import LoadedDenoiser, load_denoiser
from .gray import GrayAsRGB
from .loading import LoadedSR, available, load

__all__ = [
    "CheckpointError",
    "GrayAsRGB",
    "LoadedDenoiser",
    "LoadedSR",
    "available",
    "load",
    "load_denoiser",
]
