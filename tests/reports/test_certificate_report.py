import pytest
import torch
from synthetic_certificates import made as synthetic
from torch import nn

from smoothsr import SmoothedSR, metrics
from smoothsr.reports import certificate_figures, certificate_report, figures
from smoothsr.reports.certificate_report import Questions, answer
from smoothsr.reports.deviation_report import at_least


def certificate(**options):
    net = nn.Upsample(scale_factor=2, mode="nearest").eval()
    lr = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    lr = (lr * 255).round() / 255 if options.get("lattice") else lr
    return lr, SmoothedSR(net, 0.05, **options).certify(lr, n=200, levels=4)


def reference_of(made):
    return torch.rand(made.sr.shape, generator=torch.Generator().manual_seed(1))


def test_predictors_are_those_that_can_be_spoken_of():
    assert certificate()[1].predictors == ["served", "ideal"]
    assert certificate(seed=1)[1].predictors == ["ideal"]
    assert certificate(agg="mean")[1].predictors == ["ideal"]


def test_answers_and_table_agree_with_the_certificate():
    _, made = certificate(tile=2, halo=1)
    reference = reference_of(made)
    answers = answer(made, Questions([0.01, 0.0], 16 / 255, 0.01, reference), made.sr)
    assert [(row["predictor"], row["radius"]) for row in answers.rows] == [
        (p, r) for p in ("served", "ideal") for r in (0.0, 0.01)
    ]
    for row in answers.rows:
        radius, predictor = row["radius"], row["predictor"]
        assert row["psnr_reference"] == made.psnr(radius, reference, predictor=predictor)
        assert row["trivial_share"] == made.trivial_share(radius, predictor, 0.01)
        assert row["psnr_box"] <= row["psnr_collective"] + 1e-9
        held = made.radius_map(16 / 255, predictor, 0.01)
        assert row["within_tolerance"] == float((held >= radius).float().mean())
    text = "\n\n".join(certificate_report.sections(answers))
    assert [(row["predictor"], row["linf"]) for row in answers.linf_rows] == [
        (p, r / 255) for p in ("served", "ideal") for r in (0.5, 1)
    ]
    linf = answers.linf_rows[0]
    assert at_least(answers.rows[1]["psnr_collective"]) in text
    reference_psnr = at_least(linf["psnr_reference"])
    assert f"{at_least(linf['psnr'])}, {reference_psnr} to the reference" in text
    assert max(map(len, text.splitlines())) < 132


def test_the_box_and_what_tiles_share_are_told_apart():
    many_tiles = synthetic(sides=(8, 10))
    answers = answer(many_tiles, Questions([0.1, 0.15], 16 / 255, 0.01), None)
    for row in answers.rows:
        radius, predictor = row["radius"], row["predictor"]
        assert row["psnr_box"] == many_tiles.psnr(radius, method="box", predictor=predictor)
        assert row["psnr_collective"] == many_tiles.psnr(radius, predictor=predictor)
        assert row["psnr_box"] < row["psnr_collective"]


def test_a_table_says_first_what_it_is_about_and_then_what_its_words_mean():
    _, made = certificate(tile=2, halo=1)
    answers = answer(made, Questions([0.01], 16 / 255, 0.01, reference_of(made)), None)
    served, ideal, legend = certificate_report.sections(answers)
    assert served.startswith("served: the median of 21 fresh draws")
    assert ideal.startswith("ideal: the median of infinitely many draws")
    heads = [head.strip() for head in served.splitlines()[1].split("  ") if head.strip()]
    assert [line.split(":")[0].strip() for line in legend.splitlines()[: len(heads)]] == heads
    assert "M: 4, the most patches that read one input pixel" in legend
    whole = answer(certificate()[1], Questions([0.01], 16 / 255, 0.01), None)
    assert "M:" not in certificate_report.sections(whole)[-1]  # one patch: nothing to explain


def test_what_is_without_an_attack_stands_above_the_bounds():
    lr, made = certificate(tile=2, halo=1)
    reference = reference_of(made)
    bare = nn.functional.interpolate(lr, scale_factor=2)
    answers = answer(made, Questions([0.01], 16 / 255, 0.01, reference), bare)
    expected = {"bare": bare, "smoothed": made.sr}
    lines = certificate_report.sections(answers)[0].splitlines()
    for line, (name, output) in zip(lines[2:], expected.items(), strict=False):
        psnr = metrics.psnr(output, reference).item()
        assert answers.actual[name] == psnr
        assert line.split() == [name, f"{psnr:.2f}", "dB"]
        assert line.endswith(f"{psnr:.2f} dB")
        assert len(line) == len(lines[1])  # in the column of the bounds to the reference
    assert answer(made, Questions([0.01], 16 / 255, 0.01), bare).actual == {}


def test_each_radius_map_is_computed_once(monkeypatch, tmp_path):
    lr, made = certificate(tile=2, halo=1)
    calls = []
    original = type(made).radius_map
    monkeypatch.setattr(
        type(made), "radius_map", lambda *given: calls.append(given[2]) or original(*given)
    )
    answers = answer(made, Questions([0.0, 0.01], 16 / 255, 0.01), made.sr)
    certificate_figures.radius_figure(answers)
    certificate_figures.panel(lr, made.sr, answers)
    assert calls == ["served", "ideal"]


def test_sentences_say_radius_confidence_and_predictor():
    _, made = certificate(tile=2, halo=1)
    given, absent = certificate_report.sentences(made, 0.01, 0.01)
    for part in (
        "0.999",
        "200 certification draws",
        "l2 norm up to 0.01",
        "median of 21",
        "tile 2, halo 1, M 4",
        "at least 0.99",
    ):
        assert part in given
    assert "whole range" not in given
    assert "Not guaranteed: larger attacks" in absent
    far = certificate_report.sentences(made, 0.2, 0.01)[0]
    assert far.startswith("Nothing is guaranteed of single values of the served median under ")
    assert f"--n-cert {made.draws_needed(0.2, 'served', 0.01)} would do" in far
    endless = certificate_report.sentences(made, 2.0, 0.01)[0]
    assert "whole range. About 10^" in endless
    assert "there are bounds" not in certificate_report.sentences(made, 2.0, 0.01)[1]


def test_a_lattice_is_asked_for_whole_steps_and_says_what_radii_mean_there():
    _, made = certificate(lattice=True)
    answers = answer(made, Questions([0.02], 16 / 255, 0.01), None)
    assert [255 * row["linf"] for row in answers.linf_rows[:2]] == [1, 2]
    given = certificate_report.sentences(made, 0.02, 0.01)[0]
    assert "every attack by whole 8-bit steps of l2 norm up to 0.02" in given
    assert "as many as 26 of 144 values by one step" in given  # (.02 * 255)^2 = 26.01
    little = certificate_report.sentences(made, 0.003, 0.01)[0]
    assert "less than one value by one step, so no change is so small" in little
    assert "by one step" not in certificate_report.sentences(made, 0.1, 0.01)[0]  # of all values
    assert "by one step" not in certificate_report.sentences(certificate()[1], 0.02, 0.01)[0]


def test_what_is_known_of_the_ideal_output_is_told_where_of_the_served_one_nothing_is():
    _, made = certificate()
    radius = 0.05
    assert made.draws_needed(radius, "ideal") <= 200 < made.draws_needed(radius, "served", 0.01)
    given, absent = certificate_report.sentences(made, radius, 0.01)
    assert given.startswith("Nothing is guaranteed of single values of the served median")
    assert absent.startswith("Of the ideal median there are bounds: the table has them.")
    assert made.trivial_share(radius, "ideal") < 1


def test_a_void_certificate_claims_nothing():
    net = nn.Upsample(scale_factor=2, mode="nearest").eval()
    made = SmoothedSR(net, 0.05).certify(torch.rand(1, 3, 4, 4), n=200, void_guarantee_seed=1)
    assert certificate_report.sentences(made, 0.01, 0.01)[0].startswith("Nothing is guaranteed")


def test_figures_show_real_units(tmp_path):
    _, made = certificate(tile=2, halo=1)
    answers = answer(made, Questions([0.01], 16 / 255, 0.01), None)
    figure = certificate_figures.radius_figure(answers)
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert any("l2 norm" in label for label in labels)
    shown = figure.axes[0].images[0].get_array().data
    expected = made.radius_map(16 / 255, "served", 0.01).numpy()
    assert shown.shape == expected.shape


@pytest.mark.parametrize("with_bare", [False, True])
@pytest.mark.parametrize("with_reference", [False, True])
def test_no_cell_of_the_panel_is_empty_and_one_is_the_width(with_bare, with_reference, tmp_path):
    lr, made = certificate(tile=2, halo=1)
    reference = reference_of(made) if with_reference else None
    answers = answer(made, Questions([0.01], 16 / 255, 0.01, reference), None)
    panel = certificate_figures.panel(lr, made.sr if with_bare else None, answers)
    cells = [axis for axis in panel.axes if axis.get_title()]
    assert all(axis.images for axis in cells)
    assert len(cells) == 6 + with_bare + with_reference
    lower, upper = made.bounds(0.01, "served", 0.01)
    width = next(axis for axis in cells if axis.get_title().startswith("width of the bounds"))
    steps = (upper - lower)[0].amax(0).numpy() * 255
    assert width.images[0].get_array().data == pytest.approx(steps, abs=1e-4)
    figures.save_figure(panel, tmp_path / "panel.png")
    assert [path.name for path in tmp_path.iterdir()] == ["panel.png"]


def test_the_legend_says_with_what_the_collective_bound_compares():
    net = nn.Upsample(scale_factor=2, mode="nearest").eval()
    lr = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    mean = SmoothedSR(net, 0.05, agg="mean", tile=2, halo=1).certify(lr, n=60, levels=4)
    of_mean, of_median = (
        certificate_report.sections(answer(each, Questions([0.01], 16 / 255, 0.01), None))[-1]
        for each in (mean, synthetic())
    )
    assert "collective: the attacked output against the ideal mean without an attack" in of_mean
    assert "collective: the same, with one attack that all tiles share" in of_median
