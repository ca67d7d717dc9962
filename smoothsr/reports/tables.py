"""Tables of scores, as markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smoothsr.evaluation.records import Record, Row
from smoothsr.evaluation.statistics import Mean, digits, means

__all__ = ["csv_text", "json_text", "list_means", "markdown"]


def list_means(records: Sequence[Record], unavailable: Iterable[str] = ()) -> list[dict[str, Any]]:
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
            found.append({**row.to_json(), "condition": condition, "metric": metric, **numbers})
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
    lines = [_line([*Row._fields, *(f"{condition} {metric}" for condition, metric in heads)])]
    lines.append("|" + "---|" * (len(Row._fields) + len(heads)))
    for row, found in table.items():
        numbers = row.to_json().values()
        place = [f"{value:g}" if isinstance(value, float) else str(value) for value in numbers]
        lines.append(_line([*place, *(_cell(found.get(head), head[1]) for head in heads)]))
    images = len({record.image for record in records})
    several = f"Means over {images} images and their standard errors"
    bare = "; sigma 0 is the bare network." if any(not row.sigma for row in table) else "."
    lines += ["", (several if images > 1 else "Scores of 1 image") + bare]
    lines += [f"{metric} was not measured: {reason}" for metric, reason in unavailable.items()]
    return "\n".join(lines) + "\n"


def csv_text(records: Sequence[Record], unavailable: Iterable[str] = ()) -> str:
    """Format `list_means` as CSV, with 6 digits: those that another number of threads leaves
    alone.
    """
    lines = list_means(records, unavailable)
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


def _heads(
    table: Mapping[Row, Mapping[tuple[str, str], Mean]], unavailable: Iterable[str]
) -> list[tuple[str, str]]:
    """The columns, (condition, metric): for each condition what was measured, then what could not
    be.
    """
    columns = list(next(iter(table.values())))
    conditions, metrics = (dict.fromkeys(column[place] for column in columns) for place in (0, 1))
    return [(condition, metric) for condition in conditions for metric in [*metrics, *unavailable]]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(mean: Mean | None, metric: str) -> str:
    if mean is None:
        return "not measured"
    error = "" if math.isnan(mean.error) else f" ± {mean.error:{digits(metric)}}"
    return f"{mean.value:{digits(metric)}}{error}"
