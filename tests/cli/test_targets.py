"""Outputs never replace inputs."""

import os

import pytest

from smoothsr.cli import main
from smoothsr.cli.errors import UserError
from smoothsr.cli.targets import Naming, plan

NAMING = Naming(output=None, suffix="_sr", ext=None)


def folder_of(path, *names):
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(name.encode())
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_earlier_outputs_of_a_folder_are_left_out_and_counted(photo, capsys):
    for count in (0, 1, 1):
        assert main(["upscale", str(photo.parent), "-n", "1"]) == 0
        printed = capsys.readouterr().out
        assert ("1 earlier output (*_sr) left out" in printed) == (count == 1)
        assert "1 upscaled" in printed
    assert contents(photo.parent).keys() == {"photo.png", "photo_sr.png"}


def test_a_folder_of_earlier_outputs_alone_is_told_so(tmp_path):
    folder = folder_of(tmp_path / "f", "a_sr.png", "b_sr.png")
    with pytest.raises(UserError, match="2 outputs of an earlier run"):
        plan([str(folder)], NAMING)
    assert [*plan([str(folder / "a_sr.png")], NAMING).targets] == [folder / "a_sr.png"]
    assert len(plan([str(folder)], Naming(None, "_x4", None)).targets) == 2


def test_no_input_is_written_over(tmp_path):
    folder = folder_of(tmp_path / "f", "a.png", "a_sr.png", "b.png")
    before = contents(folder)
    a, a_sr = str(folder / "a.png"), str(folder / "a_sr.png")
    refused = [
        ([a, a_sr], NAMING),
        ([a_sr, a], NAMING),
        ([a], Naming(None, "", None)),
        ([a], Naming(folder, "", None)),
        ([a], Naming(folder / "a.png", "_sr", None)),
        ([str(folder)], Naming(folder / ".." / "f", "", None)),
    ]
    for inputs, naming in refused:
        with pytest.raises(UserError, match="which is an input itself"):
            plan(inputs, naming)
    assert main(["upscale", a, a_sr, "-n", "1"]) == 2
    assert contents(folder) == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_nor_by_a_link_to_it(link, tmp_path):
    folder = folder_of(tmp_path / "f", "a.png", "b.png")
    link(folder / "b.png", folder / "a_sr.png")
    with pytest.raises(UserError, match="which is an input itself"):
        plan([str(folder / "a.png"), str(folder / "b.png")], NAMING)


def test_two_inputs_of_one_target_are_refused_whatever_the_spelling(tmp_path):
    folder = folder_of(tmp_path / "f", "a.png", "a.jpg")
    with pytest.raises(UserError, match="would both be written to"):
        plan([str(folder)], Naming(None, "_sr", "png"))
    with pytest.raises(UserError, match="would both be written to"):
        plan([str(folder / "a.png"), str(folder / ".." / "f" / "a.png")], NAMING)


@pytest.mark.parametrize(
    "naming", [Naming(None, "/../../x", None), Naming(None, "_sr", "../x.png")]
)
def test_names_lead_nowhere_else(naming, tmp_path):
    folder = folder_of(tmp_path / "f", "a.png")
    with pytest.raises(UserError, match=r"--suffix|--ext"):
        plan([str(folder)], naming)


def test_a_target_that_is_a_folder_is_told_at_once(tmp_path):
    folder = folder_of(tmp_path / "f", "a.png")
    (folder / "a_sr.png").mkdir()
    with pytest.raises(UserError, match="which is a folder"):
        plan([str(folder / "a.png")], NAMING)
