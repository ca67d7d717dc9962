"""A figure of scores: each metric against sigma or n, a line for each condition."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from smoothsr import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves"]


def curves(records: Sequence[tables.Record], over: Literal["sigma", "n"]) -> "Figure":
    """Draw a row of axes for each model and a column for each metric; bars are standard errors, a ring is the best mean.

    Args:
        records: As in tables.py; of each model one row for each sigma, or n.
        over: What lies on the horizontal axis; n is spaced logarithmically.
    """
    from matplotlib.figure import Figure

    means = tables.means(records)
    models = list(dict.fromkeys(row.model for row in means))
    columns = list(next(iter(means.values())))
    metrics, conditions = (list(dict.fromkeys(column[place] for column in columns)) for place in (1, 0))
    figure = Figure(figsize=(0.6 + 4.4 * len(metrics), 0.6 + 3.2 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(metrics), squeeze=False)
    for model, line in zip(models, axes, strict=True):
        for metric, axis in zip(metrics, line, strict=True):
            best = tables.best(records, metric)
            for condition in conditions:
                found = {getattr(row, over): columns[condition, metric] for row, columns in means.items() if row.model == model}
                places = sorted(found)
                values = [found[place].value for place in places]
                errors = [0.0 if math.isnan(found[place].error) else found[place].error for place in places]
                drawn = axis.errorbar(places, values, errors, capsize=2, elinewidth=0.6, marker=".", label=condition)
                top = getattr(best[model, condition], over)
                axis.plot(top, found[top].value, "o", ms=9, mfc="none", color=drawn[0].get_color())
            if over == "n":
                axis.set_xscale("log")
                axis.set_xticks(places, [str(place) for place in places], minor=False)
                axis.set_xticks([], minor=True)
            lower = ", lower is better" if metric in tables.LOWER_IS_BETTER else ""
            axis.set(xlabel=over, ylabel=f"{metric}{lower}", title=model)
            axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(metrics), fontsize=8)
    return figure
