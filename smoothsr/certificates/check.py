"""Did an output under attack stay inside its certificate? For one given change of the input, tile
by tile.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.linalg import vector_norm

from smoothsr.certificates.certificate import Certificate, as_image
from smoothsr.certificates.options import Per, Predictor
from smoothsr.engine.tiles import Tile, output_slices
from smoothsr.metrics import to_8bit

__all__ = ["Verdict", "bounds_under", "judge"]


class Verdict(NamedTuple):
    """How an output under attack stands to a certificate, in which beta speaks of each value or of
    all values at once.
    """

    predictor: Predictor  # of which the bounds are
    radius: float  # l2 norm of the change
    patch_radius: float  # the largest norm of the change on one patch
    bounded: int  # values whose bounds are not the whole range
    outside: Tensor  # bool (1,C,H,W): which values are outside of their bounds
    bounded_at_once: int  # the same of the bounds that hold for all values at once
    outside_at_once: int

    def holds(self, beta: float) -> bool:
        """Tell whether the output agrees with the certificate; of those that are as promised a
        share .01 + alpha + beta may fail.

        None may be outside of the bounds that hold for all values at once. Of the other bounds a
        share beta of the values may be outside on average, hence 100 times as many with a
        probability of 1% (Markov's inequality), which says nothing where beta is .01 or more. About
        the ideal predictor, one output that is made of few draws says nothing.
        """
        return self.predictor == "ideal" or not (
            self.outside_at_once or int(self.outside.sum()) > 100 * beta * self.bounded
        )

    def record(self, beta: float) -> dict[str, Any]:
        """Describe it in JSON's types."""
        return {
            **self._asdict(),
            "outside": int(self.outside.sum()),
            "beta": beta,
            "holds": self.holds(beta),
        }

    def text(self, certificate: Certificate, beta: float) -> str:
        """Say it in a few lines."""
        c, values, count = certificate, certificate.sr_bytes.size, int(self.outside.sum())
        norm = f"{self.patch_radius:.4g} ({self.patch_radius / c.sigma:.3g} sigma)"
        size = f"Certificate: the change has l2 norm {norm}"
        if not self.radius:
            size = (
                "Certificate: the smoother sees no change, so that no attack was tested, only the "
                "bounds for none"
            )
        elif c.tile:
            size = (
                f"Certificate: the change has l2 norm {self.radius:.4g}; on one patch, which is "
                f"what counts, at most {norm}"
            )
        if c.void:
            return f"{size}.\nIt claims nothing: its draws came from a given seed."
        if not self.bounded and not self.radius:
            return f"{size}.\nIt claims nothing of single values: it was made of too few draws."
        if not self.bounded:
            return (
                f"{size}.\nIt claims nothing of so large a change: its bounds end at "
                f"{max(0.0, c.max_radius):.4g} or before."
            )
        bounds = f"{self.bounded / values:.1%} of {values:,} values have bounds"
        if self.predictor == "ideal":
            strays = (
                f"{count} of this output, made of few draws, are outside, which breaks no promise"
            )
            return f"{size}.\nIt speaks of the ideal {c.agg} only: {bounds}; {strays}."
        lines = [
            f"{size}.",
            f"  each value, with probability {1 - beta:g}: {bounds}; {count} outside, "
            f"{beta * self.bounded:.3g} may be on average",
            f"  all values at once, with probability {1 - beta:g}: "
            f"{self.bounded_at_once / values:.1%} have bounds; "
            f"{self.outside_at_once} outside, none may be",
            "The output stayed inside." if self.holds(beta) else "THE CERTIFICATE DID NOT HOLD.",
        ]
        return "\n".join(lines)


def judge(certificate: Certificate, change: Tensor, output: Tensor, beta: float = 1e-3) -> Verdict:
    """Hold an output (1,C,H,W) in [0, 1], made with fresh noise, against the bounds for a change
    (1,C,h,w) of the input.

    Args:
        certificate: What was claimed of the input without the change.
        change: Of the input, (1,C,h,w): the input under attack less the one that was certified.
        output: What the same smoother made of the input under attack.
        beta: As for `Certificate.bounds`.

    Raises:
        ValueError: If output is of another shape, or beta out of its range.
    """
    predictor = certificate.predictors[0]
    if output.shape != certificate.sr_bytes.shape:
        raise ValueError(f"output must be {certificate.sr_bytes.shape}, got {(*output.shape,)}")
    value = to_8bit(output).cpu() / 255

    def compared(per: Per) -> tuple[int, Tensor]:
        lower, upper = bounds_under(certificate, change, predictor, beta, per)
        return int(((lower > 0) | (upper < 1)).sum()), (value < lower) | (value > upper)

    bounded, outside = compared("value")
    bounded_at_once, outside_at_once = compared("image")
    norms = _norm(change), max(_patch_norms(certificate, change))
    return Verdict(predictor, *norms, bounded, outside, bounded_at_once, int(outside_at_once.sum()))


def bounds_under(
    certificate: Certificate,
    change: Tensor,
    predictor: Predictor = "served",
    beta: float = 1e-3,
    per: Per = "value",
) -> tuple[Tensor, Tensor]:
    """Bound the output for one given change of the input (1,C,h,w).

    A tile's output depends on its patch alone, so its bounds are those at the l2 norm of the change
    on that patch: no wider than `Certificate.bounds` at the norm of the whole change, which has to
    hold for every change of that norm. The other arguments, the result and what is guaranteed are
    those of `Certificate.bounds`.
    """
    lower, upper = np.empty((2, *certificate.sr_bytes.shape[1:]))
    for tile, radius in zip(certificate.tiles, _patch_norms(certificate, change), strict=True):
        rows, columns = window = output_slices(tile, certificate.scale)
        shift = certificate.shift(radius, predictor, beta, per)
        found = certificate.levels.interval(shift, window)
        lower[:, rows, columns], upper[:, rows, columns] = found
    return as_image(lower), as_image(upper)


def _patch_norms(certificate: Certificate, change: Tensor) -> list[float]:
    """The l2 norm of a change on each tile's patch, of its halo in units of its own noise."""
    return [_patch_norm(change, tile, certificate.halo_noise) for tile in certificate.tiles]


def _patch_norm(change: Tensor, tile: Tile, halo_noise: float) -> float:
    rows, columns = tile
    whole = _norm(change[..., rows.first : rows.last, columns.first : columns.last])
    inside = _norm(change[..., rows.start : rows.stop, columns.start : columns.stop])
    return math.sqrt(inside**2 + max(0.0, whole**2 - inside**2) / halo_noise**2)


def _norm(change: Tensor) -> float:
    return vector_norm(change.detach().double()).item()
