"""What people read of an attack: what it made of the outputs, as a table, in words and as a figure.

Deviations are of outputs rounded to 8 bits, as users save them, over all values; the PSNR to a
ground truth is that of papers, with `scale` pixels of border cropped.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from smoothsr import metrics
from smoothsr.metrics import to_8bit
from smoothsr.reports import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Outcome", "panel", "rows", "table", "words"]

Row = dict[str, Any]


class Outcome(NamedTuple):
    """One predictor's outputs (1,C,H,W) in [0, 1]: for the clean and for the attacked input."""

    name: str
    clean: Tensor
    attacked: Tensor


def rows(outcomes: Sequence[Outcome], reference: Tensor | None, scale: int) -> list[Row]:
    """Measure each outcome; PSNR in dB, None where images are equal.

    Args:
        outcomes: What to measure.
        reference: Ground truth (1,C,H,W), or None.
        scale: Border that is cropped for comparisons with the reference.
    """
    found = []
    for name, clean, attacked in outcomes:
        change = (to_8bit(attacked) - to_8bit(clean)).abs()
        row: Row = {"output": name, "psnr_to_clean": _psnr(attacked, clean)}
        row |= {"largest_8bit": change.max().item(), "mean_8bit": change.mean().item()}
        if reference is not None:
            for y in (False, True) if reference.shape[1] == 3 else (False,):
                for word, output in (("clean", clean), ("attacked", attacked)):
                    row[f"psnr_{'y_' if y else ''}{word}"] = _psnr(
                        output, reference, border=scale, y=y
                    )
        found.append(row)
    return found


def table(found: Sequence[Row]) -> str:
    """Format rows for a terminal."""
    heads = {
        "psnr_to_clean": "to own clean",
        "largest_8bit": "largest",
        "mean_8bit": "mean",
        "psnr_clean": "truth: clean",
        "psnr_attacked": "attacked",
        "psnr_y_clean": "luma: clean",
        "psnr_y_attacked": "attacked",
    }
    used = [key for key in heads if key in found[0]]
    lines = [f"{'':24}" + "  ".join(f"{heads[key]:>12}" for key in used)]
    for row in found:
        cells = [f"{row[key]:.4g}/255" if key.endswith("8bit") else _db(row[key]) for key in used]
        lines.append(f"{row['output']:24}" + "  ".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def words(bare: Row, smoothed: Row, alone: Row) -> str:
    """Say in one line whether smoothing held better than the bare network, as far as the attack had
    a part in it.

    Args:
        bare: Of `rows`.
        smoothed: Of `rows`.
        alone: The row of two smoothed outputs for the clean input: what fresh noise does without an
            attack.
    """
    moved = [
        "did not change"
        if row["psnr_to_clean"] is None
        else f"is at {_db(row['psnr_to_clean'])} to its clean one"
        for row in (smoothed, bare)
    ]
    facts = (
        f"the smoothed output {moved[0]} (fresh noise alone: {_db(alone['psnr_to_clean'])}), the "
        f"bare output {moved[1]}"
    )
    if "psnr_attacked" in bare:
        truth = (
            f"{_db(smoothed['psnr_attacked'])} to the ground truth against "
            f"{_db(bare['psnr_attacked'])}"
        )
        before = (
            f"{_verdict(smoothed, bare, 'psnr_clean')}, {_db(smoothed['psnr_clean'])} against "
            f"{_db(bare['psnr_clean'])}"
        )
        return (
            f"Smoothing {_verdict(smoothed, bare, 'psnr_attacked')}, {truth}; without the attack "
            f"it {before}; {facts}."
        )
    if alone["mean_8bit"] > 0.8 * smoothed["mean_8bit"]:
        return f"The smoothed output moved hardly further than by fresh noise alone: {facts}."
    return f"Smoothing {_verdict(smoothed, bare, 'psnr_to_clean')}: {facts}."


def _verdict(smoothed: Row, bare: Row, key: str) -> str:
    near, far = (math.inf if row[key] is None else row[key] for row in (smoothed, bare))
    gain = 0.0 if near == far else near - far
    if abs(gain) < 0.005:
        return "made no difference"
    return ("held better" if gain > 0 else "did worse") + (
        "" if math.isinf(gain) else f" by {abs(gain):.2f} dB"
    )


def panel(
    lr: Tensor,
    attacked: Tensor,
    outcomes: Sequence[Outcome],
    reference: Tensor | None = None,
    outside: Tensor | None = None,
) -> "Figure":
    """Draw input and outputs side by side: clean, under attack, and the difference.

    Args:
        lr: (1,C,h,w) in [0, 1].
        attacked: The same shape and range; its change is shown amplified, around gray.
        outcomes: A column each; their deviations, the largest over channels, share one colour
            scale.
        reference: Ground truth (1,C,H,W), to which PSNR is given; without it, it is given to the
            clean output.
        outside: bool (1,C,H,W): values of the last outcome that are outside of a certificate, to be
            marked.
    """
    from matplotlib.figure import Figure

    side = 3.4 * min(2.0, max(0.5, lr.shape[2] / lr.shape[3])) + 0.25
    figure = Figure(figsize=(3.4 * (1 + len(outcomes)) + 0.6, 3 * side), layout="constrained")
    axes = figure.subplots(3, 1 + len(outcomes))
    _show_input(axes[:, 0], lr, attacked)
    deviations = [_deviation(outcome) for outcome in outcomes]
    # A few pixels must not dim all others.
    top = max(1.0, *(float(np.quantile(deviation, 0.999)) for deviation in deviations))
    measured = rows(outcomes, reference, outcomes[0].clean.shape[-1] // lr.shape[-1])
    shown = zip(axes[:, 1:].T, outcomes, measured, deviations, strict=True)
    for column, outcome, row, deviation in shown:
        _show_outcome(column, outcome, row)
        image = _show_deviation(column[2], deviation, row, top)
    bar = figure.colorbar(image, ax=axes[2, -1], shrink=0.85, extend="max")
    bar.set_label("8-bit steps", fontsize=9)
    if outside is not None and outside.any():
        _mark(axes[2, -1], outside)
    return figure


def _show_input(column: Sequence[Any], lr: Tensor, attacked: Tensor) -> None:
    """Show the input, the same under attack, and the change, amplified to fill half the range."""
    change = attacked - lr
    largest = change.abs().max().item()
    amplified = max(1, int(0.5 / largest)) if largest > 0 else 1
    _show(column[0], lr, f"input, {lr.shape[3]} x {lr.shape[2]}")
    _show(column[1], attacked, f"input under attack,\nchanged by up to {largest * 255:.3g}/255")
    title = f"change of the input, x{amplified}, around gray"
    _show(column[2], 0.5 + amplified * change, title, means=False)  # which would be near 0


def _show_outcome(column: Sequence[Any], outcome: Outcome, row: Row) -> None:
    """Show an output, and the same under attack."""
    clean, harmed = "", f"{_db(row['psnr_to_clean'])} to its clean output"
    if "psnr_clean" in row:
        clean = f": {_db(row['psnr_clean'])} to the truth"
        harmed = _db(row["psnr_attacked"])
    _show(column[0], outcome.clean, f"{outcome.name}{clean}")
    _show(column[1], outcome.attacked, f"{outcome.name}, under attack:\n{harmed}")


def _show_deviation(axis: Any, deviation: np.ndarray, row: Row, top: float) -> Any:
    """Show the change of an output (H,W) on a colour scale up to top; return the image."""
    image = figures.show_map(axis, deviation, "magma", top, largest=True)
    sizes = f"largest {row['largest_8bit']:.0f}, mean of all {row['mean_8bit']:.2f}"
    axis.set_title(f"change of the output (worst channel):\n{sizes}", fontsize=9)
    return image


def _mark(axis: Any, outside: Tensor) -> None:
    """Mark the values outside of a certificate."""
    down, across = outside[0].any(0).cpu().nonzero().T
    square = {"marker": "s", "facecolors": "none", "edgecolors": "cyan", "linewidths": 0.7}
    axis.scatter(across, down, s=9, **square)
    count = int(outside.sum())
    axis.set_title(
        f"change of the output;\n{count} values outside the certificate: cyan", fontsize=9
    )


def _deviation(outcome: Outcome) -> np.ndarray:
    """By how many 8-bit steps an output moved, the largest over channels: (H,W)."""
    return (to_8bit(outcome.attacked) - to_8bit(outcome.clean)).abs().amax(1)[0].cpu().numpy()


def _show(axis: "Axes", image: Tensor, title: str, *, means: bool = True) -> None:
    figures.show_picture(axis, image, means=means)
    axis.set_title(title, fontsize=9)


def _psnr(output: Tensor, reference: Tensor, **options: Any) -> float | None:
    value = metrics.psnr(output.cpu(), reference.cpu(), **options).item()
    if math.isnan(value):
        raise ValueError("an output has NaN values: try another precision")
    return value if math.isfinite(value) else None


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f} dB"
