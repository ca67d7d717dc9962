"""What is certified of smoothed networks on images, kept in a certificate file for each image,
network and setting.

It goes on where it was, as `study.Study` does: a certificate that is there is not drawn again,
since the first draws count and no others.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from smoothsr import __version__, metrics
from smoothsr.certificates import storage
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.options import Norm, Predictor
from smoothsr.evaluation.records import (
    NONE,
    Denoising,
    Image,
    Record,
    Row,
    Setting,
    statistic,
)
from smoothsr.files.digests import digest
from smoothsr.smoothing import SmoothedSR

__all__ = ["CLEAN", "METRICS", "CertifiedStudy"]

CLEAN = "PSNR without an attack"
METRICS: dict[Predictor, str] = {
    "ideal": "ideal certified PSNR",
    "served": "served expected certified PSNR",
}


@dataclass(frozen=True)
class CertifiedStudy:
    """Which certificates are wanted, and the folder of their files.

    Args:
        folder: Where the certificates are; must exist when something is measured.
        models: Networks in eval mode by their names, all of one scale.
        digests: Of the networks, by the same names: what certificates are found again by.
        settings: Each is applied to each network; all are smoothed.
        radii: l2, in units of lr; a condition of the table each.
        linf: Likewise, of changes of every value.
        n_cert: Draws of a certificate.
        alpha: Failure probability of all candidates, models times settings, which share it.
        levels: Bounds stored for each value.
        agg: "median", or "mean", whose certificates hold a spectrum.
        predictor: Of what the certified PSNR speaks.
        precision: Named in the files, since certificates depend on it; autocast is the caller's.
        antithetic: Of SmoothedSR.
        denoisers: By the names that settings call them.
        side_by_side: Of SmoothedSR.
        fits: Raises an error where a smoother's work on an input (1,C,h,w) would not fit.

    Raises:
        ValueError: If an option is out of its range.
    """

    folder: Path
    models: Mapping[str, nn.Module]
    digests: Mapping[str, str]
    settings: Sequence[Setting]
    radii: Sequence[float]
    linf: Sequence[float] = ()
    n_cert: int = 1000
    alpha: float = 1e-3
    levels: int = 32
    agg: str = "median"
    predictor: Predictor = "ideal"
    precision: str = "float32"
    antithetic: bool | None = None
    denoisers: Mapping[str, Denoising] = field(default_factory=lambda: {NONE: Denoising()})
    side_by_side: bool = False
    fits: Callable[[SmoothedSR, Tensor], object] = lambda _smoothed, _lr: None

    @property
    def cells(self) -> int:
        """How many certificates there are for each image."""
        return len(self.models) * len(self.settings)

    @property
    def share(self) -> float:
        """The failure probability of one certificate."""
        return self.alpha / self.cells

    def measure(self, image: Image, progress: Callable[[], object] = lambda: None) -> None:
        """Make the certificates of an image that are not there yet.

        Args:
            image: On the device of the networks.
            progress: Called after each of `cells`.
        """
        for name, setting in product(self.models, self.settings):
            file = self._file(image, name, setting)
            if not _is_whole(file):
                smoothed = self._smoothed(name, setting)
                self.fits(smoothed, image.lr)
                certificate = smoothed.certify(
                    image.lr, n=self.n_cert, alpha=self.share, levels=self.levels
                )
                certificate.save(file)
            progress()

    def records(self, image: Image) -> list[Record] | None:
        """Collect what the certificates of an image say at each radius, or None if one is not
        there.
        """
        files = {
            Row(name, *setting): self._file(image, name, setting)
            for name, setting in product(self.models, self.settings)
        }
        if not all(file.exists() for file in files.values()):
            return None
        return [
            record
            for row, file in files.items()
            for record in self._at_each_radius(image, row, Certificate.load(file))
        ]

    def _at_each_radius(self, image: Image, row: Row, certificate: Certificate) -> list[Record]:
        """PSNR to the ground truth, certified and without an attack, and that of stability."""
        metric, found = METRICS[self.predictor], []
        clean = metrics.psnr(certificate.sr, image.hr.cpu()).item()
        conditions: list[tuple[str, Norm, float]] = [
            *((f"l2 {radius:g}", "l2", radius) for radius in self.radii),
            *((f"linf {radius * 255:g}/255", "linf", radius) for radius in self.linf),
        ]
        for condition, norm, radius in conditions:
            ask = partial(certificate.psnr, radius, predictor=self.predictor, norm=norm)
            scores = {
                metric: ask(image.hr),
                f"{metric} to its own output": ask(),
                CLEAN: clean,
            }
            found.append(Record(image.name, row, condition, scores))
        return found

    def _smoothed(self, name: str, setting: Setting) -> SmoothedSR:
        denoising = self.denoisers[setting.denoiser]
        how = (self.agg, self.antithetic, denoising, self.side_by_side)
        return setting.smoothed(self.models[name], *how)

    def _file(self, image: Image, name: str, setting: Setting) -> Path:
        what: list[object] = [__version__, self.digests[name], digest([image.lr]), *setting.stored]
        what += [statistic(self.agg, self.antithetic), self.n_cert, self.share, self.levels]
        what += [self.precision, *self.denoisers[setting.denoiser].stored]
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        return self.folder / f"{image.name}_{key}.npz"


def _is_whole(file: Path) -> bool:
    """Tell whether a certificate is there; a broken file, from which nobody has read a certificate,
    is removed.
    """
    try:
        Certificate.load(file)
    except FileNotFoundError:
        return False
    except storage.UnreadableError:
        file.unlink()
        return False
    return True
