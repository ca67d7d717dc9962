"""What a study is about and what it finds: settings of a smoother, rows of a table, records of
scores.

On disk and in tables no tiles are written as tile 0, as on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from smoothsr.adapters.denoisers import Denoiser
from smoothsr.engine.arguments import settled_draws
from smoothsr.files.digests import fingerprint
from smoothsr.smoothing import SmoothedSR

__all__ = ["NONE", "Denoising", "Image", "Record", "Row", "Setting", "statistic"]

NONE = "none"  # the name of no denoiser

TileSide = int | Literal["auto"] | None


class Image(NamedTuple):
    """What is measured on: LR (1,C,h,w) and HR (1,C,s*h,s*w), in [0, 1]."""

    name: str
    lr: Tensor
    hr: Tensor


class Denoising(NamedTuple):
    """A denoiser, and what it is told where that is not the usual; or none."""

    module: Denoiser | None = None
    sigma: float | None = None

    @property
    def stored(self) -> list[str | float | None]:
        """What part files are named by."""
        return [fingerprint(self.module)[:16], self.sigma] if self.module else []


class Setting(NamedTuple):
    """How a network is run: bare where sigma is 0, or smoothed with n draws, in tiles unless tile
    is None; in tiles only where memory asks for them if it is "auto". Behind a denoiser that a
    study knows by this name.
    """

    sigma: float
    n: int = 1
    tile: TileSide = None
    halo: int = 0
    halo_noise: float = 1.0
    denoiser: str = NONE

    @classmethod
    def of(
        cls,
        sigma: float,
        n: int,
        tile: TileSide,
        halo: int,
        halo_noise: float = 1.0,
        denoiser: str = NONE,
    ) -> "Setting":
        """Make a setting without the numbers that it doesn't use; tile 0 is None."""
        if not sigma:
            return cls(0.0)
        around = (halo, halo_noise) if isinstance(tile, int) and tile else (0, 1.0)
        return cls(sigma, n, tile or None, *around, denoiser)

    @property
    def stored(self) -> list[float | int | str]:
        """The numbers as part files are named by, which must find those of earlier runs."""
        noise = [self.halo_noise] if self.halo_noise != 1 else []
        return [self.sigma, self.n, self.tile or 0, self.halo, *noise]

    def apply(
        self, network: nn.Module, agg: str, antithetic: bool | None, denoising: Denoising
    ) -> nn.Module:
        """Return the network itself where sigma is 0, else a SmoothedSR of it.

        Raises:
            ValueError: If an option is out of its range.
        """
        return self.smoothed(network, agg, antithetic, denoising) if self.sigma else network

    def smoothed(
        self,
        network: nn.Module,
        agg: str,
        antithetic: bool | None,
        denoising: Denoising,
        side_by_side: bool = False,
    ) -> SmoothedSR:
        """Return a SmoothedSR of the network.

        Raises:
            ValueError: If an option is out of its range, as sigma 0 is.
        """
        cut: dict[str, Any] = {"tile": self.tile, "halo": self.halo, "halo_noise": self.halo_noise}
        before: dict[str, Any] = {"denoiser": denoising.module, "denoiser_sigma": denoising.sigma}
        how: dict[str, Any] = {"antithetic": antithetic, "side_by_side": side_by_side}
        return SmoothedSR(network, self.sigma, self.n, agg, **how, **cut, **before)


def statistic(agg: str, antithetic: bool | None) -> str:
    """Name the statistic of draws, for tables and for part files.

    Example:
        >>> statistic("mean", None), statistic("mean", False), statistic("median", None)
        ('mean in pairs', 'mean', 'median')
    """
    return f"{agg} in pairs" if settled_draws(1, agg, antithetic)[1] else agg


class Row(NamedTuple):
    """A row of a table: a network and how it was run, as a Setting says."""

    model: str
    sigma: float
    n: int = 1
    tile: TileSide = None
    halo: int = 0
    halo_noise: float = 1.0
    denoiser: str = NONE

    def to_json(self) -> dict[str, Any]:
        """Return the row for files, where no tiles are tile 0."""
        return {**self._asdict(), "tile": self.tile or 0}


@dataclass(frozen=True)
class Record:
    """What one output scored.

    Args:
        image: The image's name.
        row: The network and how it was run.
        condition: What was done to the input, as `conditions.parse` takes it.
        scores: By metric; infinite where images are equal.
    """

    image: str
    row: Row
    condition: str
    scores: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in files."""
        place = {"image": self.image, **self.row.to_json(), "condition": self.condition}
        return {**place, "scores": dict(self.scores)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Record":
        """Make a record from what stands in a file, such as evaluate.json's "records".

        Example:
            >>> row = Row("net", 0.03, 21)
            >>> record = Record("bird", row, "none", {"psnr": 30.5})
            >>> Record.from_json(record.to_json()) == record
            True
        """
        numbers = {"halo_noise": 1.0, "denoiser": NONE, **found}  # which earlier files don't have
        numbers = {name: numbers[name] for name in Row._fields}
        row = Row(**{**numbers, "tile": found["tile"] or None})
        scores = {metric: float(score) for metric, score in found["scores"].items()}
        return cls(found["image"], row, found["condition"], scores)
