"""--denoiser, in every command: it does what SmoothedSR does, is named, and is part of what is
certified.
"""

import json

import pytest
import torch
from evaluation_runs import counted, evaluate, write
from evaluation_runs import photo as picture

from smoothsr import Certificate, SmoothedSR, adapters
from smoothsr.adapters.ffdnet import FFDNet
from smoothsr.cli import main
from smoothsr.files import images
from smoothsr.files.images import Picture

NAME = "ResidualFFDNet (64 features, 10 convolutions)"
QUICK = ["--sigma", "0.05", "-n", "3"]
TILES = ["--tile", "4", "--halo", "1"]
BUILTIN = ["--denoiser", "builtin"]


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr("smoothsr.reports.figures.save_figure", lambda figure, path: path.touch())


@pytest.fixture
def denoiser(tmp_path):
    """A file of a small one."""
    torch.manual_seed(0)
    torch.save(FFDNet(3, 4, 3).state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def run(*words):
    return main([str(word) for word in words])


def error_of(capsys, *words):
    capsys.readouterr()
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("smoothsr: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("strength", [None, 0.02])
def test_upscale_is_smoothed_sr(photo, tmp_path, capsys, denoiser, strength):
    told = [] if strength is None else ["--denoiser-sigma", strength]
    out = tmp_path / "sr.png"
    for name in ("builtin", denoiser):
        options = [*QUICK, *TILES, "--halo-noise", "2", "--seed", "3", "--no-lattice"]
        assert run("upscale", photo, "-o", out, *options, "--denoiser", name, *told) == 0
        smoothed = SmoothedSR(
            adapters.load("builtin").model,
            0.05,
            3,
            tile=4,
            halo=1,
            halo_noise=2,
            seed=3,
            denoiser=name,
            denoiser_sigma=strength,
        )
        with torch.no_grad():
            expected = smoothed(images.read(photo).pixels)
        assert (images.read(out).pixels - expected).abs().max() <= 0.5 / 255 + 1e-5
        printed = capsys.readouterr().out
        shown = "" if strength is None else " --denoiser-sigma 0.02"
        assert f" --denoiser {name}{shown} --precision" in printed
        assert ("FFDNet (4 features, 3" if name == denoiser else f"behind {NAME};") in printed


def certify(photo, out, *more):
    options = [*QUICK, *TILES, "--n-cert", "100", "--levels", "4"]
    return run("certify", photo, "-o", out, *options, *more)


def test_certificate_and_record_name_it_and_attack_needs_it(photo, tmp_path, capsys, denoiser):
    assert certify(photo, tmp_path / "c", *BUILTIN, "--denoiser-sigma", "0.04") == 0
    printed = capsys.readouterr().out
    assert f"behind {NAME}; predictor:" in printed
    assert "a denoiser told sigma 0.04" in printed
    record = json.loads((tmp_path / "c/photo.json").read_text())
    assert record["denoiser"]["name"] == NAME
    assert record["denoiser"]["source"] == "builtin"
    assert len(record["denoiser"]["sha256"]) == 64
    assert record["certificate"]["denoiser_sigma"] == 0.04
    file = tmp_path / "c/photo.npz"
    assert Certificate.load(file).denoiser_sigma == 0.04

    attack = ["attack", photo, "-o", tmp_path / "a", "-a", "pgd:0.2/255:steps=1"]
    attack += ["--certificate", file]
    assert run(*attack, *BUILTIN) == 0
    assert "--denoiser builtin --denoiser-sigma 0.04" in capsys.readouterr().out
    record = json.loads((tmp_path / "a/photo_attack.json").read_text())
    assert record["denoiser"]["name"] == NAME
    assert (record["predictor"]["denoiser"], record["predictor"]["denoiser_sigma"]) == (
        "builtin",
        0.04,
    )
    assert "was made with a denoiser: name it by --denoiser" in error_of(capsys, *attack)
    assert "was made with a denoiser" in error_of(capsys, *attack, "--denoiser", "none")
    other = error_of(capsys, *attack, "--denoiser", denoiser)
    assert f"certifies another network or denoiser than builtin and {denoiser}" in other
    other = error_of(capsys, *attack, *BUILTIN, "--denoiser-sigma", "0.05")
    assert "--denoiser-sigma 0.05 contradicts" in other


def test_a_certificate_without_one_refuses_any(photo, tmp_path, capsys):
    assert certify(photo, tmp_path / "c") == 0
    record = json.loads((tmp_path / "c/photo.json").read_text())
    assert record["denoiser"] is record["certificate"]["denoiser_sigma"] is None
    attack = ["attack", photo, "-a", "none", "--certificate", tmp_path / "c/photo.npz"]
    assert "--denoiser builtin contradicts" in error_of(capsys, *attack, *BUILTIN)


def test_attack_goes_through_it(photo, tmp_path):
    found = []
    for name in ("none", "builtin"):
        out = tmp_path / name
        options = ["-a", "pgd:4/255:steps=1", *QUICK, "--denoiser", name]
        assert run("attack", photo, "-o", out, *options) == 0
        found.append(images.read(out / "photo_attacked.png").pixels)
    assert not torch.equal(*found)


def rows(out, command="evaluate"):
    records = json.loads((out / f"{command}.json").read_text())["records"]
    return {(record["sigma"], record["denoiser"]): record["scores"] for record in records}


def test_evaluate_has_a_row_for_each(tmp_path, monkeypatch, denoiser):
    hr, out = write(tmp_path / "hr", a=photo_of(1)), tmp_path / "out"
    both = ["--denoiser", f"none,builtin,{denoiser}", "--sigma", "0,0.05"]
    assert main(evaluate(hr, out, "--sigma", "0,0.05")) == 0
    plain = rows(out)
    outputs = counted(monkeypatch)
    assert main(evaluate(hr, out, *both)) == 0
    assert len(outputs) == 2  # what is behind a denoiser alone is measured
    found = rows(out)
    assert [*found] == [(0.0, "none"), (0.05, "none"), (0.05, "builtin"), (0.05, "small")]
    assert len({str(scores) for scores in found.values()}) == 4
    assert {place: found[place] for place in plain} == plain
    assert "denoiser" in (out / "evaluate.md").read_text().splitlines()[0]
    assert "denoiser builtin" in (out / "evaluate.md").read_text()
    assert main(evaluate(hr, out, *both)) == 0
    assert len(outputs) == 2
    assert main(evaluate(hr, out, *both, "--denoiser-sigma", "0.02")) == 0
    assert len(outputs) == 4
    assert (0.05, "builtin 0.02") in rows(out)


def test_another_file_of_the_same_name_is_measured_again(tmp_path, monkeypatch, denoiser):
    hr, out = write(tmp_path / "hr", a=photo_of(1)), tmp_path / "out"
    command = evaluate(hr, out, "--sigma", "0.05", "--denoiser", denoiser)
    assert main(command) == 0
    torch.save(FFDNet(3, 4, 4).state_dict(), denoiser)
    outputs = counted(monkeypatch)
    assert main(command) == 0
    assert len(outputs) == 1


def photo_of(seed):
    return picture(seed, 16, 20)


def test_sweep(tmp_path, capsys):
    hr, out = write(tmp_path / "hr", a=photo_of(1)), tmp_path / "out"
    base = ["sweep", "--hr", hr, "-o", out, "--attack", "none", "--metrics", "psnr"]
    assert run(*base, "--sigma", "0,0.05", "-n", "3", *BUILTIN) == 0
    assert [*rows(out, "sweep")] == [(0.0, "none"), (0.05, "builtin")]
    told = error_of(capsys, *base, "--denoiser", "none,builtin")
    assert "--over sigma takes one --denoiser, got 2" in told
    certified = ["--over", "certified", "--sigma", "0.05", "--tile", "4", "--halo", "1"]
    certified += ["--n-cert", "60", "--levels", "3", "--denoiser", "none,builtin"]
    assert run("sweep", "--hr", hr, "-o", tmp_path / "c", *certified) == 0
    assert [*rows(tmp_path / "c", "sweep")] == [(0.05, "none"), (0.05, "builtin")]
    files = [Certificate.load(path) for path in (tmp_path / "c/parts").glob("*.npz")]
    assert {each.denoiser_sigma for each in files} == {None, 0.03}


@pytest.mark.parametrize("command", ["upscale", "certify", "attack", "evaluate", "sweep"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--denoiser", "gone.pth"], "no file gone.pth"),
        (["--denoiser-sigma", "0.1"], "add --denoiser builtin"),
    ],
)
def test_mistakes_are_told_at_once(photo, tmp_path, capsys, command, options, told):
    images.write(photo, Picture(photo_of(1)))
    where = ["--hr", photo] if command in ("evaluate", "sweep") else [photo]
    assert told in error_of(capsys, command, *where, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*.png"))
