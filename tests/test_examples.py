import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from smoothsr import adapters
from smoothsr.files import images

ROOT = Path(__file__).parents[1]


def test_finetune_with_noise(tmp_path, monkeypatch):
    out = tmp_path / "tuned.safetensors"
    arguments = [str(ROOT / "examples/cat_hr.png"), "--steps", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["finetune_with_noise.py", *arguments])
    runpy.run_path(str(ROOT / "examples/finetune_with_noise.py"), run_name="__main__")
    before = adapters.load("builtin-clean").model.state_dict()
    tuned = load_file(out)
    assert tuned.keys() == before.keys()
    assert any((tuned[key] != before[key]).any() for key in tuned)
    assert adapters.load(out).scale == 4


def test_finetune_is_short():
    assert len((ROOT / "examples/finetune_with_noise.py").read_text().splitlines()) < 50


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Give the names of one of the recipes, with three photographs made of one."""
    photos = []
    for index in range(3):
        cat = images.read(ROOT / "examples/cat_hr.png").pixels
        path = tmp_path / f"{index}.png"
        images.write(path, images.Picture(cat.repeat(1, 1, 4, 4).flip(index)))
        photos.append(str(path))
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delenv("SMOOTHSR_DATA", raising=False)

    def names(name):
        found = runpy.run_path(str(ROOT / f"examples/{name}.py"))
        monkeypatch.setitem(found["main"].__globals__, "fetch", lambda _: photos)
        return found

    return names


def trained(names, out, monkeypatch, *options):
    """Run a recipe; return the weights that it wrote."""
    monkeypatch.setattr(sys, "argv", ["recipe", "--out", str(out), *options])
    names["main"]()
    return load_file(out)


def test_train_builtin_resumes(recipe, tmp_path, monkeypatch, capsys):
    """It trains as many steps as it is told, in both phases, and goes on where it was."""
    taken, out = [], tmp_path / "net.safetensors"
    names = recipe("train_builtin")
    real = names["train_step"]

    def train_step(run, batch, *, polish, share):
        taken.append((run.step, polish, share))
        return real(run, batch, polish=polish, share=share)

    monkeypatch.setitem(names["main"].__globals__, "train_step", train_step)
    for more in (["1"], ["2", "--polish", "2"]):
        trained(names, out, monkeypatch, "--steps", *more)
    assert taken == [(0, False, 0), (1, False, 0.5), (2, True, 0), (3, True, 0.5)]
    assert re.findall(r"step (\d+)", capsys.readouterr().out)[-1] == "4"
    assert adapters.load(out).name.startswith("SRVGGNetCompact")
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"].endswith("--sigma 0 0.1 --steps 2 --polish 2")


def test_train_builtin_counts_minutes_of_training(recipe, tmp_path):
    """Its learning rate follows the time that was trained, which a state brings along."""
    names = recipe("train_builtin")
    run = names["Run"].begin(names["new_network"](), tmp_path / "none.state")
    length = {"length": 2.0, "polish": 1.0, "unit": "minutes"}
    options = names["Options"](
        tmp_path / "net.safetensors", (0.0, 0.1), photos=tmp_path, data=None, **length
    )
    found = []
    for run.seconds in (0.0, 60.0, 120.0, 150.0):
        found.append(names["phase"](options, run))
    assert found == [(False, 0), (False, 0.5), (True, 0), (True, 0.5)]


def test_train_denoiser_resumes(recipe, tmp_path, monkeypatch, capsys):
    """It trains as many steps as it is told, and goes on where it was."""
    names, out = recipe("train_denoiser"), tmp_path / "net.safetensors"
    first = trained(names, out, monkeypatch, "--steps", "1")
    second = trained(names, out, monkeypatch, "--steps", "3")
    assert re.findall(r"step (\d+)", capsys.readouterr().out) == ["1", "3"]
    assert any((first[key] != second[key]).any() for key in first)
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"] == "examples/train_denoiser.py --steps 3"
    loaded = adapters.load_denoiser(out)
    assert loaded.name == adapters.load_denoiser("builtin").name
    noisy = torch.rand(1, 3, 5, 7)  # near the identity, as it begins
    assert (loaded.model(noisy, torch.tensor(0.05)) - noisy).abs().max() < 0.5


@pytest.mark.parametrize("side", [6, 24, 48])
def test_train_denoiser_draws_strengths(recipe, side):
    """One for each whole patch; on tiles a rim that is no weaker."""
    levels = recipe("train_denoiser")["levels"](40, side, np.random.default_rng(0))
    assert levels.shape == (40, 1, side, side)
    assert levels.min() >= 0
    assert levels.max() <= 0.15
    middle, rim = levels[:, 0, side // 2, side // 2], levels[:, 0, 0, side // 2]
    assert middle.std() > 0.03
    assert (rim == middle).all() if side == 48 else (rim > middle).all()
    assert all(len(level.unique()) == (1 if side == 48 else 2) for level in levels)


@pytest.mark.parametrize("side", [6, 16, 48])
def test_train_denoiser_cuts_patches_into_all_their_tiles(recipe, side):
    patches = torch.rand(2, 3, 48, 48)
    tiles = recipe("train_denoiser")["tiles_of"](patches, side)
    count = 48 // side
    rows = [torch.cat([*tiles[at * count : (at + 1) * count]], dim=-1) for at in range(2 * count)]
    joined = [torch.cat(rows[image * count : (image + 1) * count], dim=-2) for image in range(2)]
    assert torch.equal(torch.stack(joined), patches)


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "datasets"),
)
def test_benchmarks_explain_themselves(name):
    done = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{name}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # of this tree, whatever is installed
    )
    assert "usage" in done.stdout
