"""Tables and curves of made-up scores, against numpy and the standard readers of CSV."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smoothsr.evaluation import statistics
from smoothsr.evaluation.records import Record, Row
from smoothsr.reports import tables
from smoothsr.reports.curves import curves

CONDITIONS, METRICS, IMAGES = ("none", "noise:0.03"), ("psnr", "lpips"), ("a", "b", "c")
ROWS = [
    Row("net", 0.0),
    Row("net", 0.03, 5, 8, 2),
    Row("other", 0.0),
    Row("other", 0.03, 5, 8, 2),
]
SCORES = {
    row: np.random.default_rng(place).random((3, 2, 2)) * (40, 1) for place, row in enumerate(ROWS)
}


def column(row, condition, metric):
    return SCORES[row][:, CONDITIONS.index(condition), METRICS.index(metric)]


def made(scores=None):
    """Records in the order in which a study gives them."""
    return [
        Record(image, row, condition, dict(zip(METRICS, values[i, j].tolist(), strict=True)))
        for i, image in enumerate(IMAGES)
        for row, values in (scores or SCORES).items()
        for j, condition in enumerate(CONDITIONS)
    ]


def test_means_and_standard_errors_are_numpys():
    found = statistics.means(made())
    assert list(found) == ROWS
    for row, columns in found.items():
        assert len(columns) == 4
        for (condition, metric), mean in columns.items():
            values = column(row, condition, metric)
            assert mean.value == pytest.approx(np.mean(values))
            assert mean.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
            assert mean.images == 3


@pytest.mark.parametrize(("values", "mean"), [([30.0], 30.0), ([30.0, np.inf], np.inf)])
def test_there_may_be_no_standard_error(values, mean):
    records = [
        Record(str(place), ROWS[0], "none", {"psnr": value}) for place, value in enumerate(values)
    ]
    found = statistics.means(records)[ROWS[0]]["none", "psnr"]
    assert (found.value, found.images) == (mean, len(values))
    assert np.isnan(found.error)
    assert tables.list_means(records)[0]["standard_error"] is None
    text = tables.markdown(records, {})
    assert f"| {mean:.2f} |" in text
    assert ("Scores of 1 image;" in text) == (len(values) == 1)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_has_a_row_for_each_setting_and_a_column_for_each_condition_and_metric():
    lines = tables.markdown(made(), {"vif": "no weights at /x"}).splitlines()
    heads = cells(lines[0])
    wanted = [f"{condition} {metric}" for condition in CONDITIONS for metric in (*METRICS, "vif")]
    assert heads == ["model", "sigma", "n", "tile", "halo", "halo_noise", "denoiser", *wanted]
    assert {len(cells(line)) for line in lines[:6]} == {len(heads)}
    assert cells(lines[2])[:5] == ["net", "0", "1", "0", "0"]
    assert cells(lines[5])[:5] == ["other", "0.03", "5", "8", "2"]
    values, found = (
        column(ROWS[3], "noise:0.03", "lpips"),
        dict(zip(heads, cells(lines[5]), strict=True)),
    )
    assert found["noise:0.03 lpips"] == f"{values.mean():.4f} ± {values.std(ddof=1) / 3**0.5:.4f}"
    assert found["none vif"] == "not measured"
    assert lines[6:] == [
        "",
        "Means over 3 images and their standard errors; sigma 0 is the bare network.",
        "vif was not measured: no weights at /x",
    ]


def test_a_table_without_the_bare_network_does_not_speak_of_it():
    smoothed = {row: scores for row, scores in SCORES.items() if row.sigma}
    assert "bare" not in tables.markdown(made(smoothed), {})


def test_csv_is_read_back():
    text = tables.csv_text(made(), ["vif"])
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 4 * 2 * 3
    for line in found:
        row = Row(
            line["model"],
            float(line["sigma"]),
            int(line["n"]),
            int(line["tile"]) or None,
            int(line["halo"]),
        )
        if line["metric"] == "vif":
            assert (line["mean"], line["standard_error"], line["images"]) == ("", "", "0")
        else:
            values = column(row, line["condition"], line["metric"])
            assert float(line["mean"]) == pytest.approx(values.mean(), rel=1e-5)
            assert float(line["standard_error"]) == pytest.approx(
                values.std(ddof=1) / 3**0.5, rel=1e-5
            )
            assert line["images"] == "3"


def test_the_last_bits_do_not_change_the_table():
    moved = {row: values * (1 + 1e-8) for row, values in SCORES.items()}
    assert tables.csv_text(made()) == tables.csv_text(made(moved))
    assert tables.markdown(made(), {}) == tables.markdown(made(moved), {})


@pytest.mark.parametrize("metric", METRICS)
def test_best_is_the_largest_mean_or_the_smallest_distance(metric):
    found = statistics.best(made(), metric)
    assert set(found) == {
        (model, condition) for model in ("net", "other") for condition in CONDITIONS
    }
    for (model, condition), best in found.items():
        means = {row: column(row, condition, metric).mean() for row in ROWS if row.model == model}
        assert best == (min if metric == "lpips" else max)(means, key=means.get)


@pytest.mark.parametrize(
    "metric", ["psnr", "psnr_y", "ssim", "ssim_y", "ideal certified PSNR", "mse", "lpips"]
)
def test_the_better_of_two(metric):
    assert statistics.is_better(metric, 0.2, 0.1) == (metric not in ("mse", "lpips"))
    assert not statistics.is_better(metric, 0.1, 0.1)


def test_comparisons_name_the_best_and_the_bare_score():
    fixed = {row: np.full((3, 2, 2), 20.0 + place) for place, row in enumerate(ROWS[:2])}
    fixed[ROWS[0]] += np.array([-5.0, 0, 5])[
        :, None, None
    ]  # images differ by much more than settings do
    fixed[ROWS[1]] += np.array([-5.3, 0, 5.3])[:, None, None]
    fixed[ROWS[0]][:, 1] = 25
    assert statistics.comparisons(made(fixed), "psnr") == [
        "net, none: best psnr is 21.00, sigma 0.03, n 5, tile 8, halo 2; bare 20.00, a "
        "difference of +1.00 ± 0.17",
        "net, noise:0.03: best psnr is 25.00, bare; sigma 0.03, n 5, tile 8, halo 2 21.00, a "
        "difference of +4.00 ± 3.06, "
        "not significant at 95%",
    ]
    fixed[ROWS[1]][:, 0, 0] = [25, 20, 16]
    assert statistics.comparisons(made(fixed), "psnr")[0].endswith(
        "+0.33 ± 5.49, not significant at 95%"
    )
    fixed[ROWS[1]][:] = fixed[ROWS[0]]
    assert statistics.comparisons(made(fixed), "psnr")[0] == "net, none: psnr is 20.00 in every row"
    one = [record for record in made(fixed) if record.image == "a"]
    one[2] = replace(one[2], scores={"psnr": 30.0})
    assert statistics.comparisons(one, "psnr")[0].endswith(
        "bare 15.00, a difference of +15.00 on one image"
    )


@pytest.mark.parametrize(("images", "told"), [(2, False), (3, False), (4, False), (5, True)])
def test_few_images_need_a_larger_difference(images, told):
    """Of three standard errors: beyond Student's t for five images, not for two to four."""
    spread = np.array([-1.0, 1, 0, 0, 0])[:images]
    scores = 3 * np.std(spread, ddof=1) / images**0.5 + spread
    records = [
        Record(str(place), row, "none", {"psnr": 30 + (score if row.sigma else 0)})
        for place, score in enumerate(scores)
        for row in ROWS[:2]
    ]
    assert statistics.comparisons(records, "psnr")[0].endswith("not significant at 95%") == (
        not told
    )


@pytest.mark.parametrize(
    ("metric", "scores"), [("lpips", (0.1, 0.3, 0.2)), ("psnr", (30.0, 27.0, 28.0))]
)
def test_a_bare_network_that_is_best_is_set_against_the_best_smoothed_one(metric, scores):
    rows = [Row("net", 0.0), Row("net", 0.02, 5), Row("net", 0.04, 5)]
    records = [
        Record("a", row, "none", {metric: score}) for row, score in zip(rows, scores, strict=True)
    ]
    (said,) = statistics.comparisons(records, metric)
    assert (
        f"{said.split('; ')[0]}"
        == f"net, none: best {metric} is {scores[0]:{statistics.digits(metric)}}, bare"
    )
    assert said.split("; ")[1].startswith(
        f"sigma 0.04, n 5 {scores[2]:{statistics.digits(metric)}}, a difference of "
    )


def test_infinite_scores_are_strict_json():
    text = tables.json_text({"a": [np.inf, 1.5], "b": ({"c": -np.inf}, None), "path": Path("x")})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["inf", 1.5],
        "b": [{"c": "-inf"}, None],
        "path": "x",
    }
    same = [Record("a", ROWS[place], "none", {"psnr": np.inf}) for place in (0, 1)]
    assert statistics.change(same, ROWS[1], ROWS[0], "none", "psnr").value == 0
    both = [
        Record(image, row, "none", {"psnr": score})
        for image, scores in (("a", (np.inf, 30.0)), ("b", (30.0, np.inf)))
        for row, score in zip(ROWS, scores, strict=False)
    ]
    assert np.isnan(statistics.change(both, ROWS[1], ROWS[0], "none", "psnr").value)
    assert "in every row" not in statistics.comparisons(both, "psnr")[0]


def swept(over):
    """Scores of a network over sigma, out of order, or over n: a parabola for each condition and
    metric.
    """
    rows = [Row("net", s, 1 if not s else 5) for s in (0.04, 0.0, 0.02)]
    if over == "n":
        rows = [Row("net", 0.03, n) for n in (21, 1, 5)]
    spread = np.array([-1.0, 0, 1])[:, None, None]
    return {
        row: spread - (getattr(row, over) - np.array([[0.0, 0.021], [0.04, 5]])) ** 2
        for row in rows
    }


@pytest.mark.parametrize("over", ["sigma", "n"])
def test_curves_show_the_means_in_order_and_ring_the_best(over):
    scores = swept(over)
    figure = curves(made(scores), over)
    assert [axis.get_ylabel() for axis in figure.axes] == ["psnr", "lpips, lower is better"]
    places = sorted(getattr(row, over) for row in scores)
    for m, axis in enumerate(figure.axes):
        assert axis.get_xlabel() == over
        assert (axis.get_title(), axis.get_xscale()) == (
            "net",
            "linear" if over == "sigma" else "log",
        )
        for c, container in enumerate(axis.containers):
            line, _, (bars,) = container.lines
            means = {getattr(row, over): values[:, c, m].mean() for row, values in scores.items()}
            assert container.get_label() == CONDITIONS[c]
            assert line.get_xdata().tolist() == places
            assert line.get_ydata() == pytest.approx([means[place] for place in places])
            lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
            assert lengths == pytest.approx([2 / 3**0.5] * 3)
            best = (max if m == 0 else min)(means, key=means.get)
            rings = [
                (x.get_xdata()[0], x.get_ydata()[0], x.get_color())
                for x in axis.lines
                if x.get_marker() == "o"
            ]
            assert (best, pytest.approx(means[best]), line.get_color()) in rings
            assert len(rings) == 2


def test_curves_of_one_image_have_no_bars(tmp_path):
    records = [record for record in made(swept("n")) if record.image == "a"]
    figure = curves(records, "n")
    (bars,) = figure.axes[0].containers[0].lines[2]
    assert all(segment[0, 1] == segment[1, 1] for segment in bars.get_segments())
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "5", "21"]
    figure.savefig(tmp_path / "figure.png")


def test_many_models_and_one_metric_make_rows_of_four():
    rows = [Row(f"net{place}", sigma, 5) for place in range(6) for sigma in (0.02, 0.04)]
    one = [Record("a", row, "none", {"psnr": place % 7}) for place, row in enumerate(rows)]
    axes = curves(one, "sigma").axes
    assert [axis.get_title() for axis in axes] == [f"net{place}" for place in range(6)]
    assert (
        len({round(axis.get_subplotspec().get_position(axis.figure).x0, 3) for axis in axes}) == 4
    )
    assert [axis.containers[0].lines[0].get_ydata().tolist() for axis in axes][:2] == [
        [0, 1],
        [2, 3],
    ]
