"""What people read of a certificate: a table over radii, and two sentences.

`answer` asks everything of a certificate once; the table, and the figures of
certificate_figures.py, are made of what it found.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smoothsr import metrics
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.options import Norm, Predictor
from smoothsr.engine.noise import sigma_text
from smoothsr.reports import deviation_report
from smoothsr.reports.deviation_report import (
    Deviation,
    at_least,
    draws_text,
    linf_radii,
    patches_text,
)

__all__ = [
    "Answers",
    "Questions",
    "answer",
    "sections",
    "sentences",
]

FEASIBLE = 10**9  # draws that somebody might make
NOT_GUARANTEED = (
    "Not guaranteed: larger attacks; other weights or options of the predictor; that the picture "
    "is right: if the file was attacked before, by no more than this radius, its original's output "
    "lies in these bounds, but they may be bounds of a wrong picture."
)
Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str], str]  # its head, its cell for a row, and its meaning


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of a certificate.

    Attributes:
        radii: l2 norms.
        tolerance: Of the radius map, in [0, 1] units.
        beta: Failure probability of one served inference, for each value.
        reference: Ground truth (1,C,H,W), for certified fidelity, or None.
    """

    radii: Sequence[float]
    tolerance: float
    beta: float
    reference: Tensor | None = None

    @property
    def shown(self) -> float:
        """The radius of the bounds that are shown as pictures: the smallest above 0."""
        return min((radius for radius in self.radii if radius > 0), default=0.0)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a certificate answers.

    Attributes:
        certificate: Of scope "image".
        questions: What was asked.
        radius_maps: For each predictor, (H,W).
        rows: For each predictor and l2 radius: share of pixels that stay within tolerance of the
            output, mean width of the bounds in 8-bit steps, share of trivial values, certified PSNR
            in dB against the output itself and, if there is one, the reference.
        linf_rows: For each predictor and linf radius the certified PSNR, each patch by itself.
        actual: PSNR to the reference without an attack, of "bare" and "smoothed"; empty without a
            reference.
        deviations: How far the mean can move; empty without a spectrum.
    """

    certificate: Certificate
    questions: Questions
    radius_maps: Mapping[Predictor, Tensor]
    rows: Sequence[Row]
    linf_rows: Sequence[Row]
    actual: Mapping[str, float]
    deviations: Sequence[Deviation]


def answer(certificate: Certificate, questions: Questions, bare: Tensor | None) -> Answers:
    """Ask a certificate of scope "image" all questions.

    Args:
        certificate: What is asked.
        questions: At least one radius.
        bare: The bare network's output (1,C,H,W), or None.
    """
    maps = {
        predictor: certificate.radius_map(questions.tolerance, predictor, questions.beta)
        for predictor in certificate.predictors
    }
    outputs = {"bare": bare, "smoothed": certificate.sr}
    reference = questions.reference
    return Answers(
        certificate=certificate,
        questions=questions,
        radius_maps=maps,
        rows=[
            row
            for predictor, radius_map in maps.items()
            for row in _rows(certificate, questions, predictor, radius_map)
        ],
        linf_rows=[
            row for predictor in maps for row in _linf_rows(certificate, questions, predictor)
        ],
        actual={
            name: metrics.psnr(output, reference).item()
            for name, output in outputs.items()
            if output is not None and reference is not None
        },
        deviations=deviation_report.deviations(certificate) if certificate.spectrum else [],
    )


def _rows(
    certificate: Certificate,
    questions: Questions,
    predictor: Predictor,
    radius_map: Tensor,
) -> list[Row]:
    """The rows of one predictor, at each l2 radius from small to large."""
    radii = sorted(questions.radii)
    box = certificate.psnr_curve(radii, method="box", predictor=predictor)
    collective = _psnrs(certificate, questions, "psnr_collective", radii, predictor)
    return [
        _row(certificate, questions, predictor, radius, radius_map) | {"psnr_box": alone} | shared
        for radius, alone, shared in zip(radii, box, collective, strict=True)
    ]


def _row(
    certificate: Certificate,
    questions: Questions,
    predictor: Predictor,
    radius: float,
    radius_map: Tensor,
) -> Row:
    """What is known of single values."""
    lower, upper = certificate.bounds(radius, predictor, questions.beta)
    return {
        "predictor": predictor,
        "radius": radius,
        "rms_8bit": certificate.rms(radius),
        "within_tolerance": float((radius_map >= radius).float().mean()),
        "mean_width_8bit": float((upper - lower).mean() * 255),
        "trivial_share": certificate.trivial_share(radius, predictor, questions.beta),
    }


def _linf_rows(certificate: Certificate, questions: Questions, predictor: Predictor) -> list[Row]:
    radii = linf_radii(certificate)[:2]
    found = _psnrs(certificate, questions, "psnr", radii, predictor, "linf")
    return [
        {"predictor": predictor, "linf": radius} | row
        for radius, row in zip(radii, found, strict=True)
    ]


def _psnrs(
    certificate: Certificate,
    questions: Questions,
    name: str,
    radii: Sequence[float],
    predictor: Predictor,
    norm: Norm = "l2",
) -> list[Row]:
    """The certified PSNR at each radius: to the output itself, under a name, and to the reference
    if there is one.
    """
    curves = {name: certificate.psnr_curve(radii, predictor=predictor, norm=norm)}
    if questions.reference is not None:
        curves["psnr_reference"] = certificate.psnr_curve(
            radii, questions.reference, predictor=predictor, norm=norm
        )
    return [dict(zip(curves, row, strict=True)) for row in zip(*curves.values(), strict=True)]


def sections(answers: Answers) -> list[str]:
    """Format for a terminal: first how far the whole output can move, then of single values a
    table for each predictor, under a line that says which it is, then what its columns mean.
    """
    tables = [_section(answers, predictor) for predictor in answers.radius_maps]
    if answers.deviations:
        tables.insert(0, deviation_report.text(answers.certificate, answers.deviations))
    return [*tables, _legend(answers)]


def _section(answers: Answers, predictor: str) -> str:
    columns = _columns(answers)
    cells = [[head for head, _, _ in columns]]
    last = len(columns) - 1
    for name, psnr in answers.actual.items():
        cells.append([name, *[""] * (last - 1), f"{psnr:.2f} dB"])
    for row in answers.rows:
        if row["predictor"] == predictor:
            cells.append([cell(row) for _, cell, _ in columns])
    widths = [max(12, len(head)) for head in cells[0]]
    lines = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    for row in answers.linf_rows:
        if row["predictor"] == predictor:
            lines.append(_linf_line(row))
    return "\n".join([_who(answers.certificate, predictor), *lines])


def _who(certificate: Certificate, predictor: str) -> str:
    """Say which predictor the numbers below are about."""
    if predictor == "served":
        return (
            f"served: the {certificate.agg} of {certificate.n_serve} fresh draws, as it is run; "
            "its PSNR is of the expected error"
        )
    return f"ideal: the {certificate.agg} of infinitely many draws; its PSNR is the worst case"


def _linf_line(row: Row) -> str:
    change = f"every value changed by up to {row['linf'] * 255:g}/255 (linf)"
    reference = (
        f", {at_least(row['psnr_reference'])} to the reference" if "psnr_reference" in row else ""
    )
    return f"  {change}: PSNR at least {at_least(row['psnr'])}{reference}"


def _columns(answers: Answers) -> list[Column]:
    certificate, tolerance = answers.certificate, f"{answers.questions.tolerance * 255:g}/255"
    largest = max(tile.pixels for tile in certificate.tiles)
    patch = math.sqrt(certificate.lr_shape[0] * largest)
    return [
        (
            "l2 radius",
            lambda row: f"{row['radius']:.4g}",
            "the largest attack: l2 norm of all that is added to the input, values in [0, 1]",
        ),
        (
            "RMS/255",
            lambda row: f"{row['rms_8bit']:.3f}",
            "the same attack spread over the image: root mean square, in 8-bit steps",
        ),
        (
            "on one patch",
            lambda row: f"{row['radius'] * 255 / patch:.3f}",
            "the same attack spread over one patch, what the network reads for one tile",
        ),
        (
            f"within {tolerance}",
            lambda row: f"{row['within_tolerance']:.1%}",
            f"pixels that certainly stay within {tolerance} of the output",
        ),
        (
            "mean width",
            lambda row: f"{row['mean_width_8bit']:.1f}/255",
            "upper minus lower bound, averaged over the values",
        ),
        (
            "trivial",
            lambda row: f"{row['trivial_share']:.1%}",
            "values of which nothing is known: their bounds are 0 and 255",
        ),
        *_psnr_columns(certificate, answers.questions.reference is not None),
    ]


def _psnr_columns(certificate: Certificate, referred: bool) -> list[Column]:
    collective = "the same, with one attack that all tiles share, which is what there is"
    if certificate.agg == "mean" and certificate.spectrum:
        collective = (
            "the attacked output against the ideal mean without an attack, at least; one attack "
            "that all tiles share"
        )
    columns: list[Column] = [
        (
            "PSNR box",
            lambda row: at_least(row["psnr_box"]),
            "the attacked output against this one, at least, were all of the attack on each tile",
        ),
        (
            "collective",
            lambda row: at_least(row["psnr_collective"]),
            collective,
        ),
    ]
    if referred:
        columns.append(
            (
                "to reference",
                lambda row: at_least(row["psnr_reference"]),
                "the attacked output against the reference, at least; first the bare and the "
                "smoothed output without an attack",
            )
        )
    return columns


def _legend(answers: Answers) -> str:
    lines = [f"{head:>12}: {meaning}" for head, _, meaning in _columns(answers)]
    count, noise = answers.certificate.multiplicity, answers.certificate.halo_noise
    less = f", in halos as 1/{noise**2:g} of one" if noise > 1 else ""
    if count > 1:
        lines.append(
            f"{'M':>12}: {count:.3g}, the most patches that read one input pixel{less}: an attack "
            f"counts in each, so the squares of its\n{'':14}norms on the patches add up to at "
            f"most {count:.3g} times that of its norm on the image"
        )
    if answers.certificate.lattice:
        lines.append(f"{'attacks':>12}: change values by whole 8-bit steps")
    return "\n".join(lines)


def sentences(certificate: Certificate, radius: float, beta: float) -> tuple[str, str]:
    """Say what is guaranteed within radius, and what is not."""
    c, predictor = certificate, certificate.predictors[0]
    if c.void:
        return (
            "Nothing is guaranteed: the certification draws came from a given seed.",
            "Certify again without it.",
        )
    if not c.z.size:
        return _nothing_at_all(c)
    needed = c.draws_needed(radius, predictor, beta)
    if needed > c.n_cert:
        return _nothing_at(c, radius, predictor, needed)
    who, sure = f"each value of the ideal {c.agg} ({_how(c)})", ""
    if predictor == "served":
        who = f"each value of each served output ({c.agg} of {c.n_serve} fresh draws; {_how(c)})"
        sure = f" with probability at least {1 - beta:.10g}"
    kind = "attack by whole 8-bit steps" if c.lattice else "attack"
    given = (
        f"Guaranteed, with confidence {1 - c.alpha:.10g} over {draws_text(c)}: for every {kind} of "
        f"l2 norm up to {radius:.4g} ({_size(c, radius)}), {who} stays inside its bounds{sure}."
    )
    return given, NOT_GUARANTEED


def _how(certificate: Certificate) -> str:
    """Name the options of the predictor that a guarantee is about."""
    c = certificate
    multiplicity = f", M {c.multiplicity:.3g}" if c.tile else ""
    lattice = " on a lattice" if c.lattice else ""
    return f"sigma {sigma_text(c.sigma)}, {patches_text(c)}{multiplicity}, {c.dtype}{lattice}"


def _nothing_at_all(certificate: Certificate) -> tuple[str, str]:
    """Say that there are no levels, and how many draws would do."""
    c, needed = certificate, certificate.draws_needed(0.0, "ideal")
    return (
        f"Nothing is guaranteed of single values: {c.n_cert} draws can't bound {c.values} of them "
        f"at alpha {c.levels_alpha:g}.",
        f"At least {needed} draws would do for radius 0: {_wish(c, needed)}.",
    )


def _size(certificate: Certificate, radius: float) -> str:
    """Say what an l2 norm means for an image."""
    size = f"{certificate.rms(radius):.3f}/255 RMS over the image"
    most, inputs = int((255 * radius) ** 2 + 1e-9), math.prod(certificate.lr_shape)
    if certificate.lattice and 0 < radius < 1 / 255:
        return f"{size}; less than one value by one step, so no change is so small"
    if certificate.lattice and 1 <= most < inputs:
        return f"{size}; as many as {most} of {inputs} values by one step"
    return size


def _nothing_at(
    certificate: Certificate, radius: float, predictor: Predictor, needed: int
) -> tuple[str, str]:
    """Say that all bounds at a radius are the whole range, and what would help."""
    c = certificate
    whose = f"of the served {c.agg}" if predictor == "served" else f"of the ideal {c.agg}"
    given = (
        f"Nothing is guaranteed of single values {whose} under attacks of l2 norm {radius:.4g} "
        f"({_size(c, radius)}): {c.n_cert} draws give bounds that are the whole range. "
        f"{_wish(c, needed)} would do."
    )
    absent = "Smaller tiles or a larger sigma would help too."
    if predictor == "served" and c.draws_needed(radius, "ideal") <= c.n_cert:
        absent = f"Of the ideal {c.agg} there are bounds: the table has them. {absent}"
    return given, absent


def _wish(certificate: Certificate, needed: int) -> str:
    """Say how to get so many draws for certain."""
    if needed > FEASIBLE:
        return f"About 10^{len(str(needed)) - 1} draws"
    return f"--n-cert {needed}" + (" without --enough" if certificate.looks > 1 else "")
