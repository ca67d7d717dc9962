"""What people read of a spectral certificate: how far the whole output can move, in one sentence
and a table.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.options import Norm
from smoothsr.engine.noise import sigma_text

__all__ = [
    "SHOWN",
    "Deviation",
    "at_least",
    "deviations",
    "draws_text",
    "linf_radii",
    "patches_text",
    "text",
]

L2_SIGMAS = (0.5, 1.0, 2.0)
SHOWN = 1 / 255  # the linf radius of the sentence


class Deviation(NamedTuple):
    """What holds of the mean for every attack of one norm.

    Attributes:
        norm: In which the attack is measured.
        radius: Of the attack, in [0, 1] units.
        rms_8bit: How far the ideal output moves at most, root mean square in 8-bit steps.
        psnr_ideal: dB of the 8-bit ideal output under attack to the ideal output without.
        psnr_served: The same of an output of few draws: of its expected error; None where there is
            no fresh noise.
    """

    norm: Norm
    radius: float
    rms_8bit: float
    psnr_ideal: float
    psnr_served: float | None


def linf_radii(certificate: Certificate) -> Sequence[float]:
    """Sizes of changes of every value that are worth telling: whole steps where a file holds no
    others.
    """
    return [steps / 255 for steps in ((1, 2, 3) if certificate.lattice else (0.5, 1, 2))]


def deviations(certificate: Certificate) -> list[Deviation]:
    """Ask a certificate that has a spectrum, of either statistic, how far the mean can move."""
    mean = certificate.as_mean()
    l2_radii = [share * mean.sigma for share in L2_SIGMAS]
    return [*_deviations(mean, linf_radii(mean), "linf"), *_deviations(mean, l2_radii, "l2")]


def _deviations(mean: Certificate, radii: Sequence[float], norm: Norm) -> list[Deviation]:
    ideal = mean.psnr_curve(radii, predictor="ideal", norm=norm)
    served: Sequence[float | None] = [None] * len(radii)
    if "served" in mean.psnr_predictors:
        served = mean.psnr_curve(radii, predictor="served", norm=norm)
    steps = [255 * mean.deviation(radius, norm) for radius in radii]
    return [Deviation(norm, *row) for row in zip(radii, steps, ideal, served, strict=True)]


def text(certificate: Certificate, found: Sequence[Deviation]) -> str:
    """Say it: first in one sentence, then as a table, then under which conditions."""
    mean = certificate.as_mean()
    return "\n".join([_sentence(mean, found), "", *_table(mean, found)])


def _sentence(certificate: Certificate, found: Sequence[Deviation]) -> str:
    shown = next(row for row in found if row.norm == "linf" and row.radius == SHOWN)
    if certificate.void:
        return "Nothing is guaranteed: the certification draws came from a given seed."
    if shown.rms_8bit >= 127:
        return (
            "A change of every value by 1 (of 255) is too large for this certificate; others are "
            "below."
        )
    return (
        "As long as no value of the file changes by more than 1 (of 255), the average of the "
        f"network's outputs under noise stays within {_up(shown.rms_8bit)} steps (root mean "
        f"square) of what it is without. (Confidence {1 - certificate.alpha:.10g}; the average of "
        "infinitely many.)"
    )


def _table(certificate: Certificate, found: Sequence[Deviation]) -> list[str]:
    heads = ["change of the file", "output moves by", "PSNR, ideal"]
    served = found[0].psnr_served is not None
    heads += [f"PSNR, {_draws(certificate)}"] if served else []
    rows = [heads, *(_cells(row) for row in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [*lines, *_conditions(certificate, served)]


def _draws(certificate: Certificate) -> str:
    return f"{certificate.n_serve} draws{' in pairs' if certificate.antithetic else ''}"


def _conditions(certificate: Certificate, served: bool) -> list[str]:
    """Under which conditions it holds, and what the columns are."""
    c = certificate
    lattice = ["  changes: by whole steps of 255, as a file of 8 bits holds them"]
    return [
        f"  of the mean of outputs (--agg mean -n {c.n_serve}) under noise of sigma "
        f"{sigma_text(c.sigma)} ({patches_text(c)}); with confidence {1 - c.alpha:.10g} over "
        f"{draws_text(c)}",
        "  output moves by: at most, root mean square over all values of the ideal mean (of "
        "infinitely many draws)",
        "  PSNR: of the output in 8 bits to that ideal mean without the change"
        + (f"; of {_draws(c)}: of the expected error" if served else ""),
        *(lattice if c.lattice else []),
    ]


def _cells(row: Deviation) -> list[str]:
    steps = f"{row.radius * 255:.3g}/255"
    change = f"every value by {steps}" if row.norm == "linf" else f"l2 norm {row.radius:.3g}"
    cells = [change, f"{_up(row.rms_8bit)}/255", at_least(row.psnr_ideal)]
    return cells if row.psnr_served is None else [*cells, at_least(row.psnr_served)]


def _up(steps: float) -> str:
    """Round up to three digits, since these are bounds from above."""
    digits = 2 - math.floor(math.log10(steps)) if steps > 0 else 2
    return f"{math.ceil(steps * 10**digits) / 10**digits:.3g}"


def patches_text(certificate: Certificate) -> str:
    """Name a certificate's tiles, what noise is around them, and what a denoiser is told of it."""
    told = certificate.denoiser_sigma
    denoised = "" if told is None else f", a denoiser told sigma {sigma_text(told)}"
    if not certificate.tile:
        return f"one tile{denoised}"
    more = f" with {certificate.halo_noise:g} times the noise" if certificate.halo_noise > 1 else ""
    return f"tile {certificate.tile}, halo {certificate.halo}{more}{denoised}"


def draws_text(certificate: Certificate) -> str:
    """Name the draws that a certificate's confidence is about."""
    c = certificate
    if c.looks == 1:
        return f"the {c.n_cert} certification draws"
    return f"the draws of up to {c.looks} looks, of which this one made {c.n_cert}"


def at_least(value: float) -> str:
    """Format dB, rounded down, since these are bounds from below."""
    return f"{math.floor(value * 100) / 100:.2f} dB" if math.isfinite(value) else "equal"
