"""Certificate: what certification draws have shown, kept as levels from which every answer follows.

At each level z the certificate holds, for every output value, an upper bound of its Phi(z) quantile and a lower bound of its Phi(-z)
quantile. With probability at least 1 - alpha over the draws all of them are right at once, and then so is everything derived here,
whatever is asked and in whatever order. Reference and proofs: docs/certificates.md; the mathematics is in bounds.py.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from smoothsr import bounds, error_bounds
from smoothsr.tiles import Tile, grid, multiplicity

__all__ = ["Certificate", "digest", "precision"]

FORMAT = 1
ARRAYS = ("sr_bytes", "z", "upper", "lower")


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """The certified output of one image. Made by `SmoothedSR.certify`; radii are l2 norms on the LR image in [0, 1] units.

    Attributes:
        sr_bytes: uint8 (1,C,H,W), the served output rounded to 8 bits.
        z: (G,) levels, from 0; empty where the draws supported none.
        upper: uint8 (G,C,H,W), order statistics that bound the Phi(z) quantiles from above.
        lower: uint8 (G,C,H,W), order statistics that bound the Phi(-z) quantiles from below.
        lr_shape: (C,h,w) of the input.
        sigma: Noise standard deviation.
        agg: "median" or "mean".
        n_serve: Draws of one served inference.
        n_cert: Certification draws.
        alpha: Failure probability of the certificate.
        level_count: G as it was asked for.
        scope: "image" or "pixel".
        tile: Side of the output tiles in LR pixels, or None.
        halo: LR pixels read beyond a tile.
        seeded: Whether the smoother's serving noise is fixed by a seed, which leaves claims about the ideal predictor only.
        void: Whether the certification draws came from a given seed, which voids every claim.
        dtype: Precision that the predictor ran in.
        input_digest: SHA-256 of the input.
        weights_digest: SHA-256 of the network's weights.
    """

    sr_bytes: np.ndarray
    z: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    lr_shape: tuple[int, int, int]
    sigma: float
    agg: str
    n_serve: int
    n_cert: int
    alpha: float
    level_count: int
    scope: str
    tile: int | None
    halo: int
    seeded: bool
    void: bool
    dtype: str
    input_digest: str
    weights_digest: str

    @property
    def sr(self) -> Tensor:
        """The served output (1,C,H,W) in [0, 1], rounded to 8 bits."""
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
    def multiplicity(self) -> int:
        """M: the largest number of patches that one input pixel belongs to."""
        return multiplicity(self.tiles)

    @property
    def max_radius(self) -> float:
        """The largest radius at which bounds of the ideal predictor are not trivial; negative if there is none."""
        return self.sigma * float(self.z[-1]) if self.z.size else -1.0

    @property
    def values(self) -> int:
        """How many output values hold at once: all of the image's, or one pixel's channels."""
        return self.sr_bytes.size if self.scope == "image" else self.sr_bytes.shape[1]

    def bounds(
        self, radius: float, predictor: str = "served", beta: float = 1e-3, per: str = "value", rounded: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Bound every output value against every attack within radius.

        Given the certificate's event (probability at least 1 - alpha over its draws), for every attack within radius: the ideal output
        lies inside; each value of each served inference does with probability at least 1 - beta; with per="image" the whole output of
        each inference does so.

        Args:
            radius: l2 norm of the attack.
            predictor: "served", the statistic of n_serve fresh draws, or "ideal", that of infinitely many.
            beta: Failure probability of one served inference.
            per: "value" or "image": what beta speaks of.
            rounded: Whether the output is rounded to 8 bits; otherwise every bound is 1/510 wider.

        Returns:
            (lower, upper), float32 (1,C,H,W); 0 and 1 where the draws support no better bound at this radius.

        Raises:
            ValueError: If an argument is out of range, or this certificate can't speak of what is asked.
        """
        shift = self._shift(radius, predictor, beta, per)
        lower, upper = (array.astype(np.float32) for array in self._interval(shift))
        if self.agg == "mean":  # the draws were rounded, their mean was not: half a step each way, and another if it will be
            margin = 1.0 if rounded else 0.5
            lower, upper = lower - margin, upper + margin
            if rounded:
                lower, upper = np.ceil(lower - 1e-3), np.floor(upper + 1e-3)
        elif not rounded:
            lower, upper = lower - 0.5, upper + 0.5
        pair = (torch.from_numpy(array.clip(0, 255))[None] / 255 for array in (lower, upper))
        return next(pair), next(pair)

    def contains(self, output: Tensor, radius: float, predictor: str = "served", beta: float = 1e-3, per: str = "image") -> bool:
        """Tell whether an output (1,C,H,W) in [0, 1], rounded to 8 bits, lies inside the bounds everywhere."""
        self._require_image("contains")
        if output.shape != self.sr_bytes.shape:
            raise ValueError(f"output must be {self.sr_bytes.shape}, got {(*output.shape,)}")
        lower, upper = self.bounds(radius, predictor, beta, per)
        value = output.detach().cpu().float().clamp(0, 1).mul(255).round() / 255
        return bool(((lower <= value) & (value <= upper)).all())

    def trivial_share(self, radius: float, predictor: str = "served", beta: float = 1e-3, per: str = "value") -> float:
        """Compute the share of values whose bounds are the whole range."""
        lower, upper = self.bounds(radius, predictor, beta, per)
        return float(((lower == 0) & (upper == 1)).float().mean())

    def psnr(
        self,
        radius: float,
        reference: Tensor | None = None,
        method: str = "collective",
        predictor: str = "served",
        norm: str = "l2",
        *,
        y: bool = False,
        border: int = 0,
    ) -> float:
        """Bound the PSNR of the 8-bit output from below, against every attack within radius.

        For the ideal predictor the bound is on the worst case; for the served one on the PSNR of the *expected* squared error over the
        serving noise, with no beta.

        Args:
            radius: Norm of the attack.
            reference: (1,C,H,W) in [0, 1]; None is this certificate's own output, so that the bound speaks of stability.
            method: "collective" lets the tiles share one attacker's budget; "box" lets the attacker spend all of it everywhere.
            predictor: "served" or "ideal".
            norm: "l2", or "linf", where "collective" gives each patch its own l2 radius and "box" the whole image's to all.
            y: Compare BT.601 luma, as papers do; needs three channels.
            border: Output pixels left out at each side.

        Returns:
            dB.

        Raises:
            ValueError: If an argument is out of range, or this certificate can't speak of what is asked.
        """
        self._require_image("psnr")
        self._require(radius, predictor)
        _choose("method", method, "collective", "box")
        _choose("norm", norm, "l2", "linf")
        target = self.sr if reference is None else reference.detach().cpu().float()
        mse = error_bounds.mean_squared_error(self, radius, target, method, predictor == "served", norm, y, border)
        return float(-10 * np.log10(mse)) if mse > 0 else float("inf")

    def radius_map(
        self,
        tolerance: float,
        predictor: str = "served",
        beta: float = 1e-3,
        per: str = "value",
        center: Tensor | None = None,
    ) -> Tensor:
        """Compute for each pixel the radius within which all its channels stay within tolerance of center.

        With tiles, the radius bounds the part of an attack that falls on the pixel's own patch: attacks elsewhere may be of any size.

        Args:
            tolerance: In [0, 1] units, such as 8/255.
            predictor: "served" or "ideal".
            beta: As for `bounds`.
            per: As for `bounds`.
            center: (1,C,H,W) in [0, 1]; None is the served output.

        Returns:
            float32 (H,W): the radius; NaN where the tolerance is not certified even without an attack.
        """
        self._require_image("radius_map")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}")
        used = self._shift(0.0, predictor, beta, per)
        middle = (self.sr if center is None else center.detach().cpu().float())[0].numpy().astype(float) * 255
        reach = tolerance * 255 + 1e-4  # forgives the rounding error of k/255, far below the step of a byte
        level = np.full(middle.shape, np.nan)
        for index, z in enumerate(self.z):
            lower, upper = self._interval(float(z)) if self.agg == "mean" else (self.lower[index], self.upper[index])
            margin = 1.0 if self.agg == "mean" else 0.0
            level[(upper + margin <= middle + reach) & (lower - margin >= middle - reach)] = z
        radius = self.sigma * (level - used)
        # The level itself is claimed a little higher than stored, so a difference of rounding size is 0.
        radius[(radius < 0) & (radius > -self.sigma * bounds.SLACK / 2)] = 0
        radius[radius < 0] = np.nan
        return torch.from_numpy(radius.min(axis=0).astype(np.float32))

    def draws_needed(self, radius: float, predictor: str = "served", beta: float = 1e-3, per: str = "value") -> int:
        """Compute the smallest n of `certify` with which bounds at radius would not be trivial."""
        return bounds.draws_needed(self._shift(radius, predictor, beta, per), self.alpha, self.level_count, self.values)

    def rms(self, radius: float) -> float:
        """Express an l2 radius as the root mean square change of an LR value, in 8-bit steps."""
        return radius * 255 / float(np.sqrt(np.prod(self.lr_shape)))

    def summary(self) -> dict[str, Any]:
        """Describe in JSON's types what is certified and under which conditions."""
        options = {key: value for key, value in asdict_scalars(self).items() if key not in ("seeded", "void")}
        return {
            **options,
            "output_shape": [*self.sr_bytes.shape[1:]],
            "output_values": self.sr_bytes.size,
            "values_at_once": self.values,
            "multiplicity": self.multiplicity,
            "tiles": len(self.tiles),
            "levels": self.z.size,
            "max_radius": self.max_radius,
            "max_radius_rms_8bit": self.rms(self.max_radius),
            "draws_needed_for_radius_0": bounds.draws_needed(0.0, self.alpha, self.level_count, self.values),
            "serving_noise": "seeded: claims about the ideal predictor only" if self.seeded else "fresh",
            "certification_noise": "seeded: VOID, nothing is claimed" if self.void else "fresh",
        }

    def __repr__(self) -> str:
        """Show what the certificate is about."""
        height, width = self.sr_bytes.shape[2:]
        radius = f"max_radius={self.max_radius:.4g}" if self.z.size else "trivial"
        return (
            f"Certificate({width}x{height}, sigma={self.sigma:g}, {self.agg} of n_serve={self.n_serve}, n_cert={self.n_cert}, "
            f"alpha={self.alpha:g}, scope={self.scope!r}, tile={self.tile}, halo={self.halo}, {radius}{', VOID' if self.void else ''})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz, without pickle; a file that is there is replaced only when the new one is complete."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        arrays = {name: getattr(self, name) for name in ARRAYS}
        options = json.dumps({"format": FORMAT, **asdict_scalars(self)}, sort_keys=True)
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, options=np.array(options), digest=np.array(_content_digest(options, arrays)), **arrays)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Certificate":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is no certificate, of another format version, or was changed.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
                text, written = str(file["options"]), str(file["digest"])
            options = json.loads(text)
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise many kinds for a file that is something else
            raise ValueError(f"{path} is no certificate: {error}") from error
        if options.pop("format") != FORMAT:
            raise ValueError(f"{path} is a certificate of another format version than {FORMAT}: make it anew")
        if written != _content_digest(text, arrays):
            raise ValueError(f"{path} was changed after it was written: its digest does not fit")
        return cls(**arrays, **{**options, "lr_shape": tuple(options["lr_shape"])})

    def _require(self, radius: float, predictor: str) -> None:
        if not 0 <= radius < np.inf:
            raise ValueError(f"radius must be finite and at least 0, got {radius}")
        _choose("predictor", predictor, "served", "ideal")
        if predictor == "served" and self.seeded:
            raise ValueError('the smoother has a fixed seed, so there is no fresh noise to speak of: ask for predictor="ideal"')
        if predictor == "served" and self.agg == "mean":
            raise ValueError('a mean of few draws has no useful bound: ask for predictor="ideal", or smooth by agg="median"')

    def _require_image(self, what: str) -> None:
        if self.scope != "image":
            raise ValueError(f'{what} speaks of the whole image, scope="pixel" of one pixel chosen before: certify with scope="image"')

    def _shift(self, radius: float, predictor: str, beta: float, per: str) -> float:
        """The level, in units of z, at which bounds are to be looked up."""
        self._require(radius, predictor)
        _choose("per", per, "value", "image")
        if predictor == "ideal":
            return radius / self.sigma
        if not 0 < beta < 1:
            raise ValueError(f"beta must be between 0 and 1, got {beta}")
        if per == "image":
            self._require_image('per="image"')
        return radius / self.sigma + bounds.served_shift(self.n_serve, beta, self.sr_bytes.size if per == "image" else 1)

    def _interval(self, shift: float) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each (C,H,W) in 8-bit units, of the ideal statistic at a shift >= 0."""
        if self.agg == "median":
            index = int(bounds.level_index(self.z, shift))
            return self._at(self.lower, index, 0), self._at(self.upper, index, 255)
        # The mean is the integral of the quantiles; each slice of it is bounded by its highest level, the rest by the range.
        weights = np.diff(ndtr(self.z), prepend=0.0)
        rest = 1 - weights.sum()
        index = bounds.level_index(self.z, self.z + shift)
        pairs = [*zip(weights, index, strict=True)]
        upper = sum((w * self._at(self.upper, int(i), 255).astype(float) for w, i in pairs), np.full((1, 1, 1), 255 * rest))
        lower = sum((w * self._at(self.lower, int(i), 0).astype(float) for w, i in pairs), np.zeros((1, 1, 1)))
        shape = self.sr_bytes.shape[1:]
        return np.broadcast_to(lower, shape), np.broadcast_to(upper, shape)

    def _at(self, stack: np.ndarray, index: int, trivial: int) -> np.ndarray:
        return stack[index] if index < len(self.z) else np.full(self.sr_bytes.shape[1:], trivial, np.uint8)


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash dtypes, shapes and values."""
    sha = hashlib.sha256()
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            sha.update(f"{tensor.dtype} {(*tensor.shape,)}".encode())
            sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def precision(lr: Tensor) -> str:
    """Name the precision that a predictor runs in: the input's, or autocast's."""
    kind = lr.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else lr.dtype
    return str(dtype).removeprefix("torch.") + (" (autocast)" if torch.is_autocast_enabled(kind) else "")


def asdict_scalars(certificate: Certificate) -> dict[str, Any]:
    """All fields but the arrays."""
    return {field.name: getattr(certificate, field.name) for field in fields(certificate) if field.name not in ARRAYS}


def _content_digest(options: str, arrays: dict[str, np.ndarray]) -> str:
    return digest([torch.from_numpy(np.frombuffer(options.encode(), np.uint8).copy()), *(torch.from_numpy(a) for a in arrays.values())])


def _choose(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
