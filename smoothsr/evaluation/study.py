"""Scores of networks, bare and smoothed, on images under conditions, kept in a part file for each
image.

A score is a pure function of image, network, setting, condition, seed and kind of device, and is
stored under these. So a run that was killed, or that several machines share, ends with the scores
of one that ran through, and a later one with more rows or columns measures only what is missing.
(For the last bit of it, run under `torch.use_deterministic_algorithms(True)`, with as many
threads. And a setting's tile "auto" follows the memory that is free: tiles that it cuts an image
into change its scores by what is left at their seams, hundredths of a decibel; name a tile to
exclude that.)
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from smoothsr import __version__
from smoothsr.attacks.views import seed_of, serve
from smoothsr.evaluation.conditions import Condition
from smoothsr.evaluation.records import (
    NONE,
    Denoising,
    Image,
    Record,
    Row,
    Setting,
    statistic,
)
from smoothsr.evaluation.scores import METRICS, score
from smoothsr.files.atomic import replacing
from smoothsr.files.digests import digest, fingerprint
from smoothsr.smoothing import SmoothedSR

__all__ = ["Study"]

Scores = dict[str, dict[str, float]]
"""Of one image: {what was measured: {metric: value}}."""


@dataclass(frozen=True)
class Study:
    """Which scores are wanted, and the folder of their part files.

    Args:
        folder: Where the part files are; must exist when something is measured.
        models: Networks in eval mode by their names, all of one scale.
        settings: Each is applied to each network.
        conditions: What is done to the inputs.
        metrics: Of METRICS. Borders of `scale` pixels are cropped, but for LPIPS.
        agg: Of SmoothedSR.
        seed: Of attacks, degradations and serving noise; together with the image's name.
        lpips_weights: File for `metrics.lpips`.
        precision: Named in the part files, since scores depend on it; autocast is the caller's.
        antithetic: Of SmoothedSR.
        denoisers: By the names that settings call them.
        fits: Raises an error where a smoother's work on an input (1,C,h,w) would not fit.

    Raises:
        ValueError: If a metric is unknown, or a number of a setting is out of its range.
    """

    folder: Path
    models: Mapping[str, nn.Module]
    settings: Sequence[Setting]
    conditions: Sequence[Condition]
    metrics: Sequence[str]
    agg: str = "median"
    seed: int = 0
    lpips_weights: Path | None = None
    precision: str = "float32"
    antithetic: bool | None = None
    denoisers: Mapping[str, Denoising] = field(default_factory=lambda: {NONE: Denoising()})
    fits: Callable[[SmoothedSR, Tensor], object] = lambda _smoothed, _lr: None

    def __post_init__(self) -> None:
        """Refuse at once what would otherwise fail for every image."""
        if unknown := [metric for metric in self.metrics if metric not in METRICS]:
            raise ValueError(f"unknown metric {unknown[0]!r}: use {', '.join(METRICS)}")
        for network in self.models.values():
            for setting in self.settings:
                self._model(network, setting)

    @property
    def cells(self) -> int:
        """How many outputs are scored for each image."""
        return len(self.models) * len(self.settings) * len(self.conditions)

    def measure(self, image: Image, progress: Callable[[], object] = lambda: None) -> None:
        """Score an image wherever its part file doesn't yet, and store each score at once.

        Args:
            image: On the device of the networks.
            progress: Called after each of `cells`.

        Raises:
            ValueError: If an output has NaN or not HR's shape, or is too small for a metric.
        """
        pixels = digest([image.lr, image.hr])
        found = self._read(image.name).get(pixels, {})
        attacked: dict[tuple[str, str], Tensor] = {}
        for name, condition, setting in product(self.models, self.conditions, self.settings):
            key = self._key(name, setting, condition, image)
            if missing := self._missing(found.get(key, {})):
                output = self._output(image, name, condition, setting, attacked)
                scores = {
                    self._stored(metric): score(metric, output, image, self.lpips_weights)
                    for metric in missing
                }
                self._store(image.name, pixels, key, scores)
            progress()

    def _output(
        self,
        image: Image,
        name: str,
        condition: Condition,
        setting: Setting,
        attacked: dict[tuple[str, str], Tensor],
    ) -> Tensor:
        """Run a network as a setting says on what a condition makes of an image.

        Args:
            image: The image.
            name: The network's.
            condition: What is done to the input.
            setting: How the network is run.
            attacked: Inputs that were made before; an attack that knows no smoother is the same for
                every setting.

        Raises:
            ValueError: If the output has NaN.
        """
        model, seed = self._model(self.models[name], setting), seed_of(self.seed, image.name)
        if isinstance(model, SmoothedSR):
            self.fits(model, image.lr)
        made = (name, condition.text)
        if condition.adaptive or made not in attacked:
            attacked[made] = condition.apply(image.lr, image.hr, model, seed)
        return _served(model, attacked[made], seed, f"{name} gives NaN under {condition.text}")

    def records(self, image: Image) -> list[Record] | None:
        """Collect what is stored of an image, or None if it is not complete."""
        stored, found = self._read(image.name).get(digest([image.lr, image.hr]), {}), list[Record]()
        for name, setting, condition in product(self.models, self.settings, self.conditions):
            scores = stored.get(self._key(name, setting, condition, image), {})
            if self._missing(scores):
                return None
            wanted = {metric: scores[self._stored(metric)] for metric in self.metrics}
            found.append(Record(image.name, Row(name, *setting), condition.text, wanted))
        return found

    def _model(self, network: nn.Module, setting: Setting) -> nn.Module:
        return setting.apply(network, self.agg, self.antithetic, self.denoisers[setting.denoiser])

    def _missing(self, scores: Mapping[str, float]) -> list[str]:
        """The metrics that are not among the stored scores of an output."""
        return [metric for metric in self.metrics if self._stored(metric) not in scores]

    @cached_property
    def _weights(self) -> str:
        return (
            hashlib.sha256(self.lpips_weights.read_bytes()).hexdigest()[:16]
            if self.lpips_weights
            else "downloaded"
        )

    def _stored(self, metric: str) -> str:
        """Name a metric in part files: LPIPS with the digest of its weights."""
        return f"lpips {self._weights}" if metric == "lpips" else metric

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: fingerprint(network) for name, network in self.models.items()}

    def _key(self, name: str, setting: Setting, condition: Condition, image: Image) -> str:
        how: list[object] = []
        if setting.sigma:
            how = [statistic(self.agg, self.antithetic), *setting.stored]
            how += self.denoisers[setting.denoiser].stored
        where = [self.precision, image.lr.device.type]
        return json.dumps(
            [__version__, self._digests[name][:16], how, condition.text, self.seed, *where]
        )

    def _store(self, name: str, pixels: str, key: str, scores: Mapping[str, float]) -> None:
        whole = self._read(name)  # anew, since another run may have added to it
        whole.setdefault(pixels, {}).setdefault(key, {}).update(scores)
        with replacing(self.folder / f"{name}.json") as part:
            part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def _read(self, name: str) -> dict[str, Scores]:
        """Read the scores of each image that had this name, by the digest of its pixels."""
        path = self.folder / f"{name}.json"
        try:
            whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            sound = all(
                isinstance(values, dict) for scores in whole.values() for values in scores.values()
            )
        except (ValueError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(f"{path} holds no scores: delete it, and it will be measured again")
        return whole


@torch.no_grad()
def _served(model: nn.Module, lr: Tensor, seed: int, complaint: str) -> Tensor:
    """Run a model as it is served, with noise of the seed.

    Raises:
        ValueError: If the output has NaN.
    """
    output = serve(model, lr, seed_of(seed, "serving"))
    if output.isnan().any():
        raise ValueError(f"{complaint}: try another --precision")
    return output
