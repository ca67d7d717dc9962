"""Part files: what was measured is found again, and nothing else is taken for it."""

import hashlib
import json
from dataclasses import replace

import pytest
from evaluation_runs import counted
from study_fixtures import BARE, SMOOTHED, network
from torch import nn

from smoothsr import __version__, metrics
from smoothsr.evaluation.certified_study import CertifiedStudy
from smoothsr.evaluation.conditions import parse
from smoothsr.evaluation.records import Setting
from smoothsr.evaluation.study import Study
from smoothsr.files.digests import digest, fingerprint


def stored(study, name="photo"):
    """What is stored of each of the images that had this name: {what: scores}."""
    return [*json.loads((study.folder / f"{name}.json").read_text()).values()]


def test_part_files_are_found_again_by_later_versions_of_this_code(study, image):
    """Scores of long runs lie under these keys: a change of them throws the scores away."""
    study.measure(image)
    words = [digest(network().state_dict().values()), "0.weight", "0.bias", repr(network())]
    network_digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    whole = json.loads((study.folder / "photo.json").read_text())
    assert [*whole] == [digest([image.lr, image.hr])]
    assert list(stored(study)[0]) == [
        json.dumps([__version__, network_digest, how, condition, 0, "float32", "cpu"])
        for condition in ("none", "noise:0.2")
        for how in ([], ["median", 0.1, 3, 0, 0])
    ]


def test_what_is_stored_is_not_measured_again(study, image, monkeypatch):
    outputs = counted(monkeypatch)
    study.measure(image)
    assert len(outputs) == study.cells == 4
    study.measure(image)
    assert len(outputs) == 4
    wider = replace(
        study,
        settings=[BARE, SMOOTHED, Setting(0.2, 3)],
        conditions=[*study.conditions, parse("blur:1")],
    )
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
    assert [record.scores["mse"] for record in both.records(image)] == [0.5] * 4


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
    assert len({record.scores["mse"] for record in study.records(image)}) == 2

    class Named(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def extra_repr(self):
            return repr(self.function)

    first, second = (fingerprint(Named(function)) for function in (lambda: 1, lambda: 2))
    assert first == second  # but for an address, which is another in every process


def test_runs_at_the_same_time_keep_each_others_scores(study, image):
    other = replace(study, models={"other": network(0.8)})
    study.measure(image, lambda: other.measure(image))
    assert len(study.records(image)) == len(other.records(image)) == 4
    assert len(stored(study)[0]) == 8


OTHER = {
    "agg": "mean",
    "seed": 1,
    "precision": "bfloat16",
    "models": {"net": network(0.8)},
    "settings": [Setting(0.1, 5)],
}


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


def test_means_in_pairs_are_not_mistaken_for_others(study, image, tmp_path):
    paired = replace(study, settings=[SMOOTHED], agg="mean")
    apart = replace(paired, antithetic=False)
    paired.measure(image)
    assert apart.records(image) is None
    apart.measure(image)
    pairs, others = (one.records(image)[0].scores for one in (paired, apart))
    assert pairs != others
    made = [
        CertifiedStudy(
            tmp_path,
            study.models,
            {"net": "0" * 64},
            [SMOOTHED],
            [0.01],
            agg="mean",
            antithetic=antithetic,
        )._file(image, "net", SMOOTHED)
        for antithetic in (None, True, False)
    ]
    assert made[0] == made[1] != made[2]


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
    assert (study.folder / "photo.json").read_bytes() == (
        through.folder / "photo.json"
    ).read_bytes()
    assert [path.name for path in through.folder.iterdir()] == ["photo.json"]


def test_lpips_by_other_weights_is_measured_anew(study, image, monkeypatch, tmp_path):
    monkeypatch.setattr(
        metrics, "lpips", lambda output, _, weights: output.new_tensor([float(weights.read_text())])
    )
    found = []
    for number, content in enumerate(("0.25", "0.5", "0.25")):
        weights = tmp_path / f"{number}.pth"
        weights.write_text(content)
        one = replace(study, metrics=["lpips"], lpips_weights=weights, settings=[BARE])
        one.measure(image)
        found.append({record.scores["lpips"] for record in one.records(image)})
    assert found == [{0.25}, {0.5}, {0.25}]
