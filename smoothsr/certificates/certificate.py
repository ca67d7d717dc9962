"""Certificate: what certification draws have shown, from which every answer follows.

At each level z the certificate holds, for every output value, an upper bound of its Phi(z) quantile
and a lower bound of its Phi(-z) quantile. With probability at least 1 - alpha over the draws all of
them are right at once, and then so is everything derived here, whatever is asked and in whatever
order. Of the mean it may also hold a spectrum, which bounds the whole deviation of the output.
Reference and proofs: docs/certificates.md and docs/spectral.md; the mathematics is in
quantile_bounds.py and spectrum.py.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothsr.certificates import quantile_bounds, spectral_error, squared_error, storage
from smoothsr.certificates.evidence import levels_alpha, values_at_once
from smoothsr.certificates.levels import Levels
from smoothsr.certificates.options import (
    Agg,
    Kind,
    Method,
    Norm,
    Per,
    Predictor,
    Scope,
    require_option,
)
from smoothsr.certificates.spectrum import Spectrum
from smoothsr.engine.noise import sigma_text
from smoothsr.engine.tiles import Tile, grid, multiplicity
from smoothsr.metrics import LUMA, require_region, to_8bit

__all__ = ["Certificate", "as_image"]

ARRAYS = ("sr_bytes", "z", "mean")
STACKS = ("upper", "lower")
# Half an 8-bit step, and more than float32's rounding errors on either side of it
HALF_STEP = 0.5 + 2**-14
# PSNR in dB is given this much lower: more than the rounding errors of float64
PSNR_SLACK = 1e-9
STEPS = np.arange(256) / 255  # what users call k/255, in float64


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """The certified output of one image, made by `SmoothedSR.certify`. Radii are l2 norms on the LR
    image in [0, 1] units.

    Methods raise ValueError for an argument out of range, and for what this certificate can't speak
    of.
    """

    # uint8 (1,C,H,W): an output rounded to 8 bits; a served one for the median, and for the mean
    # that of all certification draws where there is a spectrum.
    sr_bytes: np.ndarray
    z: np.ndarray  # (G,): levels, from 0; empty where the draws supported none
    upper: np.ndarray  # uint8 (G,C,H,W): bounds of the Phi(z) quantiles from above
    lower: np.ndarray  # uint8 (G,C,H,W): bounds of the Phi(-z) quantiles from below
    mean: np.ndarray  # float32 (1,C,H,W): of the certification draws; empty without a spectrum
    spectrum: Spectrum | None  # bounds the deviation of the mean
    lr_shape: tuple[int, int, int]  # (C,h,w) of the input
    sigma: float  # noise standard deviation
    agg: Agg  # "median" or "mean"
    n_serve: int  # draws of one served inference
    antithetic: bool  # whether these come in pairs x + G, x - G; certification draws never do
    n_cert: int  # certification draws, of the last look alone
    alpha: float  # failure probability of the certificate, however many looks there were
    level_count: int  # G as it was asked for
    kind: Kind  # what was asked for: levels, a spectrum, or both, each at half of alpha
    scope: Scope  # "image" or "pixel"
    tile: int | None  # side of the output tiles in LR pixels
    halo: int  # LR pixels read beyond a tile
    halo_noise: float  # how many times sigma the noise is there
    # Whether the serving noise is fixed by a seed, which leaves claims about the ideal predictor
    # only
    seeded: bool
    void: bool  # whether the certification draws came from a given seed, which voids every claim
    # Whether input and noise are on a lattice, on which the guarantee holds for floats too, against
    # changes of the input by whole 8-bit steps
    lattice: bool
    dtype: str  # precision that the predictor ran in
    input_digest: str  # SHA-256 of the input
    weights_digest: str  # SHA-256 of the weights of network and denoiser
    denoiser_sigma: float | None = None  # what the denoiser is told; None without one
    # How many looks were planned, each at an equal share of alpha: the draws went on up to the
    # first that was enough. Older files are of one.
    looks: int = 1

    @property
    def sr(self) -> Tensor:
        """The output (1,C,H,W) in [0, 1], rounded to 8 bits.

        For the median it is a served one; for the mean, where there is a spectrum, the mean of all
        certification draws, which is closest to the ideal one.
        """
        return torch.from_numpy(self.sr_bytes).float() / 255

    @property
    def scale(self) -> int:
        """Ratio of output to input side."""
        return self.sr_bytes.shape[2] // self.lr_shape[1]

    @property
    def tiles(self) -> list[Tile]:
        """The grid, row by row."""
        return grid(self.lr_shape[1], self.lr_shape[2], self.tile, self.halo)

    @property
    def multiplicity(self) -> float:
        """M: the largest number of patches that one input pixel belongs to; those of which it is in
        the halo count by 1 over the square of halo_noise.
        """
        return multiplicity(self.tiles, self.halo_noise)

    @property
    def levels(self) -> Levels:
        """The bounds of quantiles that all else is looked up in."""
        return Levels(self.z, self.lower, self.upper, self.agg)

    @property
    def predictors(self) -> list[Predictor]:
        """The predictors of which it bounds every value, the one that users run first."""
        return ["ideal"] if self.seeded or self.agg == "mean" else ["served", "ideal"]

    @property
    def psnr_predictors(self) -> list[Predictor]:
        """The predictors of which `psnr` speaks, the one that users run first."""
        if self.agg == "mean" and self.spectrum and not self.seeded:
            return ["served", "ideal"]
        return self.predictors

    @property
    def max_radius(self) -> float:
        """The largest radius at which bounds of the ideal predictor are not trivial; negative if
        there is none.
        """
        return self.sigma * float(self.z[-1]) if self.z.size else -1.0

    @property
    def levels_alpha(self) -> float:
        """The failure probability at which the levels of this look were made."""
        return levels_alpha(self.alpha / self.looks, self.kind)

    @property
    def values(self) -> int:
        """How many output values hold at once: all of the image's, or one pixel's channels."""
        return values_at_once(self.scope, self.sr_bytes.shape[1:])

    def bounds(
        self,
        radius: float,
        predictor: Predictor = "served",
        beta: float = 1e-3,
        per: Per = "value",
        rounded: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Bound every output value against every attack within radius.

        Given the certificate's event (probability at least 1 - alpha over its draws), for every
        attack within radius: the ideal output lies inside; each value of each served inference does
        with probability at least 1 - beta; with per="image" the whole output of each inference does
        so.

        Args:
            radius: l2 norm of the attack.
            predictor: "served", the statistic of n_serve fresh draws, or "ideal", that of
                infinitely many.
            beta: Failure probability of one served inference, in (0, 1).
            per: "value" or "image": what beta speaks of.
            rounded: Whether the output is rounded to 8 bits; otherwise every bound is 1/510 wider,
                and by what float32 may round.

        Returns:
            (lower, upper), float32 (1,C,H,W); 0 and 1 where the draws support no better bound at
            this radius.

        Raises:
            ValueError: If an argument is out of its range, the predictor one that the certificate
                can't speak of, or per "image" where its scope is "pixel".
        """
        lower, upper = self.levels.interval(self.shift(radius, predictor, beta, per))
        margin = np.float32(0 if rounded else HALF_STEP)
        return as_image(lower - margin), as_image(upper + margin)

    def contains(
        self,
        output: Tensor,
        radius: float,
        predictor: Predictor = "served",
        beta: float = 1e-3,
        per: Per = "image",
    ) -> bool:
        """Tell whether an output (1,C,H,W) in [0, 1], rounded to 8 bits, lies inside the bounds
        everywhere.
        """
        self._require_image("contains")
        if output.shape != self.sr_bytes.shape:
            raise ValueError(f"output must be {self.sr_bytes.shape}, got {(*output.shape,)}")
        lower, upper = self.levels.interval(self.shift(radius, predictor, beta, per))
        steps = to_8bit(output)[0].cpu().numpy()
        return bool(((lower <= steps) & (steps <= upper)).all())

    def trivial_share(
        self, radius: float, predictor: Predictor = "served", beta: float = 1e-3, per: Per = "value"
    ) -> float:
        """Compute the share of values whose bounds are the whole range."""
        lower, upper = self.bounds(radius, predictor, beta, per)
        return float(((lower == 0) & (upper == 1)).float().mean())

    def psnr(
        self,
        radius: float,
        reference: Tensor | None = None,
        method: Method = "collective",
        predictor: Predictor = "served",
        norm: Norm = "l2",
        *,
        y: bool = False,
        border: int = 0,
    ) -> float:
        """Bound the PSNR of the 8-bit output from below, against every attack within radius.

        For the ideal predictor the bound is on the worst case; for the served one on the PSNR of
        the *expected* squared error over the serving noise, with no beta.

        Args:
            radius: Norm of the attack.
            reference: (1,C,H,W) in [0, 1], rounded to 8 bits. None asks for stability: the output
                is compared with this certificate's own, `sr`; that of a mean with a spectrum, where
                method is "collective", with the ideal mean without an attack.
            method: "collective" lets the tiles share one attacker's budget, and of the mean takes
                the better of spectrum and levels; "box" lets the attacker spend all of it
                everywhere, and looks at the levels alone.
            predictor: "served" or "ideal". Of a served mean in pairs, each pair counts as one draw.
            norm: "l2", or "linf", where "collective" gives each patch its own l2 radius and "box"
                the whole image's to all.
            y: Compare BT.601 luma, as papers do; needs three channels.
            border: Output pixels left out at each side.

        Returns:
            dB, rounded down; infinite where no attack changes an 8-bit value, 0 where nothing is
            certified.

        Raises:
            ValueError: If an argument is out of its range, reference of another shape or not
                finite, scope "pixel", or the predictor one that the certificate can't speak of.
        """
        return self.psnr_curve([radius], reference, method, predictor, norm, y=y, border=border)[0]

    def psnr_curve(
        self,
        radii: Sequence[float],
        reference: Tensor | None = None,
        method: Method = "collective",
        predictor: Predictor = "served",
        norm: Norm = "l2",
        *,
        y: bool = False,
        border: int = 0,
    ) -> list[float]:
        """Compute `psnr` at several radii, in little more time than at the largest alone.

        Args:
            radii: Norms of the attack, at least one, in any order.
            reference: As for `psnr`, like all that follow.
            method: Likewise.
            predictor: Likewise.
            norm: Likewise.
            y: Likewise.
            border: Likewise.

        Returns:
            dB at each radius, in their order.

        Raises:
            ValueError: As `psnr`, and if there is no radius.
        """
        self._require_image("psnr")
        if not len(radii):
            raise ValueError("radii must hold at least one radius")
        for radius in radii:
            self._require(radius, predictor)
        require_option("method", method, Method)
        require_option("norm", norm, Norm)
        require_region(self.sr_bytes.shape, border, y)
        comparison = squared_error.Comparison(self._steps("reference", reference), border, y)
        n_serve = self.n_serve if predictor == "served" else None
        shifts = [radius / self.sigma for radius in radii]
        budget = squared_error.Budget(norm, method, self.lr_shape[0], self.halo_noise)
        if self.agg == "mean" and self.spectrum and method == "collective":
            found = self._rms_of_mean(shifts, budget, comparison, n_serve, reference is None)
        elif self.agg == "mean" and n_serve is not None:
            raise ValueError(
                'levels bound no mean of few draws: ask for predictor="ideal", or certify with '
                'kind="both" and take method="collective"'
            )
        else:
            found = self._rms_by_levels(shifts, budget, comparison, n_serve)
        return [_decibels(rms) for rms in found]

    def deviation(self, radius: float, norm: Norm = "l2", *, y: bool = False) -> float:
        """Bound how far any attack within radius moves the ideal mean, over the whole output.

        It is the root mean square difference of the ideal mean under attack to that without,
        neither of them rounded; speaks of the mean also where agg is "median".

        Args:
            radius: Norm of the attack.
            norm: "l2" or "linf".
            y: Whether of BT.601 luma.

        Returns:
            In [0, 1] units, at most 1; multiply by 255 for 8-bit steps.

        Raises:
            ValueError: If radius is out of range, or there is no spectrum.
        """
        self._require(radius, "ideal")
        require_option("norm", norm, Norm)
        require_region(self.sr_bytes.shape, 0, y)
        spectrum = self._spectrum()
        within = self._within(radius / self.sigma, norm)
        compared = spectral_error.compared(self.sr_bytes.size // (3 if y else 1), y)
        return min(1.0, spectral_error.rms_error(spectrum, within, compared, None))

    def as_mean(self) -> "Certificate":
        """What the same draws say of the mean of the same network; needs a spectrum.

        Of a median's certificate it speaks of a mean in pairs, as means are served by default; this
        holds for one of as many independent draws all the more.
        """
        self._spectrum()
        output = to_8bit(torch.from_numpy(self.mean)).byte().numpy()
        paired = self.antithetic or self.agg == "median"
        return replace(self, agg="mean", sr_bytes=output, antithetic=paired)

    def radius_map(
        self,
        tolerance: float,
        predictor: Predictor = "served",
        beta: float = 1e-3,
        per: Per = "value",
        center: Tensor | None = None,
    ) -> Tensor:
        """Compute for each pixel the radius within which all its channels stay within tolerance of
        center.

        With tiles, it bounds the part of an attack that falls on the pixel's own patch: elsewhere
        attacks may be of any size.

        Args:
            tolerance: In [0, 1] units, such as 8/255, which is 8 steps; 8-bit outputs differ by
                whole steps, so that others are rounded down to them.
            predictor: "served" or "ideal".
            beta: Failure probability of one served inference.
            per: What beta speaks of: with "value" each pixel, all of whose channels stay with
                probability at least 1 - beta; with "image" all pixels at once.
            center: (1,C,H,W) in [0, 1], rounded to 8 bits; None is this certificate's own output,
                `sr`.

        Returns:
            float32 (H,W): the radius; NaN where the tolerance is not certified even without an
                attack.
        """
        self._require_image("radius_map")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}")
        used = self.shift(0.0, predictor, beta, per, together=self.sr_bytes.shape[1])
        middle = self._steps("center", center).astype(np.int16)
        # The largest number of steps that is no more than the tolerance: k/255 is k of them.
        reach = int(np.searchsorted(STEPS, tolerance, side="right")) - 1
        level = np.full(middle.shape, np.nan)
        for z in self.z:
            lower, upper = self.levels.interval(float(z))
            level[(upper <= middle + reach) & (lower >= middle - reach)] = z
        radius = self.sigma * (level - used)
        radius[radius < 0] = np.nan
        # Downwards, since float32 must not round a radius up.
        return torch.from_numpy(np.nextafter(radius.min(axis=0).astype(np.float32), np.float32(0)))

    def draws_needed(
        self, radius: float, predictor: Predictor = "served", beta: float = 1e-3, per: Per = "value"
    ) -> int:
        """Compute the smallest n of `certify` with which bounds at radius would not be trivial."""
        return quantile_bounds.draws_needed(
            self.shift(radius, predictor, beta, per),
            self.levels_alpha,
            self.level_count,
            self.values,
        )

    def rms(self, radius: float) -> float:
        """Express an l2 radius as the root mean square change of an LR value, in 8-bit steps."""
        return radius * 255 / float(np.sqrt(np.prod(self.lr_shape)))

    def summary(self) -> dict[str, Any]:
        """Describe in JSON's types what is certified and under which conditions."""
        return {
            **self._options(),
            "output_shape": [*self.sr_bytes.shape[1:]],
            "output_values": self.sr_bytes.size,
            "values_at_once": self.values,
            "multiplicity": self.multiplicity,
            "tiles": len(self.tiles),
            "levels": self.z.size,
            "max_radius": self.max_radius,
            "draws_needed_for_radius_0": self.draws_needed(0.0, "ideal"),
            "serving_noise": "seeded: claims about the ideal predictor only"
            if self.seeded
            else "fresh",
            "certification_noise": "seeded: VOID, nothing is claimed" if self.void else "fresh",
        }

    def __repr__(self) -> str:
        """Show what the certificate is about."""
        height, width = self.sr_bytes.shape[2:]
        radius = f"max_radius={self.max_radius:.4g}" if self.z.size else "trivial"
        radius += ", VOID" if self.void else ""
        pairs = " in pairs" if self.antithetic else ""
        looks = f" over {self.looks} looks" if self.looks > 1 else ""
        return (
            f"Certificate({width}x{height}, sigma={sigma_text(self.sigma)}, {self.agg} of "
            f"n_serve={self.n_serve}{pairs}, n_cert={self.n_cert}, "
            f"alpha={self.alpha:g}{looks}, scope={self.scope!r}, tile={self.tile}, "
            f"halo={self.halo}, {radius})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz, without pickle; a file that is there is replaced only when the new one is
        complete.
        """
        arrays, stacks = (
            {name: getattr(self, name) for name in names} for names in (ARRAYS, STACKS)
        )
        storage.write(path, self._options(), arrays, stacks)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Certificate":
        """Read what `save` wrote.

        Raises:
            OSError: If the file can't be read.
            ValueError: If it is no certificate, of another format version, or was changed.
        """
        options, arrays = storage.read(path, ARRAYS, STACKS)
        numbers = options["spectrum"]
        parts = {
            "spectrum": numbers and Spectrum(**numbers),
            "lr_shape": tuple(options["lr_shape"]),
        }
        found: dict[str, Any] = {**arrays, **options, **parts}
        return cls(**found)

    def _options(self) -> dict[str, Any]:
        names = [field.name for field in fields(self) if field.name not in (*ARRAYS, *STACKS)]
        options = {name: getattr(self, name) for name in names}
        return options | {"spectrum": self.spectrum and asdict(self.spectrum)}

    def _rms_by_levels(
        self,
        shifts: Sequence[float],
        budget: squared_error.Budget,
        comparison: squared_error.Comparison,
        n_serve: int | None,
    ) -> list[float]:
        squares = squared_error.mean_squared_errors(
            self.levels, self.tiles, shifts, budget, comparison, n_serve
        )
        return [math.sqrt(mean) for mean in squares]

    def _rms_of_mean(
        self,
        shifts: Sequence[float],
        budget: squared_error.Budget,
        comparison: squared_error.Comparison,
        n_serve: int | None,
        to_itself: bool,
    ) -> list[float]:
        """The better of both bounds on the mean's error; against the ideal mean if to_itself."""
        spectrum = self._spectrum()
        compared = spectral_error.compared(comparison.values, comparison.y)
        to_mean = _distance(self.mean, comparison)
        target = None if to_itself else to_mean
        draws = n_serve and spectral_error.independent_draws(n_serve, self.antithetic)

        def by_spectrum(shift: float) -> float:
            within = self._within(shift, budget.norm)
            rms = spectral_error.rms_error(spectrum, within, compared, target, draws)
            return rms + spectral_error.ROUNDING

        found = [by_spectrum(shift) for shift in shifts]
        if n_serve is not None or not self.z.size:
            return found
        by_levels = self._rms_by_levels(shifts, budget, comparison, None)
        # From this certificate's own output to the ideal mean
        beside = spectral_error.rms_to_ideal(spectrum, compared, to_mean) if to_itself else 0.0
        return [min(one, other + beside) for one, other in zip(found, by_levels, strict=True)]

    def _within(self, shift: float, norm: Norm) -> spectral_error.Attack:
        """What an attack of this norm, in units of sigma, can do to the tiles."""
        return spectral_error.attack(shift, norm, self.lr_shape[0], self.tiles, self.halo_noise)

    def _spectrum(self) -> Spectrum:
        if self.spectrum is None:
            raise ValueError(
                "this certificate holds levels only, which bound no whole deviation: certify with "
                'kind="both"'
            )
        return self.spectrum

    def _require(self, radius: float, predictor: Predictor) -> None:
        if not 0 <= radius < np.inf:
            raise ValueError(f"radius must be finite and at least 0, got {radius}")
        require_option("predictor", predictor, Predictor)
        if predictor == "served" and self.seeded:
            raise ValueError(
                "the smoother has a fixed seed, so there is no fresh noise to speak of: ask "
                'for predictor="ideal"'
            )

    def _require_image(self, what: str) -> None:
        if self.scope != "image":
            raise ValueError(
                f'{what} speaks of the whole image, but scope="pixel" of one pixel: certify '
                'with scope="image"'
            )

    def _steps(self, name: str, image: Tensor | None) -> np.ndarray:
        """An image like the output in 8-bit steps, uint8 (C,H,W): the output itself if it is
        None.
        """
        if image is None:
            return self.sr_bytes[0]
        if image.shape != self.sr_bytes.shape:
            raise ValueError(f"{name} must be {self.sr_bytes.shape}, got {(*image.shape,)}")
        if not image.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values")
        return to_8bit(image)[0].byte().cpu().numpy()

    def shift(
        self, radius: float, predictor: Predictor, beta: float, per: Per, together: int = 1
    ) -> float:
        """Compute the level, in units of z, at which bounds are to be looked up.

        Args:
            radius: l2 norm of the attack.
            predictor: As for `bounds`.
            beta: As for `bounds`.
            per: As for `bounds`.
            together: How many values beta speaks of at once where that is not the whole image.
        """
        self._require(radius, predictor)
        require_option("per", per, Per)
        if predictor == "served" and self.agg == "mean":
            raise ValueError(
                'values of a mean of few draws have no useful bounds: ask for predictor="ideal", '
                'or smooth by agg="median"'
            )
        if predictor == "ideal":
            return radius / self.sigma
        if not 0 < beta < 1:
            raise ValueError(f"beta must be between 0 and 1, got {beta}")
        if per == "image":
            self._require_image('per="image"')
        return radius / self.sigma + quantile_bounds.served_shift(
            self.n_serve, beta, self.sr_bytes.size if per == "image" else together
        )


def as_image(steps: np.ndarray) -> Tensor:
    """Turn 8-bit steps (C,H,W) into an image, float32 (1,C,H,W) in [0, 1]."""
    return torch.from_numpy(steps.astype(np.float32).clip(0, 255))[None] / 255


def _decibels(rms: float) -> float:
    """The PSNR of an error, rounded down.

    Raises:
        ArithmeticError: If the error is not a number.
    """
    if math.isnan(rms):
        raise ArithmeticError("the certified error is not a number: this is a bug of smoothsr")
    return max(0.0, -20 * math.log10(rms) - PSNR_SLACK) if rms > 0 else math.inf


def _distance(mean: np.ndarray, comparison: squared_error.Comparison) -> float:
    """The distance of a mean (1,C,H,W) to what it is compared with, as a root of summed squares."""
    border, (height, width) = comparison.border, mean.shape[2:]
    inside = (..., slice(border, height - border), slice(border, width - border))
    difference = mean[0].astype(np.float64) - comparison.reference / 255.0
    if comparison.y:
        difference = np.tensordot(np.array(LUMA) / 255, difference, axes=1)
    return float(np.linalg.norm(difference[inside]))
