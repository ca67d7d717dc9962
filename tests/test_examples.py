import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_train_builtin_resumes(tmp_path, monkeypatch, capsys):
    """The recipe on a few made-up photographs: it stops on time, writes what it says, and goes on
    where it was.
    """
    photos = []
    for index in range(3):
        cat = images.read(ROOT / "examples/cat_hr.png").pixels
        path = tmp_path / f"{index}.png"
        images.write(path, images.Picture(cat.repeat(1, 1, 4, 4).flip(index)))
        photos.append(str(path))
    recipe = runpy.run_path(str(ROOT / "examples/train_builtin.py"))
    monkeypatch.setitem(recipe["main"].__globals__, "fetch", lambda _: photos)
    out = tmp_path / "net.safetensors"
    command = ["train_builtin.py", "--out", str(out), "--sigma", "0", "0.1", "--minutes"]
    for minutes in ("0.02", "0.04"):
        monkeypatch.setattr(sys, "argv", [*command, minutes])
        monkeypatch.delenv("SMOOTHSR_DATA", raising=False)
        recipe["main"]()
    steps = [int(match) for match in re.findall(r"step (\d+)", capsys.readouterr().out)]
    assert len(steps) >= 2
    assert steps[-1] > steps[0]
    assert adapters.load(out).name.startswith("SRVGGNetCompact")


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
    )
    assert "usage" in done.stdout
