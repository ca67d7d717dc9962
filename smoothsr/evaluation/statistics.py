"""Statistics of scores: means and standard errors over images, what is best, and whether bare and
smoothed networks differ.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from smoothsr.engine.noise import sigma_text
from smoothsr.evaluation.records import NONE, Record, Row

__all__ = [
    "LOWER_IS_BETTER",
    "Mean",
    "best",
    "change",
    "comparisons",
    "digits",
    "is_better",
    "is_significant",
    "means",
]

LOWER_IS_BETTER = ("mse", "lpips")
Column = tuple[str, str]
"""(condition, metric)."""


class Mean(NamedTuple):
    """A mean over images and its standard error, NaN where there is none: one image, or an infinite
    score.
    """

    value: float
    error: float
    images: int


def means(records: Sequence[Record]) -> dict[Row, dict[Column, Mean]]:
    """Average over images: {row: {(condition, metric): Mean}}, in the records' order.

    Example:
        >>> row = Row("net", 0.0)
        >>> records = [Record("a", row, "none", {"psnr": 30.0})]
        >>> records += [Record("b", row, "none", {"psnr": 32.0})]
        >>> means(records)[row]
        {('none', 'psnr'): Mean(value=31.0, error=1.0, images=2)}
    """
    values: dict[Row, dict[Column, list[float]]] = {}
    for record in records:
        columns = values.setdefault(record.row, {})
        for metric, value in record.scores.items():
            columns.setdefault((record.condition, metric), []).append(value)
    return {
        row: {column: _mean(scores) for column, scores in columns.items()}
        for row, columns in values.items()
    }


def change(records: Sequence[Record], row: Row, against: Row, condition: str, metric: str) -> Mean:
    """Average over images by how much a row's score exceeds another's: paired, so without what
    images differ by.

    Example:
        >>> bare, row = Row("net", 0.0), Row("net", 0.1, 5)
        >>> scores = [("a", bare, 20.0), ("b", bare, 30.0), ("a", row, 21.0), ("b", row, 31.5)]
        >>> records = [Record(name, at, "none", {"psnr": psnr}) for name, at, psnr in scores]
        >>> change(records, row, bare, "none", "psnr")
        Mean(value=1.25, error=0.25, images=2)
    """
    scores: dict[Row, dict[str, float]] = {row: {}, against: {}}
    for record in records:
        if record.row in scores and record.condition == condition:
            scores[record.row][record.image] = record.scores[metric]
    pairs = [(value, scores[against][image]) for image, value in scores[row].items()]
    # Two infinite scores are equal.
    return _mean([0.0 if value == other else value - other for value, other in pairs])


def best(records: Sequence[Record], metric: str) -> dict[tuple[str, str], Row]:
    """Find, for each model and condition, the row whose mean is best: {(model, condition): row}."""
    found: dict[tuple[str, str], Row] = {}
    table = means(records)
    for row, columns in table.items():
        for (condition, name), mean in columns.items():
            if name != metric:
                continue
            place = (row.model, condition)
            known = table[found[place]][condition, metric].value if place in found else math.nan
            if place not in found or is_better(metric, mean.value, known):
                found[place] = row
    return found


def is_better(metric: str, first: float, second: float) -> bool:
    """Tell whether the first score of a metric is better than the second."""
    return first < second if metric in LOWER_IS_BETTER else first > second


def is_significant(gain: Mean) -> bool:
    """Tell whether a mean change differs from 0 at 95%, by Student's t: few images tell little."""
    return bool(abs(gain.value) > stdtrit(gain.images - 1, 0.975) * gain.error)


def digits(metric: str) -> str:
    """Return the format of a metric's scores."""
    return {"mse": ".2e", "lpips": ".4f", "ssim": ".4f", "ssim_y": ".4f"}.get(metric, ".2f")


def comparisons(records: Sequence[Record], metric: str) -> list[str]:
    """Say of each model and condition, in one line, what is best, and how bare and smoothed
    differ.
    """
    table = means(records)
    lines = []
    for (model, condition), row in best(records, metric).items():
        column = (condition, metric)
        scores = {at: found[column].value for at, found in table.items() if at.model == model}
        lines.append(f"{model}, {condition}: {_comparison(records, row, scores, column)}")
    return lines


def _comparison(
    records: Sequence[Record], row: Row, scores: Mapping[Row, float], column: Column
) -> str:
    """Compare the best row with the best of the other kind, bare or smoothed."""
    condition, metric = column
    form = digits(metric)
    if len(scores) > 1 and len({*scores.values()}) == 1 and math.isfinite(scores[row]):
        return f"{metric} is {scores[row]:{form}} in every row"
    text = f"best {metric} is {scores[row]:{form}}, {_how(row)}"
    others = {at: score for at, score in scores.items() if bool(at.sigma) != bool(row.sigma)}
    if not others:
        return text
    other = (min if metric in LOWER_IS_BETTER else max)(others, key=others.__getitem__)
    difference = _difference(change(records, row, other, condition, metric), form)
    return f"{text}; {_how(other)} {scores[other]:{form}}, {difference}"


def _how(row: Row) -> str:
    tiles = f", tile {row.tile}, halo {row.halo}" if isinstance(row.tile, int) else ""
    tiles += f", halo noise {row.halo_noise:g}" if row.halo_noise > 1 else ""
    tiles += f", denoiser {row.denoiser}" if row.denoiser != NONE else ""
    return f"sigma {sigma_text(row.sigma)}, n {row.n}{tiles}" if row.sigma else "bare"


def _difference(gain: Mean, form: str) -> str:
    text = f"a difference of {gain.value:+{form}}"
    if math.isnan(gain.error):
        return text + (" on one image" if gain.images == 1 else "")
    doubt = "" if is_significant(gain) else ", not significant at 95%"
    return f"{text} ± {gain.error:{form}}{doubt}"


def _mean(values: Sequence[float]) -> Mean:
    error = math.nan
    if all(map(math.isfinite, values)) and len(values) > 1:  # the PSNR of equal images isn't finite
        error = statistics.stdev(values) / math.sqrt(len(values))
    value = math.nan if {math.inf, -math.inf} <= {*values} else statistics.fmean(values)
    return Mean(value, error, len(values))
