"""Study: scores against outputs made here by other means, and part files that say what was measured, and never anything else."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import counted, photo
from torch import nn

from smoothsr import SmoothedSR, __version__, archive, conditions, degradations, evaluation, metrics
from smoothsr.conditions import parse, seed_of
from smoothsr.evaluation import METRICS, Image, Setting, Study

SCALE = 2
BARE, SMOOTHED = Setting(0.0), Setting(0.1, 3)


def network(weight=0.9, scale=SCALE):
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(weight * torch.eye(3)[..., None, None])
        layer.bias.fill_(0.05)
    return nn.Sequential(layer, nn.Upsample(scale_factor=scale, mode="nearest")).eval().requires_grad_(False)


def enlarged(lr):
    """What the network makes of lr, by numpy."""
    values = np.float32(0.9) * lr + np.float32(0.05)
    return values.repeat(SCALE, axis=2).repeat(SCALE, axis=3).clip(0, 1)


@pytest.fixture
def image():
    return Image("photo", photo(1, 16, 18), photo(2, 16 * SCALE, 18 * SCALE))


@pytest.fixture
def study(tmp_path):
    texts = ["none", "noise:0.2"]
    return Study(tmp_path, {"net": network()}, [BARE, SMOOTHED], [parse(text) for text in texts], ["psnr_y", "mse"])


def expected(metric, output, image):
    output = torch.from_numpy(output)
    if metric == "mse":
        return metrics.mse(output, image.hr, border=SCALE).item()
    name, _, y = metric.partition("_")
    return getattr(metrics, name)(output, image.hr, border=SCALE, y=bool(y)).item()


def stored(study, name="photo"):
    """What is stored of each of the images that had this name: {what: scores}."""
    return [*json.loads((study.folder / f"{name}.json").read_text()).values()]


def test_scores_are_those_of_outputs_made_by_other_means(tmp_path, image):
    names = [metric for metric in METRICS if metric != "lpips"]
    study = Study(tmp_path, {"net": network()}, [BARE, SMOOTHED], [parse("none"), parse("noise:0.2")], names, seed=7)
    study.measure(image)
    records = study.records(image)
    assert len(records) == 4
    seed = seed_of(7, "photo")
    serving = seed_of(seed, "serving")
    for record in records:
        lr = (image.lr if record["condition"] == "none" else degradations.noise(image.lr, 0.2, seed)).numpy()
        if record["sigma"]:
            draws = [np.random.default_rng([serving, 0, 0, draw]).standard_normal((3, 16, 18), np.float32) for draw in range(3)]
            output = np.median([enlarged(lr + np.float32(0.1) * draw) for draw in draws], axis=0)
        else:
            output = enlarged(lr)
        assert {**record, "scores": None} == {
            "image": "photo",
            "model": "net",
            **(SMOOTHED if record["sigma"] else BARE)._asdict(),
            "condition": record["condition"],
            "scores": None,
        }
        for metric, score in record["scores"].items():
            assert score == pytest.approx(expected(metric, output, image), rel=1e-6), (metric, record)


def test_a_gray_image_has_the_scores_of_its_colour_twin(tmp_path):
    gray = Image("gray", photo(1, 16, 18, channels=1), photo(2, 32, 36, channels=1))
    colour = Image("colour", *(picture.expand(-1, 3, -1, -1) for picture in gray[1:]))
    study = Study(tmp_path, {"net": nn.Upsample(scale_factor=2)}, [BARE], [parse("none")], ["psnr", "psnr_y", "ssim", "ssim_y"])
    for image in (gray, colour):
        study.measure(image)
    one, other = (study.records(image)[0]["scores"] for image in (gray, colour))
    assert one == pytest.approx(other, rel=1e-12)
    assert one["psnr"] == expected("psnr", gray.lr.numpy().repeat(2, 2).repeat(2, 3), gray)
    assert one["psnr_y"] == pytest.approx(one["psnr"] + 20 * np.log10(255 / 219))


def test_part_files_are_found_again_by_later_versions_of_this_code(study, image):
    """Scores of long runs lie under these keys: a change of them throws the scores away."""
    study.measure(image)
    words = [archive.digest(network().state_dict().values()), "0.weight", "0.bias", repr(network())]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    whole = json.loads((study.folder / "photo.json").read_text())
    assert [*whole] == [archive.digest([image.lr, image.hr])]
    assert list(stored(study)[0]) == [
        json.dumps([__version__, digest, how, condition, 0, "float32", "cpu"])
        for condition in ("none", "noise:0.2")
        for how in ([], ["median", 0.1, 3, 0, 0])
    ]


def test_what_is_stored_is_not_measured_again(study, image, monkeypatch):
    outputs = counted(monkeypatch)
    study.measure(image)
    assert len(outputs) == study.cells == 4
    study.measure(image)
    assert len(outputs) == 4
    wider = replace(study, settings=[BARE, SMOOTHED, Setting(0.2, 3)], conditions=[*study.conditions, parse("blur:1")])
    assert wider.records(image) is None
    wider.measure(image)
    assert len(outputs) == wider.cells == 9
    assert len(wider.records(image)) == 9
    replace(study, models={"net": network(), "other": network(0.8)}).measure(image)
    assert len(outputs) == 9 + 4


def test_a_later_metric_keeps_the_scores_of_the_others(study, image, monkeypatch):
    study.measure(image)
    path = study.folder / "photo.json"
    done = json.loads(path.read_text())
    for scores in next(iter(done.values())).values():
        scores["mse"] = 0.5  # a mark
    path.write_text(json.dumps(done))
    outputs = counted(monkeypatch)
    replace(study, metrics=["psnr"]).measure(image)
    assert len(outputs) == 4
    both = replace(study, metrics=["mse", "psnr"])
    both.measure(image)
    assert len(outputs) == 4
    assert [record["scores"]["mse"] for record in both.records(image)] == [0.5] * 4


@pytest.mark.parametrize("part", ["lr", "hr"])
def test_other_pixels_of_the_same_name_have_scores_of_their_own(study, image, part, monkeypatch):
    study.measure(image)
    before = study.records(image)
    outputs = counted(monkeypatch)
    changed = getattr(image, part).clone()
    changed[0, 0, 5, 5] = 1 - changed[0, 0, 5, 5]
    other = image._replace(**{part: changed})
    assert study.records(other) is None
    study.measure(other)
    assert len(outputs) == 4
    assert study.records(other) != before
    study.measure(image)
    assert len(outputs) == 4
    assert study.records(image) == before


def test_networks_of_the_same_weights_are_told_apart(tmp_path, image):
    networks = {mode: nn.Upsample(scale_factor=2, mode=mode) for mode in ("nearest", "bicubic")}
    study = Study(tmp_path, networks, [BARE], [parse("none")], ["mse"])
    study.measure(image)
    assert len({record["scores"]["mse"] for record in study.records(image)}) == 2

    class Named(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def extra_repr(self):
            return repr(self.function)

    first, second = (evaluation._digest(Named(function)) for function in (lambda: 1, lambda: 2))
    assert first == second  # but for an address, which is another in every process


def test_runs_at_the_same_time_keep_each_others_scores(study, image):
    other = replace(study, models={"other": network(0.8)})
    study.measure(image, lambda: other.measure(image))
    assert len(study.records(image)) == len(other.records(image)) == 4
    assert len(stored(study)[0]) == 8


OTHER = {"agg": "mean", "seed": 1, "precision": "bfloat16", "models": {"net": network(0.8)}, "settings": [Setting(0.1, 5)]}


@pytest.mark.parametrize("option", OTHER)
def test_scores_of_other_options_are_not_mistaken_for_these(study, image, option, monkeypatch):
    study = replace(study, settings=[SMOOTHED])
    study.measure(image)
    outputs = counted(monkeypatch)
    other = replace(study, **{option: OTHER[option]})
    assert other.records(image) is None
    other.measure(image)
    assert len(outputs) == 2
    study.measure(image)
    assert len(outputs) == 2


def test_an_interrupted_measurement_goes_on_where_it_was(study, image, tmp_path, monkeypatch):
    done = []

    def stop():
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.measure(image, stop)
    assert len(stored(study)[0]) == 3
    assert study.records(image) is None
    outputs = counted(monkeypatch)
    study.measure(image, lambda: done.append(1))
    assert len(outputs) == 1
    assert len(done) == 3 + study.cells
    (tmp_path / "through").mkdir()
    through = replace(study, folder=tmp_path / "through")
    through.measure(image)
    assert (study.folder / "photo.json").read_bytes() == (through.folder / "photo.json").read_bytes()
    assert [path.name for path in through.folder.iterdir()] == ["photo.json"]


def test_transfer_is_attacked_once_and_a_smoother_for_each_setting(tmp_path, image, monkeypatch):
    attacked = []

    def fake(view, lr, reference, **options):
        attacked.append((view, options["seed"]))
        assert torch.equal(reference, image.hr)
        return (lr + 0.1).clamp(0, 1)

    monkeypatch.setitem(conditions.ATTACKS, "pgd", fake)
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
    both = replace(study, models={"net": network(), "other": network(0.8)}, conditions=[parse("noise:0.2")])
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


def test_lpips_by_other_weights_is_measured_anew(study, image, monkeypatch, tmp_path):
    monkeypatch.setattr(metrics, "lpips", lambda output, _, weights: output.new_tensor([float(weights.read_text())]))
    found = []
    for number, content in enumerate(("0.25", "0.5", "0.25")):
        weights = tmp_path / f"{number}.pth"
        weights.write_text(content)
        one = replace(study, metrics=["lpips"], lpips_weights=weights, settings=[BARE])
        one.measure(image)
        found.append({record["scores"]["lpips"] for record in one.records(image)})
    assert found == [{0.25}, {0.5}, {0.25}]


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
            with pytest.raises(ValueError, match=r"photo\.json holds no scores .*: delete it"):
                use(image)


def test_settings_hold_no_number_that_is_not_used():
    assert Setting.of(0.0, 21, 8, 2) == Setting.of(0, 5, 0, 4) == BARE
    assert Setting.of(0.1, 3, 0, 4) == SMOOTHED
    assert Setting.of(0.1, 3, 8, 4) == (0.1, 3, 8, 4)


def test_settings_are_run_as_they_say(tmp_path, image, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "serve", lambda model, lr, _: seen.append(model) or network()(lr))
    settings = [BARE, Setting(0.1, 5, 8, 2), Setting(0.2, 3)]
    Study(tmp_path, {"net": network()}, settings, [parse("none")], ["mse"], agg="mean").measure(image)
    bare, tiled, whole = seen
    assert not isinstance(bare, SmoothedSR)
    assert (tiled.sigma, tiled.n, tiled.tile, tiled.halo, tiled.agg) == (0.1, 5, 8, 2, "mean")
    assert (whole.sigma, whole.n, whole.tile) == (0.2, 3, None)
