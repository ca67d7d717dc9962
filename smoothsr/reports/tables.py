"""Tables of scores: means and standard errors over images, as markdown and CSV, and what is best.

A record is what one output scored: {"image", "model", "sigma", "n", "tile", "halo", "condition",
"scores": {metric: value}}.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit

from smoothsr.engine.noise import sigma_text

__all__ = [
    "Mean",
    "Row",
    "best",
    "change",
    "csv_text",
    "digits",
    "is_better",
    "json_text",
    "markdown",
    "means",
    "rows",
    "verdicts",
]

Record = Mapping[str, Any]
LOWER_IS_BETTER = ("mse", "lpips")


class Row(NamedTuple):
    """What was measured: a network and how it was run; sigma 0 is bare, tile 0 is none."""

    model: str
    sigma: float
    n: int
    tile: int
    halo: int


class Mean(NamedTuple):
    """A mean over images and its standard error, NaN where there is none: one image, or an infinite
    score.
    """

    value: float
    error: float
    images: int


def means(records: Sequence[Record]) -> dict[Row, dict[tuple[str, str], Mean]]:
    """Average over images: {row: {(condition, metric): Mean}}, in the records' order.

    Example:
        >>> one = {"model": "net", "sigma": 0, "n": 1, "tile": 0, "halo": 0, "condition": "none"}
        >>> records = [{**one, "image": "a", "scores": {"psnr": 30}}]
        >>> records += [{**one, "image": "b", "scores": {"psnr": 32}}]
        >>> table = means(records)
        >>> table[Row("net", 0, 1, 0, 0)]
        {('none', 'psnr'): Mean(value=31.0, error=1.0, images=2)}
    """
    values: dict[Row, dict[tuple[str, str], list[float]]] = {}
    for record in records:
        columns = values.setdefault(Row(*(record[name] for name in Row._fields)), {})
        for metric, value in record["scores"].items():
            columns.setdefault((record["condition"], metric), []).append(value)
    return {
        row: {column: _mean(scores) for column, scores in columns.items()}
        for row, columns in values.items()
    }


def rows(records: Sequence[Record], unavailable: Iterable[str] = ()) -> list[dict[str, Any]]:
    """List means and standard errors, one for each row, condition and metric; None where there is
    none.

    Args:
        records: At least one, and the same conditions and metrics for every row.
        unavailable: Metrics that could not be measured; each is listed with 0 images.
    """
    found, table = [], means(records)
    for row, columns in table.items():
        for condition, metric in _heads(table, unavailable):
            value, error, images = columns.get((condition, metric), Mean(math.nan, math.nan, 0))
            numbers = {
                "mean": value if images else None,
                "standard_error": None if math.isnan(error) else error,
                "images": images,
            }
            found.append({**row._asdict(), "condition": condition, "metric": metric, **numbers})
    return found


def markdown(records: Sequence[Record], unavailable: Mapping[str, str]) -> str:
    """Format the table: rows model and setting, columns condition and metric, cells mean and
    standard error.

    Args:
        records: At least one, and the same conditions and metrics for every row.
        unavailable: Metrics that could not be measured, and why; each gets its columns, which say
            so.
    """
    table = means(records)
    heads = _heads(table, unavailable)
    lines = [
        "| "
        f"{' | '.join([*Row._fields, *(f'{condition} {metric}' for condition, metric in heads)])} "
        "|"
    ]
    lines.append("|" + "---|" * (len(Row._fields) + len(heads)))
    for row, found in table.items():
        place = [f"{value:g}" if isinstance(value, float) else str(value) for value in row]
        lines.append(
            f"| {' | '.join([*place, *(_cell(found.get(head), head[1]) for head in heads)])} |"
        )
    images = len({record["image"] for record in records})
    over = (
        f"Means over {images} images and their standard errors"
        if images > 1
        else "Scores of 1 image"
    )
    lines += [
        "",
        over + ("; sigma 0 is the bare network." if any(not row.sigma for row in table) else "."),
    ]
    lines += [f"{metric} was not measured: {reason}" for metric, reason in unavailable.items()]
    return "\n".join(lines) + "\n"


def csv_text(records: Sequence[Record], unavailable: Iterable[str] = ()) -> str:
    """Format `rows` as CSV, with 6 digits: those that another number of threads leaves alone."""
    lines = rows(records, unavailable)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(lines[0])
    writer.writerows(
        [f"{value:.6g}" if isinstance(value, float) else value for value in line.values()]
        for line in lines
    )
    return stream.getvalue()


def json_text(value: Any) -> str:
    """Format as strict JSON, in which infinite scores are the string "inf", and what is undefined
    is "nan".
    """

    def strict(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): strict(found) for key, found in value.items()}
        if isinstance(value, list | tuple):
            return [strict(found) for found in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(strict(value), indent=1, default=str, allow_nan=False) + "\n"


def change(records: Sequence[Record], row: Row, against: Row, condition: str, metric: str) -> Mean:
    """Average over images by how much a row's score exceeds another's: paired, so without what
    images differ by.

    Example:
        >>> bare, row = Row("net", 0, 1, 0, 0), Row("net", 0.1, 5, 0, 0)
        >>> scores = [("a", bare, 20.0), ("b", bare, 30.0), ("a", row, 21.0), ("b", row, 31.5)]
        >>> records = [
        ...     {**at._asdict(), "condition": "none", "image": name, "scores": {"psnr": psnr}}
        ...     for name, at, psnr in scores
        ... ]
        >>> change(records, row, bare, "none", "psnr")
        Mean(value=1.25, error=0.25, images=2)
    """
    scores: dict[Row, dict[str, float]] = {row: {}, against: {}}
    for record in records:
        place = Row(*(record[name] for name in Row._fields))
        if place in scores and record["condition"] == condition:
            scores[place][record["image"]] = record["scores"][metric]
    pairs = [(value, scores[against][image]) for image, value in scores[row].items()]
    return _mean(
        [0.0 if value == other else value - other for value, other in pairs]
    )  # two infinite scores are equal


def best(records: Sequence[Record], metric: str) -> dict[tuple[str, str], Row]:
    """Find, for each model and condition, the row whose mean is best: {(model, condition): row}."""
    found: dict[tuple[str, str], Row] = {}
    table = means(records)
    for row, columns in table.items():
        for column, mean in columns.items():
            place = (row.model, column[0])
            if column[1] == metric and (
                place not in found
                or is_better(metric, mean.value, table[found[place]][column].value)
            ):
                found[place] = row
    return found


def verdicts(records: Sequence[Record], metric: str) -> list[str]:
    """Say of each model and condition, in one line, what is best, and how bare and smoothed
    differ.
    """
    table, lines = means(records), list[str]()
    for (model, condition), row in best(records, metric).items():
        scores = {
            found: columns[condition, metric].value
            for found, columns in table.items()
            if found.model == model
        }
        if len(scores) > 1 and len({*scores.values()}) == 1 and math.isfinite(scores[row]):
            lines.append(
                f"{model}, {condition}: {metric} is {scores[row]:{digits(metric)}} in every row"
            )
            continue
        line = f"best {metric} is {scores[row]:{digits(metric)}}, {_how(row)}"
        others = {
            found: score for found, score in scores.items() if bool(found.sigma) != bool(row.sigma)
        }
        if others:  # the bare network against the best smoothed one
            other = (min if metric in LOWER_IS_BETTER else max)(others, key=others.__getitem__)
            line += (
                f"; {_how(other)} {scores[other]:{digits(metric)}}, "
                f"{_difference(records, row, other, condition, metric)}"
            )
        lines.append(f"{model}, {condition}: {line}")
    return lines


def _how(row: Row) -> str:
    tiles = f", tile {row.tile}, halo {row.halo}" if row.tile else ""
    return f"sigma {sigma_text(row.sigma)}, n {row.n}{tiles}" if row.sigma else "bare"


def _difference(
    records: Sequence[Record], row: Row, other: Row, condition: str, metric: str
) -> str:
    gain = change(records, row, other, condition, metric)
    text = f"a difference of {gain.value:+{digits(metric)}}"
    if math.isnan(gain.error):
        return text + (" on one image" if gain.images == 1 else "")
    told = (
        abs(gain.value) > stdtrit(gain.images - 1, 0.975) * gain.error
    )  # Student's t: few images tell little
    return f"{text} ± {gain.error:{digits(metric)}}" + ("" if told else ", not significant at 95%")


def is_better(metric: str, first: float, second: float) -> bool:
    """Tell whether the first score of a metric is better than the second."""
    return first < second if metric in LOWER_IS_BETTER else first > second


def digits(metric: str) -> str:
    """Return the format of a metric's scores."""
    return {"mse": ".2e", "lpips": ".4f", "ssim": ".4f", "ssim_y": ".4f"}.get(metric, ".2f")


def _heads(
    table: Mapping[Row, Mapping[tuple[str, str], Mean]], unavailable: Iterable[str]
) -> list[tuple[str, str]]:
    """The columns, (condition, metric): for each condition what was measured, then what could not
    be.
    """
    columns = list(next(iter(table.values())))
    conditions, metrics = (dict.fromkeys(column[place] for column in columns) for place in (0, 1))
    return [(condition, metric) for condition in conditions for metric in [*metrics, *unavailable]]


def _mean(values: Sequence[float]) -> Mean:
    finite = all(map(math.isfinite, values))  # the PSNR of equal images isn't
    error = (
        statistics.stdev(values) / math.sqrt(len(values))
        if finite and len(values) > 1
        else math.nan
    )
    value = math.nan if {math.inf, -math.inf} <= {*values} else statistics.fmean(values)
    return Mean(value, error, len(values))


def _cell(mean: Mean | None, metric: str) -> str:
    if mean is None:
        return "not measured"
    return f"{mean.value:{digits(metric)}}" + (
        "" if math.isnan(mean.error) else f" ± {mean.error:{digits(metric)}}"
    )
