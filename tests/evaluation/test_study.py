"""Study: scores against outputs made here by other means."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_runs import counted, photo
from study_fixtures import BARE, SCALE, SMOOTHED, network
from torch import nn

from smoothsr import SmoothedSR, metrics
from smoothsr.attacks.views import seed_of
from smoothsr.evaluation import degradations, steps, study
from smoothsr.evaluation.conditions import parse
from smoothsr.evaluation.records import Image, Record, Row, Setting
from smoothsr.evaluation.study import METRICS, Study


def enlarged(lr):
    """What the network makes of lr, by numpy."""
    values = np.float32(0.9) * lr + np.float32(0.05)
    return values.repeat(SCALE, axis=2).repeat(SCALE, axis=3).clip(0, 1)


def expected(metric, output, image):
    output = torch.from_numpy(output)
    if metric == "mse":
        return metrics.mse(output, image.hr, border=SCALE).item()
    name, _, y = metric.partition("_")
    return getattr(metrics, name)(output, image.hr, border=SCALE, y=bool(y)).item()


def test_scores_are_those_of_outputs_made_by_other_means(tmp_path, image):
    names = [metric for metric in METRICS if metric != "lpips"]
    study = Study(
        tmp_path,
        {"net": network()},
        [BARE, SMOOTHED],
        [parse("none"), parse("noise:0.2")],
        names,
        seed=7,
    )
    study.measure(image)
    records = study.records(image)
    assert len(records) == 4
    seed = seed_of(7, "photo")
    serving = seed_of(seed, "serving")
    for record in records:
        lr = (
            image.lr if record.condition == "none" else degradations.noise(image.lr, 0.2, seed)
        ).numpy()
        if record.row.sigma:
            draws = [
                np.random.default_rng([serving, 0, 0, draw]).standard_normal(
                    (3, 16, 18), np.float32
                )
                for draw in range(3)
            ]
            output = np.median([enlarged(lr + np.float32(0.1) * draw) for draw in draws], axis=0)
        else:
            output = enlarged(lr)
        assert record.image == "photo"
        assert record.row == Row("net", *(SMOOTHED if record.row.sigma else BARE))
        for metric, score in record.scores.items():
            assert score == pytest.approx(expected(metric, output, image), rel=1e-6), (
                metric,
                record,
            )


def test_a_gray_image_has_the_scores_of_its_colour_twin(tmp_path):
    gray = Image("gray", photo(1, 16, 18, channels=1), photo(2, 32, 36, channels=1))
    colour = Image("colour", *(picture.expand(-1, 3, -1, -1) for picture in gray[1:]))
    study = Study(
        tmp_path,
        {"net": nn.Upsample(scale_factor=2)},
        [BARE],
        [parse("none")],
        ["psnr", "psnr_y", "ssim", "ssim_y"],
    )
    for image in (gray, colour):
        study.measure(image)
    one, other = (study.records(image)[0].scores for image in (gray, colour))
    assert one == pytest.approx(other, rel=1e-12)
    assert one["psnr"] == expected("psnr", gray.lr.numpy().repeat(2, 2).repeat(2, 3), gray)
    assert one["psnr_y"] == pytest.approx(one["psnr"] + 20 * np.log10(255 / 219))


def test_transfer_is_attacked_once_and_a_smoother_for_each_setting(tmp_path, image, monkeypatch):
    attacked = []

    def fake(view, lr, reference, **options):
        attacked.append((view, options["seed"]))
        assert torch.equal(reference, image.hr)
        return (lr + 0.1).clamp(0, 1)

    monkeypatch.setitem(steps.ATTACKS, "pgd", fake)
    settings = [BARE, SMOOTHED, Setting(0.2, 3)]
    outputs = counted(monkeypatch)
    study = Study(tmp_path, {"net": network()}, settings, [parse("pgd:4/255@bare")], ["mse"])
    study.measure(image)
    assert len(attacked) == 1
    assert all(torch.equal(output, (image.lr + 0.1).clamp(0, 1)) for output in outputs)
    replace(study, conditions=[parse("pgd:4/255")]).measure(image)
    assert len(attacked) == 4
    assert {seed for _, seed in attacked} == {seed_of(0, "photo") % 2**63}


def test_every_model_meets_the_same_noise_and_every_image_its_own(study, image, monkeypatch):
    outputs = counted(monkeypatch)
    both = replace(
        study, models={"net": network(), "other": network(0.8)}, conditions=[parse("noise:0.2")]
    )
    both.measure(image)
    assert len(outputs) == 4
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    both.measure(image._replace(name="copy"))
    assert not torch.equal(outputs[4], outputs[0])


def test_lpips_is_not_computed_in_the_networks_precision(study, image, monkeypatch, tmp_path):
    seen = []

    def lpips(output, reference, *, weights):
        seen.append((torch.is_autocast_enabled("cpu"), weights))
        return (output - reference).abs().mean()[None]

    monkeypatch.setattr(metrics, "lpips", lpips)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    with torch.autocast("cpu", torch.bfloat16):
        replace(study, metrics=["lpips"], lpips_weights=weights, settings=[BARE]).measure(image)
    assert seen == [(False, weights)] * 2


class Broken(nn.Module):
    def forward(self, lr):
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3) * float("nan")


def test_what_no_score_can_be_given_for_is_refused(study, image):
    with pytest.raises(ValueError, match=r"HR is \(1, 3, 32, 36\), the output \(1, 3, 48, 54\)"):
        replace(study, models={"net": network(scale=3)}).measure(image)
    with pytest.raises(ValueError, match="broken gives NaN under none"):
        replace(study, models={"broken": Broken()}).measure(image)
    with pytest.raises(ValueError, match="unknown metric 'foo': use psnr"):
        replace(study, metrics=["psnr", "foo"])
    with pytest.raises(ValueError, match="n must be odd"):
        replace(study, settings=[BARE, Setting(0.1, 4)])
    assert not [*study.folder.iterdir()]
    for text in ('{"image": ', "[]", "null", '{"image": "abc"}', '{"a": {"b": []}}'):
        (study.folder / "photo.json").write_text(text)
        for use in (study.measure, study.records):
            with pytest.raises(ValueError, match=r"photo\.json holds no scores: delete it"):
                use(image)


def test_settings_hold_no_number_that_is_not_used():
    assert Setting.of(0.0, 21, 8, 2) == Setting.of(0, 5, 0, 4) == BARE
    assert Setting.of(0.1, 3, 0, 4) == SMOOTHED
    assert Setting.of(0.1, 3, None, 4) == SMOOTHED
    assert Setting.of(0.1, 3, 8, 4) == (0.1, 3, 8, 4, 1.0, "none")
    assert Setting.of(0.1, 3, 8, 4, 2.0) == (0.1, 3, 8, 4, 2.0, "none")
    assert Setting.of(0.1, 3, None, 4, 2.0) == SMOOTHED
    assert Setting.of(0.1, 3, None, 4, 2.0, "net") == (0.1, 3, None, 0, 1.0, "net")
    assert Setting.of(0.0, 3, None, 4, 2.0, "net") == BARE
    # Parts that were measured before there was noise of its own in the halo are found.
    assert Setting.of(0.1, 3, 8, 4).stored == [0.1, 3, 8, 4]
    assert Setting.of(0.1, 3, 8, 4, 2.0).stored == [0.1, 3, 8, 4, 2.0]


@pytest.mark.parametrize("tile", [None, 8])
def test_records_stand_in_files_as_they_always_did(tile):
    record = Record("a", Row("net", 0.1, 3, tile, 2), "none", {"psnr": 30.0, "mse": 0.5})
    written = record.to_json()
    setting = f'"sigma": 0.1, "n": 3, "tile": {tile or 0}, "halo": 2, "halo_noise": 1.0'
    setting += ', "denoiser": "none"'
    scores = '"condition": "none", "scores": {"psnr": 30.0, "mse": 0.5}'
    assert json.dumps(written) == f'{{"image": "a", "model": "net", {setting}, {scores}}}'
    assert Record.from_json(written) == record
    new = ("halo_noise", "denoiser")
    earlier = {name: value for name, value in written.items() if name not in new}
    assert Record.from_json(earlier) == record
    written["scores"]["psnr"] = "inf"  # as strict JSON has it
    assert Record.from_json(written).scores["psnr"] == np.inf


def test_settings_are_run_as_they_say(tmp_path, image, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "serve", lambda model, lr, _: seen.append(model) or network()(lr))
    settings = [BARE, Setting(0.1, 5, 8, 2, 3.0), Setting(0.2, 3)]
    Study(tmp_path, {"net": network()}, settings, [parse("none")], ["mse"], agg="mean").measure(
        image
    )
    bare, tiled, whole = seen
    assert not isinstance(bare, SmoothedSR)
    assert (tiled.sigma, tiled.n, tiled.tile, tiled.halo, tiled.agg) == (0.1, 5, 8, 2, "mean")
    assert tiled.halo_noise == 3
    assert (whole.sigma, whole.n, whole.tile) == (0.2, 3, None)
