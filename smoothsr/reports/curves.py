"""A figure of scores: each metric against sigma or n, a line for each condition."""

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from smoothsr.evaluation import statistics
from smoothsr.evaluation.records import NONE, Record, Row
from smoothsr.evaluation.statistics import Mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Over", "curves", "trade_off"]

ACROSS = 4  # axes beside each other where there is one metric
Over = Literal["sigma", "n"]


def curves(records: Sequence[Record], over: Over) -> "Figure":
    """Draw an axis for each model and metric; bars are standard errors, a ring is the best mean.

    Args:
        records: Of each model one row for each sigma, or n.
        over: What lies on the horizontal axis; n is spaced logarithmically.
    """
    from matplotlib.figure import Figure

    table = statistics.means(records)
    models = list(dict.fromkeys(row.model for row in table))
    columns = next(iter(table.values()))
    metrics = list(dict.fromkeys(metric for _, metric in columns))
    across = len(metrics) if len(metrics) > 1 else min(ACROSS, len(models))
    down = math.ceil(len(models) * len(metrics) / across)
    figure = Figure(figsize=(0.6 + 4.4 * across, 0.6 + 3.2 * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    places = [(model, metric) for model in models for metric in metrics]
    for axis, (model, metric) in zip(axes, places, strict=False):
        best = statistics.best(records, metric)
        for condition in dict.fromkeys(condition for condition, _ in columns):
            points = _points(table, model, (condition, metric), over)
            _draw(axis, points, getattr(best[model, condition], over), condition)
        _describe(axis, model, metric, over, [getattr(row, over) for row in table])
    for axis in axes[len(places) :]:
        axis.remove()
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=across, fontsize=8)
    return figure


def trade_off(records: Sequence[Record], certified: str, clean: str) -> "Figure":
    """Draw what is certified against the quality without an attack: a point for each row.

    Args:
        records: Of certificates.
        certified: The metric that is certified.
        clean: The metric without an attack.
    """
    from matplotlib.figure import Figure

    table = statistics.means(records)
    models = list(dict.fromkeys(row.model for row in table))
    figure = Figure(figsize=(0.6 + 5.2 * len(models), 4.8), layout="constrained")
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    for axis, model in zip(axes, models, strict=True):
        rows = {row: found for row, found in table.items() if row.model == model}
        _draw_trade_off(axis, rows, certified, clean)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_trade_off(
    axis: "Axes", rows: Mapping[Row, Mapping[tuple[str, str], Mean]], certified: str, clean: str
) -> None:
    """Draw a model's rows; each is named above its highest point."""
    conditions = dict.fromkeys(condition for condition, _ in next(iter(rows.values())))
    for condition, marker in zip(conditions, itertools.cycle("osD^v<>")):
        across = [found[condition, clean].value for found in rows.values()]
        up = [found[condition, certified].value for found in rows.values()]
        axis.plot(across, up, marker, ms=5, mfc="none", label=condition)
    for row, found in rows.items():
        highest = max(found[condition, certified].value for condition in conditions)
        place = (found[next(iter(conditions)), clean].value, highest)
        name = f"{row.sigma:g}, " + (f"{row.tile}/{row.halo}" if row.tile else "no tiles")
        name += f"/{row.halo_noise:g}" if row.halo_noise > 1 else ""
        name += f", {row.denoiser}" if row.denoiser != NONE else ""
        axis.annotate(name, place, (0, 4), textcoords="offset points", fontsize=7, ha="center")
    model = next(iter(rows)).model
    axis.set(xlabel=f"{clean}, dB", ylabel=f"{certified}, dB", title=f"{model}: sigma, tile/halo")
    axis.ticklabel_format(useOffset=False)
    axis.grid(alpha=0.3)


def _points(
    table: Mapping[Row, Mapping[tuple[str, str], Mean]],
    model: str,
    column: tuple[str, str],
    over: Over,
) -> dict[float, Mean]:
    """Return a model's means by place on the horizontal axis, in order."""
    rows = [row for row in table if row.model == model]
    return {getattr(row, over): table[row][column] for row in sorted(rows, key=attrgetter(over))}


def _draw(axis: Any, points: Mapping[float, Mean], best: float, label: str) -> None:
    """Draw one line with its bars, and a ring around the best mean."""
    values = [mean.value for mean in points.values()]
    errors = [0.0 if math.isnan(mean.error) else mean.error for mean in points.values()]
    style = {"capsize": 2, "elinewidth": 0.6, "marker": ".", "label": label}
    line = axis.errorbar([*points], values, errors, **style)[0]
    axis.plot(best, points[best].value, "o", ms=9, mfc="none", color=line.get_color())


def _describe(axis: Any, model: str, metric: str, over: Over, places: Sequence[float]) -> None:
    """Name the axis and what lies on it."""
    if over == "n":
        ticks = sorted({*places})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(place) for place in ticks], minor=False)
        axis.set_xticks([], minor=True)
    lower = ", lower is better" if metric in statistics.LOWER_IS_BETTER else ""
    axis.set(xlabel=over, ylabel=f"{metric}{lower}", title=model)
    axis.grid(alpha=0.3)
