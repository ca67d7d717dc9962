"""Making networks better under smoothing."""

from smoothsr.training.noise import NoiseAugmentation

__all__ = ["NoiseAugmentation"]
