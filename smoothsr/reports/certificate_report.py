"""What people read of a certificate: a table over radii, two sentences, and figures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from smoothsr.certificates.certificate import Certificate
from smoothsr.engine.noise import sigma_text
from smoothsr.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["linf_rows", "panel", "radius_figure", "rows", "save_figure", "sentences", "table"]

Row = dict[str, Any]


def rows(
    certificate: Certificate,
    radii: Sequence[float],
    tolerance: float,
    beta: float,
    reference: Tensor | None,
) -> list[Row]:
    """Tabulate what is certified at each l2 radius.

    Args:
        certificate: Of scope "image".
        radii: l2 norms.
        tolerance: In [0, 1] units.
        beta: Failure probability of one served inference, for each value.
        reference: Ground truth (1,C,H,W), for certified fidelity, or None.

    Returns:
        One row for each predictor and radius: share of pixels that stay within tolerance of the
        output, mean width of the bounds in 8-bit steps, share of trivial values, certified PSNR in
        dB against the output itself and, if there is one, the reference.
    """
    found = []
    for predictor in certificate.predictors:
        held = certificate.radius_map(tolerance, predictor, beta)
        for radius in radii:
            lower, upper = certificate.bounds(radius, predictor, beta)
            row: Row = {
                "predictor": predictor,
                "radius": radius,
                "rms_8bit": certificate.rms(radius),
                "within_tolerance": float((held >= radius).float().mean()),
                "mean_width_8bit": float((upper - lower).mean() * 255),
                "trivial_share": float(((lower == 0) & (upper == 1)).float().mean()),
                "psnr_box": certificate.psnr(radius, method="box", predictor=predictor),
                "psnr_collective": certificate.psnr(
                    radius, method="collective", predictor=predictor
                ),
            }
            if reference is not None:
                row["psnr_reference"] = certificate.psnr(radius, reference, predictor=predictor)
            found.append(row)
    return found


def linf_rows(
    certificate: Certificate, radii: Sequence[float], reference: Tensor | None
) -> list[Row]:
    """Tabulate the certified PSNR at each linf radius, each patch by itself."""
    found = []
    for predictor in certificate.predictors:
        for radius in radii:
            row: Row = {
                "predictor": predictor,
                "linf": radius,
                "psnr": certificate.psnr(radius, predictor=predictor, norm="linf"),
            }
            if reference is not None:
                row["psnr_reference"] = certificate.psnr(
                    radius, reference, predictor=predictor, norm="linf"
                )
            found.append(row)
    return found


def table(
    certificate: Certificate, found: Sequence[Row], linf: Sequence[Row], tolerance: float
) -> str:
    """Format rows for a terminal."""
    patch = math.sqrt(certificate.lr_shape[0] * max(tile.pixels for tile in certificate.tiles))
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("l2 radius", lambda row: f"{row['radius']:.4g}"),
        ("RMS/255", lambda row: f"{row['rms_8bit']:.3f}"),
        ("on one patch", lambda row: f"{row['radius'] * 255 / patch:.3f}"),
        (f"within {tolerance * 255:g}/255", lambda row: f"{row['within_tolerance']:.1%}"),
        ("mean width", lambda row: f"{row['mean_width_8bit']:.1f}/255"),
        ("trivial", lambda row: f"{row['trivial_share']:.1%}"),
        ("PSNR box", lambda row: f"{row['psnr_box']:.2f} dB"),
        ("collective", lambda row: f"{row['psnr_collective']:.2f} dB"),
    ]
    if "psnr_reference" in found[0]:
        columns.append(("to reference", lambda row: f"{row['psnr_reference']:.2f} dB"))
    lines = []
    for predictor in certificate.predictors:
        lines += ["", "  ".join(f"{head:>12}" for head, _ in columns)]
        for row in found:
            if row["predictor"] == predictor:
                lines.append("  ".join(f"{cell(row):>12}" for _, cell in columns))
        for row in linf:
            if row["predictor"] == predictor:
                change = f"every value changed by up to {row['linf'] * 255:g}/255 (linf)"
                reference = (
                    f", {row['psnr_reference']:.2f} dB to the reference"
                    if "psnr_reference" in row
                    else ""
                )
                lines.append(f"  {change}: PSNR at least {row['psnr']:.2f} dB{reference}")
        if predictor == "served":
            lines.append(
                f"  served: the {certificate.agg} of {certificate.n_serve} fresh draws; its "
                "PSNR is of the expected error"
            )
        else:
            lines.append(f"  ideal: the {certificate.agg} of infinitely many draws; worst case")
    return "\n".join(lines[1:])


def sentences(certificate: Certificate, radius: float, beta: float) -> tuple[str, str]:
    """Say what is guaranteed within radius, and what is not."""
    c = certificate
    how = (
        f"sigma {sigma_text(c.sigma)}, "
        + (f"tile {c.tile}, halo {c.halo}, M {c.multiplicity}" if c.tile else "one tile")
        + f", {c.dtype}"
    )
    if c.void:
        return (
            "Nothing is guaranteed: the certification draws came from a given seed.",
            "Certify again without it.",
        )
    if not c.z.size:
        needed = c.draws_needed(0.0, "ideal")
        return (
            f"Nothing is guaranteed: {c.n_cert} draws can't bound {c.values} values at alpha "
            f"{c.alpha:g}.",
            f"At least {needed} draws would do for radius 0: --n-cert {needed}.",
        )
    predictor = c.predictors[0]
    who, sure = f"each value of the ideal {c.agg} ({how})", ""
    if predictor == "served":
        who = f"each value of each served output ({c.agg} of {c.n_serve} fresh draws; {how})"
        sure = f" with probability at least {1 - beta:.10g}"
    needed = c.draws_needed(radius, predictor, beta)
    given = (
        f"Guaranteed, with confidence {1 - c.alpha:.10g} over the {c.n_cert} certification "
        "draws: for every attack of l2 norm up "
        f"to {radius:.4g} ({c.rms(radius):.3f}/255 RMS over the image), {who} stays inside "
        f"its bounds{sure}."
    )
    if needed > c.n_cert:
        given += f" At this radius the bounds are the whole range; --n-cert {needed} would do."
    absent = (
        "Not guaranteed: larger attacks; other weights, sigma, tile, halo, n or precision; "
        "that the picture is right: if the file "
        "was attacked before, by no more than this radius, its original's output lies in "
        "these bounds, but they may be bounds of a "
        "wrong picture."
    )
    return given, absent


def radius_figure(certificate: Certificate, tolerance: float, beta: float) -> "Figure":
    """Draw the heat map of certified radii, with a colour bar in l2 units and in 8-bit RMS over a
    patch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    _radius_axes(figure, figure.subplots(), certificate, tolerance, beta)
    return figure


def panel(
    lr: Tensor, bare: Tensor, certificate: Certificate, radius: float, tolerance: float, beta: float
) -> "Figure":
    """Draw input, bare output, smoothed output, both bounds and the radius map side by side.

    Args:
        lr: (1,C,h,w) in [0, 1].
        bare: The bare network's output (1,C,H,W).
        certificate: Of lr.
        radius: Where the bounds are shown.
        tolerance: Of the radius map, in [0, 1] units.
        beta: Failure probability of one served inference, for each value.
    """
    from matplotlib.figure import Figure

    predictor = certificate.predictors[0]
    lower, upper = certificate.bounds(radius, predictor, beta)
    height, width = certificate.sr_bytes.shape[2:]
    figure = Figure(
        figsize=(12.8, 8 * min(2.0, max(0.5, height / width)) + 0.5), layout="constrained"
    )
    axes = figure.subplots(2, 3)
    pictures = [
        (lr, f"input, {certificate.lr_shape[2]} x {certificate.lr_shape[1]}"),
        (bare, "bare network"),
        (
            certificate.sr,
            f"smoothed: {certificate.agg} of {certificate.n_serve}, "
            f"sigma {sigma_text(certificate.sigma)}",
        ),
        (lower, f"lower bound ({predictor}), l2 radius {radius:.3g}"),
        (upper, f"upper bound ({predictor}), l2 radius {radius:.3g}"),
    ]
    for axis, (image, title) in zip(axes.flat, pictures, strict=False):
        array = image[0].detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()
        axis.imshow(
            array if array.shape[2] == 3 else array[..., 0],
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    _radius_axes(figure, axes[1, 2], certificate, tolerance, beta)
    return figure


def save_figure(figure: "Figure", path: Path, dpi: int = 110) -> None:
    """Write a PNG."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=dpi)


def _radius_axes(
    figure: "Figure", axis: Any, certificate: Certificate, tolerance: float, beta: float
) -> None:
    predictor = certificate.predictors[0]
    radii = certificate.radius_map(tolerance, predictor, beta).numpy()
    share = float(np.isfinite(radii).mean())
    top = max(float(np.nanmax(radii, initial=0.0)), 1e-9)
    axis.set_facecolor("0.75")  # where not even radius 0 is certified
    image = axis.imshow(radii, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
    axis.set_title(
        f"certified radius for {tolerance * 255:g}/255 ({predictor}); gray: none, {1 - share:.0%}",
        fontsize=10,
    )
    axis.set_xticks([])
    axis.set_yticks([])
    bar = figure.colorbar(image, ax=axis, shrink=0.85)
    scope = (
        "attack's l2 norm on the pixel's patch"
        if certificate.tile
        else "attack's l2 norm on the image"
    )
    bar.set_label(f"{scope} (LR values in [0, 1])", fontsize=9)
