"""Tables of scores: means and standard errors over images, as markdown, CSV and JSON, and what is best.

A record is what one output scored: {"image", "model", "sigma", "n", "condition", "scores": {metric: value}}.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Mean", "best", "csv_text", "is_better", "markdown", "means", "rows", "verdicts"]

Record = Mapping[str, Any]
Row = tuple[str, float, int]  # model, sigma, n
LOWER_IS_BETTER = ("mse", "lpips")
DIGITS = {"psnr": ".2f", "psnr_y": ".2f", "ssim": ".4f", "ssim_y": ".4f", "lpips": ".4f", "mse": ".2e"}


class Mean(NamedTuple):
    """A mean over images and its standard error, NaN where there is none: one image, or an infinite score."""

    value: float
    error: float
    images: int


def means(records: Sequence[Record]) -> dict[Row, dict[tuple[str, str], Mean]]:
    """Average over images: {(model, sigma, n): {(condition, metric): Mean}}, in the records' order.

    Example:
        >>> one = {"model": "net", "sigma": 0, "n": 1, "condition": "none"}
        >>> means([{**one, "image": "a", "scores": {"psnr": 30}}, {**one, "image": "b", "scores": {"psnr": 32}}])
        {('net', 0, 1): {('none', 'psnr'): Mean(value=31.0, error=1.0, images=2)}}
    """
    values: dict[Row, dict[tuple[str, str], list[float]]] = {}
    for record in records:
        row = values.setdefault((record["model"], record["sigma"], record["n"]), {})
        for metric, value in record["scores"].items():
            row.setdefault((record["condition"], metric), []).append(value)
    return {row: {column: _mean(scores) for column, scores in columns.items()} for row, columns in values.items()}


def markdown(records: Sequence[Record], unavailable: Mapping[str, str]) -> str:
    """Format the table: rows model x sigma, columns condition x metric, cells mean and standard error.

    Args:
        records: At least one, and the same conditions and metrics for every row.
        unavailable: Metrics that could not be measured, and why; each gets its columns, which say so.
    """
    table = means(records)
    columns = list(next(iter(table.values())))
    conditions = list(dict.fromkeys(condition for condition, _ in columns))
    measured = list(dict.fromkeys(metric for _, metric in columns))
    heads = [(condition, metric) for condition in conditions for metric in [*measured, *unavailable]]
    lines = [f"| model | sigma | n | {' | '.join(f'{condition} {metric}' for condition, metric in heads)} |"]
    lines.append("|---|---|---|" + "---|" * len(heads))
    for (model, sigma, n), found in table.items():
        cells = [_cell(metric, found.get((condition, metric))) for condition, metric in heads]
        lines.append(f"| {model} | {sigma:g} | {n} | {' | '.join(cells)} |")
    images = len({record["image"] for record in records})
    lines += ["", f"Means over {images} images, and the standard error of each mean; sigma 0 is the bare network."]
    lines += [f"{metric} was not measured: {reason}" for metric, reason in unavailable.items()]
    return "\n".join(lines) + "\n"


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """List means and standard errors, one for each model, sigma, n, condition and metric."""
    found = []
    for (model, sigma, n), columns in means(records).items():
        for (condition, metric), (value, error, images) in columns.items():
            row = {"model": model, "sigma": sigma, "n": n, "condition": condition, "metric": metric, "mean": value}
            found.append({**row, "standard_error": None if math.isnan(error) else error, "images": images})
    return found


def csv_text(records: Sequence[Record]) -> str:
    """Format `rows` as CSV."""
    lines = rows(records)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def best(records: Sequence[Record], metric: str) -> dict[tuple[str, str], Row]:
    """Find, for each model and condition, the row whose mean is best: {(model, condition): (model, sigma, n)}."""
    found: dict[tuple[str, str], Row] = {}
    table = means(records)
    for row, columns in table.items():
        for column, mean in columns.items():
            place = (row[0], column[0])
            if column[1] == metric and (place not in found or is_better(metric, mean.value, table[found[place]][column].value)):
                found[place] = row
    return found


def verdicts(records: Sequence[Record], metric: str) -> list[str]:
    """Say of each model, in one line, where smoothing helps, measured by a metric."""
    table, lines = means(records), list[str]()
    for (model, condition), row in best(records, metric).items():
        value = table[row][condition, metric].value
        bare = table.get((model, 0, 1), {}).get((condition, metric))
        against = "" if bare is None else f", bare {format(bare.value, DIGITS[metric])}"
        what = "bare is best" if not row[1] else f"best at sigma {row[1]:g}, n {row[2]}"
        lines.append(f"{model}, {condition}: {what}, {metric} {format(value, DIGITS[metric])}{against if row[1] else ''}")
    return lines


def is_better(metric: str, first: float, second: float) -> bool:
    """Tell whether the first score of a metric is better than the second."""
    return first < second if metric in LOWER_IS_BETTER else first > second


def _mean(values: Sequence[float]) -> Mean:
    finite = all(map(math.isfinite, values))  # the PSNR of equal images isn't
    error = statistics.stdev(values) / math.sqrt(len(values)) if finite and len(values) > 1 else math.nan
    return Mean(statistics.fmean(values), error, len(values))


def _cell(metric: str, mean: Mean | None) -> str:
    if mean is None:
        return "not measured"
    text = format(mean.value, DIGITS[metric])
    return text if math.isnan(mean.error) else f"{text} ± {format(mean.error, DIGITS[metric])}"
