"""A figure of scores: each metric against sigma or n, a line for each condition."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from smoothsr.reports import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves"]

ACROSS = 4  # axes beside each other where there is one metric


def curves(records: Sequence[tables.Record], over: Literal["sigma", "n"]) -> "Figure":
    """Draw an axis for each model and metric; bars are standard errors, a ring is the best mean.

    Args:
        records: As in tables.py; of each model one row for each sigma, or n.
        over: What lies on the horizontal axis; n is spaced logarithmically.
    """
    from matplotlib.figure import Figure

    means = tables.means(records)
    models = list(dict.fromkeys(row.model for row in means))
    columns = list(next(iter(means.values())))
    metrics, conditions = (
        list(dict.fromkeys(column[place] for column in columns)) for place in (1, 0)
    )
    across = len(metrics) if len(metrics) > 1 else min(ACROSS, len(models))
    down = math.ceil(len(models) * len(metrics) / across)
    figure = Figure(figsize=(0.6 + 4.4 * across, 0.6 + 3.2 * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, (model, metric) in zip(
        axes, [(model, metric) for model in models for metric in metrics], strict=False
    ):
        best = tables.best(records, metric)
        for condition in conditions:
            found = {
                getattr(row, over): columns[condition, metric]
                for row, columns in means.items()
                if row.model == model
            }
            places = sorted(found)
            values = [found[place].value for place in places]
            errors = [
                0.0 if math.isnan(found[place].error) else found[place].error for place in places
            ]
            drawn = axis.errorbar(
                places, values, errors, capsize=2, elinewidth=0.6, marker=".", label=condition
            )
            top = getattr(best[model, condition], over)
            axis.plot(top, found[top].value, "o", ms=9, mfc="none", color=drawn[0].get_color())
        if over == "n":
            axis.set_xscale("log")
            axis.set_xticks(places, [str(place) for place in places], minor=False)
            axis.set_xticks([], minor=True)
        lower = ", lower is better" if metric in tables.LOWER_IS_BETTER else ""
        axis.set(xlabel=over, ylabel=f"{metric}{lower}", title=model)
        axis.grid(alpha=0.3)
    for axis in axes[len(models) * len(metrics) :]:
        axis.remove()
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=across, fontsize=8
    )
    return figure
