"""What a fine-tune looks like: its loss, and its scores on pictures that it did not see."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["scores_text", "training_figure"]

Points = Sequence[tuple[int, float]]


def training_figure(loss: Points, scores: Mapping[str, Points], steps: int, title: str) -> "Figure":
    """Draw the loss, and beside it an axis for each metric, whose lines are bare and smoothed.

    Args:
        loss: Points (step, mean loss of the steps up to it).
        scores: Points by names such as "psnr_y, smoothed".
        steps: Of the whole run, which is the width of the axes.
        title: Above all.
    """
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(name.partition(", ")[0] for name in scores))
    across = 1 + len(metrics)
    figure = Figure(figsize=(4.2 * across, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = list(figure.subplots(1, across, squeeze=False).flat)
    axes[0].plot(*_columns(loss))
    axes[0].set(title="loss", xlabel="step", xlim=(0, steps))
    for axis, metric in zip(axes[1:], metrics, strict=True):
        for name, points in scores.items():
            kind, _, which = name.partition(", ")
            if kind == metric:
                axis.plot(*_columns(points), marker=".", label=which or metric)
        axis.set(title=metric, xlabel="step", xlim=(0, steps))
        axis.legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure


def scores_text(scores: Mapping[str, Points]) -> str:
    """Say what each score was at the start and is now.

    Example:
        >>> print(scores_text({"psnr_y, smoothed": [(0, 28.1), (100, 29.5)]}))
        psnr_y, smoothed: 28.1 before, 29.5 now
    """
    width = max((len(name) for name in scores), default=0)
    return "\n".join(
        f"{name + ':':{width + 1}} {points[0][1]:.4g} before, {points[-1][1]:.4g} now"
        for name, points in scores.items()
    )


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
