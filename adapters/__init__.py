"""Existing super-resolution networks, ready for smoothing: one call for a name or a checkpoint
file.
"""

from .checkpoint import CheckpointError
from .gray import GrayAsRGB
from .loading import LoadedSR, available, load

__all__ = ["CheckpointError", "GrayAsRGB", "LoadedSR", "available", "load"]
