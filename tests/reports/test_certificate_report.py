import torch
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.reports import certificate_report


def certificate(**options):
    net = nn.Upsample(scale_factor=2, mode="nearest").eval()
    lr = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return lr, SmoothedSR(net, 0.05, **options).certify(lr, n=200, levels=4)


def test_predictors_are_those_that_can_be_spoken_of():
    assert certificate()[1].predictors == ["served", "ideal"]
    assert certificate(seed=1)[1].predictors == ["ideal"]
    assert certificate(agg="mean")[1].predictors == ["ideal"]


def test_rows_and_table_agree_with_the_certificate():
    _, made = certificate(tile=2, halo=1)
    reference = torch.rand(made.sr.shape, generator=torch.Generator().manual_seed(1))
    found = certificate_report.rows(made, [0.0, 0.01], 16 / 255, 0.01, reference)
    assert [(row["predictor"], row["radius"]) for row in found] == [
        (p, r) for p in ("served", "ideal") for r in (0.0, 0.01)
    ]
    for row in found:
        assert row["psnr_reference"] == made.psnr(
            row["radius"], reference, predictor=row["predictor"]
        )
        assert row["trivial_share"] == made.trivial_share(row["radius"], row["predictor"], 0.01)
        assert row["psnr_box"] <= row["psnr_collective"] + 1e-9
    linf = certificate_report.linf_rows(made, [1 / 255], reference)
    text = certificate_report.table(made, found, linf, 16 / 255)
    assert f"{found[1]['psnr_collective']:.2f} dB" in text
    assert f"{linf[0]['psnr']:.2f} dB, {linf[0]['psnr_reference']:.2f} dB to the reference" in text
    assert "within 16/255" in text
    assert max(map(len, text.splitlines())) < 132


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
    assert (
        f"--n-cert {made.draws_needed(0.2, 'served', 0.01)}"
        in certificate_report.sentences(made, 0.2, 0.01)[0]
    )


def test_a_void_certificate_claims_nothing():
    net = nn.Upsample(scale_factor=2, mode="nearest").eval()
    made = SmoothedSR(net, 0.05).certify(torch.rand(1, 3, 4, 4), n=200, void_guarantee_seed=1)
    assert certificate_report.sentences(made, 0.01, 0.01)[0].startswith("Nothing is guaranteed")


def test_figures_show_real_units(tmp_path):
    lr, made = certificate(tile=2, halo=1)
    figure = certificate_report.radius_figure(made, 16 / 255, 0.01)
    assert any("l2 norm" in axis.get_ylabel() for axis in figure.axes)
    shown = figure.axes[0].images[0].get_array().data
    expected = made.radius_map(16 / 255, "served", 0.01).numpy()
    assert shown.shape == expected.shape
    panel = certificate_report.panel(lr, made.sr, made, 0.01, 16 / 255, 0.01)
    assert len([axis for axis in panel.axes if axis.images]) >= 6
    certificate_report.save_figure(panel, tmp_path / "panel.png")
    assert [path.name for path in tmp_path.iterdir()] == ["panel.png"]
