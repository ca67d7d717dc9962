"""Figures of a certificate: the map of certified radii, and a panel of pictures and bounds."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from smoothsr.engine.noise import sigma_text
from smoothsr.reports import figures
from smoothsr.reports.certificate_report import Answers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["panel", "radius_figure"]


def radius_figure(answers: Answers) -> "Figure":
    """Draw the heat map of certified radii, with a colour bar in l2 units."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    _draw_radii(figure, figure.subplots(), answers)
    return figure


def panel(lr: Tensor, bare: Tensor | None, answers: Answers) -> "Figure":
    """Draw input, bare and smoothed output and the reference; below them both bounds, their width
    and the radius map.

    Args:
        lr: (1,C,h,w) in [0, 1].
        bare: The bare network's output (1,C,H,W), or None, which leaves it out.
        answers: Of lr's certificate.
    """
    from matplotlib.figure import Figure

    certificate, questions = answers.certificate, answers.questions
    predictor = certificate.predictors[0]
    lower, upper = certificate.bounds(questions.shown, predictor, questions.beta)
    of = f"({predictor}), l2 radius {questions.shown:.3g}"
    sigma = sigma_text(certificate.sigma)
    smoothed = f"smoothed: {certificate.agg} of {certificate.n_serve}, sigma {sigma}"
    top = [
        (lr, f"input, {certificate.lr_shape[2]} x {certificate.lr_shape[1]}"),
        (bare, "bare network"),
        (certificate.sr, smoothed),
        (questions.reference, "reference"),
    ]
    pictures = [(image, title) for image, title in top if image is not None]
    height, width = certificate.sr_bytes.shape[2:]
    ratio = min(2.0, max(0.5, height / width))
    figure = Figure(figsize=(15, 4.2 * ratio * (1 + 3 / len(pictures)) + 1), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[4 / len(pictures), 1]).flat
    for axis, (image, title) in zip(
        above.subplots(1, len(pictures), squeeze=False).flat, pictures, strict=True
    ):
        _draw_picture(axis, image, title)
    axes = below.subplots(1, 4)
    _draw_picture(axes[0], lower, f"lower bound {of}")
    _draw_picture(axes[1], upper, f"upper bound {of}")
    _draw_width(figure, axes[2], upper - lower)
    _draw_radii(figure, axes[3], answers)
    return figure


def _draw_picture(axis: "Axes", image: Tensor, title: str) -> None:
    figures.show_picture(axis, image)
    axis.set_title(title, fontsize=10)


def _draw_width(figure: "Figure", axis: "Axes", width: Tensor) -> None:
    """Draw how far apart the bounds of a pixel's widest channel are."""
    steps = (width[0].amax(0) * 255).numpy()
    image = figures.show_map(axis, steps, "magma", max(1.0, steps.max()), largest=True)
    axis.set_title(f"width of the bounds, mean {255 * width.mean():.1f}/255", fontsize=10)
    bar = figure.colorbar(image, ax=axis, shrink=0.85, location="bottom")
    bar.set_label("upper - lower, widest channel, 8-bit steps", fontsize=9)


def _draw_radii(figure: "Figure", axis: "Axes", answers: Answers) -> None:
    certificate, tolerance = answers.certificate, answers.questions.tolerance
    predictor = certificate.predictors[0]
    radii = answers.radius_maps[predictor].numpy()
    none = 1 - float(np.isfinite(radii).mean())
    top = float(np.nanmax(radii, initial=0.0)) or certificate.sigma
    axis.set_facecolor("0.75")  # where not even radius 0 is certified
    image = figures.show_map(axis, radii, "viridis", top, largest=False)
    worst = "\nthe least of pixels that share a place" if figures.is_reduced(radii.shape) else ""
    axis.set_title(
        f"radius for {tolerance * 255:g}/255 ({predictor}); gray: none, {none:.0%}{worst}",
        fontsize=10,
    )
    bar = figure.colorbar(image, ax=axis, shrink=0.85, location="bottom")
    where = "on the pixel's patch" if certificate.tile else "on the image"
    bar.set_label(f"attack's l2 norm {where}, values in [0, 1]", fontsize=9)
