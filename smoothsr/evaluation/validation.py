"""Scores of a network while it is trained: bare, smoothed, and certified."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from smoothsr.attacks.views import serve
from smoothsr.evaluation.numbers import number
from smoothsr.evaluation.records import Image
from smoothsr.evaluation.scores import METRICS, score
from smoothsr.smoothing import SmoothedSR

__all__ = ["Validation"]

SIDE, TILE, HALO, HALO_NOISE = 24, 4, 1, 2.0  # of what is certified, in LR pixels
DRAWS = 200  # of its certificate


@dataclass(frozen=True)
class Validation:
    """What is measured of a network, always with the same noise.

    Args:
        images: What it is measured on.
        sigma: Of the smoothing.
        n: Its draws.
        agg: Its statistic.
        antithetic: Whether a mean is drawn in pairs.
        metrics: Of METRICS; or "certified:RADIUS", the PSNR of the ideal output under any change of
            values by up to RADIUS to what it is without (on the central 24x24 pixels, tile 4,
            halo 1 with doubled noise, 200 draws, alpha .001 for each image).
        lpips_weights: File of them.

    Raises:
        ValueError: If a metric is unknown.
    """

    images: Sequence[Image]
    sigma: float
    n: int
    agg: str
    antithetic: bool | None
    metrics: Sequence[str]
    lpips_weights: Path | None = None

    def __post_init__(self) -> None:
        """Refuse at once what would otherwise fail after hours."""
        for metric in self.metrics:
            if metric not in METRICS and not metric.startswith("certified:"):
                words = ", ".join([*METRICS, "certified:RADIUS"])
                raise ValueError(f"unknown metric {metric!r}: use {words}")
            self._radius(metric)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Score a network in eval mode: means over images, of what is bare and what is smoothed."""
        found: dict[str, list[float]] = {}
        for image in self.images:
            for name, value in self._scores(network, image).items():
                found.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}

    @torch.no_grad()
    def _scores(self, network: nn.Module, image: Image) -> dict[str, float]:
        smoothed = SmoothedSR(network, self.sigma, self.n, self.agg, antithetic=self.antithetic)
        outputs = {
            "smoothed": serve(smoothed, image.lr, 0),
            "bare": serve(network, image.lr, 0),
        }
        scores = {}
        for metric in self.metrics:
            radius = self._radius(metric)
            if radius is None:
                for name, output in outputs.items():
                    scores[f"{metric}, {name}"] = score(metric, output, image, self.lpips_weights)
            else:
                scores[metric] = self._certified(network, image.lr, radius)
        return scores

    def _certified(self, network: nn.Module, lr: Tensor, radius: float) -> float:
        top, left = (max(0, length - SIDE) // 2 for length in lr.shape[2:])
        crop = lr[..., top : top + SIDE, left : left + SIDE]
        smoothed = SmoothedSR(
            network,
            self.sigma,
            agg=self.agg,
            antithetic=self.antithetic,
            tile=TILE,
            halo=HALO,
            halo_noise=HALO_NOISE,
        )
        return smoothed.certify(crop, n=DRAWS).psnr(radius, predictor="ideal", norm="linf")

    def _radius(self, metric: str) -> float | None:
        """Return the radius of a certified metric; None for the others."""
        kind, found, text = metric.partition(":")
        if (kind, found) != ("certified", ":"):
            return None
        try:
            return number(text)
        except ValueError as error:
            raise ValueError(f"{metric!r} needs a radius, as in certified:1/255") from error
