"""certify's draws are the work: nothing that comes after them may lose it."""

import json

import pytest
import torch

from smoothsr import Certificate
from smoothsr.cli import main, memory_budget
from smoothsr.engine import draws
from smoothsr.files import images
from smoothsr.reports import certificate_figures, certificate_report

QUICK = ["--n-cert", "200", "--levels", "4", "--tile", "4", "--halo", "1", "-n", "3"]
ALL = {
    f"photo{end}"
    for end in (
        ".npz",
        "_sr.png",
        "_lower.png",
        "_upper.png",
        "_radius.png",
        "_panel.png",
        ".json",
    )
}


def names(folder):
    return {path.name for path in folder.iterdir()}


def fail(*_args, **_options):
    raise MemoryError("no room")


@pytest.mark.parametrize("output", ["in/photo.png", "in/photo.png/below", "/proc/nowhere"])
def test_a_folder_that_can_not_be_is_told_before_the_draws(
    output, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(draws.Sampler, "draws", lambda *_: pytest.fail("it has begun to draw"))
    assert main(["certify", str(photo), "-o", str(tmp_path / output), *QUICK]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert names(tmp_path) == {"in"}


def test_the_certificate_is_saved_before_anything_is_made_of_it(
    photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(certificate_report, "answer", fail)
    out = tmp_path / "out"
    assert main(["certify", str(photo), "-o", str(out), *QUICK]) == 2
    assert "no room" in capsys.readouterr().err
    assert names(out) == {"photo.npz", "photo_sr.png", "photo_parts"}
    certificate = Certificate.load(out / "photo.npz")
    assert torch.equal(images.read(out / "photo_sr.png").pixels, certificate.sr)


def test_a_bare_pass_that_does_not_fit_is_left_out_with_a_word(
    photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(memory_budget, "bare_output", fail)
    out = tmp_path / "out"
    assert main(["certify", str(photo), "-o", str(out), *QUICK]) == 0
    error = capsys.readouterr().err
    assert error == "smoothsr: the bare network's output is left out: no room\n"
    assert names(out) == ALL


@pytest.mark.parametrize("figure", ["radius_figure", "panel"])
def test_a_figure_that_fails_costs_no_result(figure, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(certificate_figures, figure, fail)
    out = tmp_path / "out"
    assert main(["certify", str(photo), "-o", str(out), *QUICK]) == 2
    captured = capsys.readouterr()
    lost = {"radius_figure": "photo_radius.png", "panel": "photo_panel.png"}[figure]
    assert f"{lost} is not written: no room" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert names(out) == ALL - {lost} | {"photo_parts"}
    assert lost.removeprefix("photo") not in captured.out
    certificate = (out / "photo.npz").read_bytes()
    monkeypatch.undo()
    assert main(["certify", str(photo), "-o", str(out), *QUICK]) == 0
    assert names(out) == ALL
    assert (out / "photo.npz").read_bytes() == certificate  # of the same draws


def test_what_is_without_an_attack_is_beside_the_bounds(photo, tmp_path, capsys):
    reference = tmp_path / "hr.png"
    images.write(reference, images.Picture(torch.rand(1, 3, 36, 28)))
    out = tmp_path / "out"
    command = ["certify", str(photo), "-o", str(out), *QUICK, "--reference", str(reference)]
    assert main(command) == 0
    actual = json.loads((out / "photo.json").read_text())["psnr_to_reference"]
    printed = capsys.readouterr().out
    for name in ("bare", "smoothed"):
        line = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        assert line.endswith(f" {actual[name]:.2f} dB")
    before = printed.index("served: the median of 3 fresh draws")
    assert before < printed.index("l2 radius") < printed.index("M: 1.75")
