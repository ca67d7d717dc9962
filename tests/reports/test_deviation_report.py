"""What is said of a spectral certificate: never more than it holds."""

import torch
from oracles import LinearSR, gentle

from smoothsr import SmoothedSR
from smoothsr.reports import deviation_report
from smoothsr.reports.deviation_report import Deviation, at_least, deviations, text


def certificate(**options):
    smoothed = SmoothedSR(LinearSR(channels=3), 0.1, 21, tile=2, halo=1, **options)
    lr = (gentle(0, channels=3, side=6) * 255).round() / 255
    return smoothed.certify(lr, n=200, alpha=0.01, kind="both")


def test_rows_are_the_certificates_answers():
    found = certificate()
    rows = deviations(found)
    assert [(row.norm, round(row.radius * 255, 3)) for row in rows[:3]] == [
        ("linf", 0.5),
        ("linf", 1.0),
        ("linf", 2.0),
    ]
    mean = found.as_mean()
    for norm, radius, rms, ideal, served in rows:
        assert rms == 255 * found.deviation(radius, norm)
        assert ideal == mean.psnr(radius, predictor="ideal", norm=norm)
        assert served == mean.psnr(radius, predictor="served", norm=norm)


def test_no_row_is_about_changes_that_a_lattice_has_not():
    rows = deviations(certificate(lattice=True))
    assert [round(255 * row.radius, 6) for row in rows if row.norm == "linf"] == [1, 2, 3]


def test_the_first_sentence_says_whose_output_and_how_sure():
    found = certificate()
    first = text(found, deviations(found)).splitlines()[0]
    assert first.startswith(
        "As long as no value of the file changes by more than 1 (of 255), the average"
    )
    assert "Confidence 0.99; the average of infinitely many" in first


def test_bounds_are_rounded_to_the_safe_side():
    for steps in (1.0499, 4.3406, 14.011, 76.147, 0.012341, 126.04):
        shown = float(deviation_report._up(steps))
        assert steps <= shown <= 1.01 * steps
    assert at_least(31.999) == "31.99 dB"
    assert at_least(float("inf")) == "equal"


def test_a_useless_bound_is_not_praised():
    found = certificate()
    rows = [row._replace(rms_8bit=200.0) for row in deviations(found)]
    assert "too large for this certificate" in text(found, rows)


def test_void_draws_guarantee_nothing():
    smoothed = SmoothedSR(LinearSR(channels=3), 0.1, 21, tile=2, halo=1)
    lr = gentle(0, channels=3, side=6)
    void = smoothed.certify(lr, n=100, kind="both", void_guarantee_seed=1)
    assert text(void, deviations(void)).startswith("Nothing is guaranteed")


def test_a_fixed_seed_leaves_the_served_column_out():
    rows = deviations(certificate(seed=1))
    assert {row.psnr_served for row in rows} == {None}
    assert isinstance(rows[0], Deviation)
    assert torch.isfinite(torch.tensor([row.rms_8bit for row in rows])).all()
