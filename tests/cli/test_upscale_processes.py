"""`smoothsr upscale` of a folder, shared by processes: the outputs are those of one process."""

import os
import signal

import pytest
from evaluation_runs import photo, write
from process_runs import as_rank, dying, started, torchrun

from smoothsr.cli import main, upscale
from smoothsr.files.parts import Parts

NAMES = "abcdef"
INTERRUPTED = 130


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "in", **{name: photo(seed, 9, 7) for seed, name in enumerate(NAMES)})


def upscaling(folder, out, *more):
    return [str(word) for word in ("upscale", folder, "-o", out, "-n", 3, "--seed", 1, *more)]


@pytest.fixture
def done(monkeypatch):
    """The names of the images that are upscaled in this process from now on."""
    names, real = [], upscale._upscale

    def count(options, path, *arguments):
        names.append(path.stem)
        real(options, path, *arguments)

    monkeypatch.setattr(upscale, "_upscale", count)
    return names


def contents(folder):
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}


def test_two_processes_at_once_give_the_outputs_of_one(folder, tmp_path):
    command = upscaling(folder, tmp_path / "together")
    ranks = [started(command, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    printed = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert sorted("6 upscaled, 0 skipped, 0 failed" in out for out, _ in printed) == [False, True]
    assert main(upscaling(folder, tmp_path / "alone")) == 0
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "alone")) == 6


def test_a_killed_process_started_again_goes_on(folder, tmp_path, done, monkeypatch, capsys):
    command = upscaling(folder, tmp_path / "out")
    assert dying(command, RANK="0", WORLD_SIZE="2") == -signal.SIGKILL
    assert as_rank(monkeypatch, 1, main, command) == 0
    assert "5 of 6 parts are there; the process that is last" in capsys.readouterr().out
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert "6 upscaled, 0 skipped, 0 failed" in capsys.readouterr().out
    # a and c were done before; e was, but for the mark that it was
    assert done == ["b", "d", "f", "e"]
    assert {*contents(tmp_path / "out")} == {f"{name}_sr.png" for name in NAMES}


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_process_tells_what_failed(folder, tmp_path, first, monkeypatch, capsys):
    """A process that exits with a failure makes torchrun stop the others."""
    command = upscaling(folder, tmp_path / "out", "--skip-existing")
    (folder / "b.png").write_text("no image")  # of process 1
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c_sr.png").write_text("an output")
    assert as_rank(monkeypatch, first, main, command) == 0
    assert as_rank(monkeypatch, 1 - first, main, command) == 2
    printed = capsys.readouterr()
    assert printed.err.count("b.png: can't be read") == 1
    assert "4 upscaled, 1 skipped, 1 failed" in printed.out
    assert len(contents(tmp_path / "out")) == 5 + 1  # and the parts


def test_torchrun_that_starts_again_does_not_make_again_what_is_done(
    folder, tmp_path, done, monkeypatch, capsys
):
    """Where an image fails each time; once it is mended, nothing is left."""
    command, image = upscaling(folder, tmp_path / "out"), (folder / "b.png").read_bytes()
    (folder / "b.png").write_text("no image")
    for _ in range(3):
        assert [as_rank(monkeypatch, rank, main, command) for rank in (0, 1)] == [0, 2]
        assert "5 upscaled, 0 skipped, 1 failed" in capsys.readouterr().out
    assert done == [*"acebdf", "b", "b"]
    (folder / "b.png").write_bytes(image)
    assert [as_rank(monkeypatch, rank, main, command) for rank in (0, 1)] == [0, 0]
    assert done[8:] == ["b"]
    assert {*contents(tmp_path / "out")} == {f"{name}_sr.png" for name in NAMES}


def test_an_output_that_cannot_be_written_costs_no_draws(folder, tmp_path, monkeypatch, capsys):
    command = upscaling(folder / "a.png", tmp_path / "out", "-n", "9")
    assert as_rank(monkeypatch, 0, main, command) == 0
    with monkeypatch.context() as patched:
        patched.setattr(upscale.images, "write", full)
        assert as_rank(monkeypatch, 1, main, command) == 2
    assert len([*(tmp_path / "out").rglob("*draws*.npy")]) == 9
    assert [as_rank(monkeypatch, rank, main, command) for rank in (0, 1)] == [0, 0]
    assert {*contents(tmp_path / "out")} == {"a_sr.png"}


def full(*_arguments):
    raise OSError(28, "No space left on device")


def test_a_failure_is_tried_again_by_the_next_run(folder, tmp_path, monkeypatch):
    """Else the first process to end would make torchrun stop the one that tries it."""
    command, real, broken = upscaling(folder, tmp_path / "out"), upscale._upscale, ["b"]

    def fail(options, path, *arguments):
        if path.stem in broken:
            raise MemoryError("no room")
        real(options, path, *arguments)

    monkeypatch.setattr(upscale, "_upscale", fail)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert as_rank(monkeypatch, 1, main, command) == 0  # and process 0 is killed
    broken.clear()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "2")
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert len(contents(tmp_path / "out")) == 5 + 1  # and the parts
    assert as_rank(monkeypatch, 1, main, command) == 0
    assert {*contents(tmp_path / "out")} == {f"{name}_sr.png" for name in NAMES}


def test_images_and_options_that_have_changed_are_done_again(folder, tmp_path, done, monkeypatch):
    command = upscaling(folder, tmp_path / "out")
    assert as_rank(monkeypatch, 0, main, command) == 0
    write(folder, a=photo(9, 8, 8))
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert as_rank(monkeypatch, 0, main, [*command, "--sigma", "0.04"]) == 0
    assert as_rank(monkeypatch, 0, main, [*command, "--model", "builtin-clean"]) == 0
    assert done == [*"ace", "a", *"ace", *"ace"]


def test_an_output_that_was_removed_is_made_again(folder, tmp_path, done, monkeypatch):
    command = upscaling(folder, tmp_path / "out")
    assert as_rank(monkeypatch, 0, main, command) == 0
    (tmp_path / "out" / "c_sr.png").unlink()
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert done == [*"ace", "c"]


def test_processes_share_the_draws_of_a_single_image(folder, tmp_path, monkeypatch, capsys):
    image, more = folder / "a.png", ["-n", "9"]
    shared = upscaling(image, tmp_path / "shared", *more)
    assert dying(shared, RANK="0", WORLD_SIZE="2") == -signal.SIGKILL
    assert as_rank(monkeypatch, 1, main, shared) == 0
    assert not [*(tmp_path / "shared").glob("*.png")]
    assert "6 of 9 parts are there; the process that is last" in capsys.readouterr().out
    assert as_rank(monkeypatch, 0, main, shared) == 0
    assert "1 upscaled, 0 skipped, 0 failed" in capsys.readouterr().out
    assert main(upscaling(image, tmp_path / "alone", *more)) == 0
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_one_process_goes_on_where_several_were(folder, tmp_path, done, monkeypatch, capsys):
    command = upscaling(folder, tmp_path / "out")
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert main(command) == 0
    assert done == [*"ace", *"bdf"]
    assert "6 upscaled, 0 skipped, 0 failed" in capsys.readouterr().out
    assert {*contents(tmp_path / "out")} == {f"{name}_sr.png" for name in NAMES}
    assert main(command) == 0
    assert done[6:] == [*NAMES]  # nothing is left of the earlier runs


def test_one_process_goes_on_with_draws_that_several_made(folder, tmp_path, monkeypatch):
    command = upscaling(folder / "a.png", tmp_path / "out", "-n", "9")
    assert as_rank(monkeypatch, 0, main, command) == 0
    added, real = [], Parts.add
    monkeypatch.setattr(Parts, "add", lambda *words: (added.append(words[1]), real(*words))[1])
    assert main(command) == 0
    assert len([name for name in added if "draws" in name]) == 4
    assert main(upscaling(folder / "a.png", tmp_path / "alone", "-n", "9")) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_one_process_leaves_what_is_of_other_images(folder, tmp_path, monkeypatch, done):
    command = upscaling(folder, tmp_path / "out")
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert main(upscaling(folder / "b.png", tmp_path / "out")) == 0
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert done == [*"ace", "b"]


def test_a_process_forgets_its_failures_of_an_earlier_run(folder, tmp_path, monkeypatch, capsys):
    """Not all starters give runs names."""
    command, broken = upscaling(folder, tmp_path / "out"), folder / "b.png"
    image = broken.read_bytes()
    times = broken.stat()
    broken.write_bytes(b"no image".ljust(len(image)))
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert as_rank(monkeypatch, 1, main, command) == 0  # and process 0 is killed
    broken.write_bytes(image)
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))
    with monkeypatch.context() as patched:  # begun, as both have before one of them goes on
        patched.setattr(upscale, "meet", killed)
        assert as_rank(monkeypatch, 1, main, command) == INTERRUPTED
    assert as_rank(monkeypatch, 0, main, command) == 0
    assert "5 of 6 parts are there; the process that is last" in capsys.readouterr().out
    assert as_rank(monkeypatch, 1, main, command) == 0
    assert "6 upscaled, 0 skipped, 0 failed" in capsys.readouterr().out


def killed():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again(folder, tmp_path):
    done = torchrun(upscaling(folder, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {*contents(tmp_path / "out")} == {f"{name}_sr.png" for name in NAMES}
