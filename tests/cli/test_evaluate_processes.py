"""`smoothsr evaluate`, killed and started again, or shared by processes: the table is that of one
run.
"""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_runs import counted, error_of, evaluate, leftovers, photo, write
from process_runs import ONE_THREAD, started

from smoothsr.cli import main

ATTACKS = "none,noise:0.1,bim:4/255:steps=4"


@pytest.fixture
def hr(tmp_path):
    return write(tmp_path / "hr", a=photo(1), b=photo(2), c=photo(3))


def table(out):
    return [(out / f"evaluate.{suffix}").read_bytes() for suffix in ("md", "csv")]


# Ends a run without a word, as the system does, when its fifth output is about to be served.
KILLED = """
import os, signal, sys
from smoothsr.cli import main
from smoothsr.evaluation import study
real, calls = study.serve, []
def serve(*arguments):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
study.serve = serve
main(sys.argv[1:])
"""


def test_killed_and_started_again_gives_the_table_of_one_run(hr, tmp_path, monkeypatch):
    options = ["--sigma", "0,0.05"]
    through, killed = tmp_path / "through", tmp_path / "killed"
    command = evaluate(hr, killed, *options, attacks=ATTACKS)
    done = subprocess.run([sys.executable, "-c", KILLED, *command], env=ONE_THREAD)
    assert done.returncode == -signal.SIGKILL
    files = [json.loads(path.read_text()) for path in (killed / "parts").glob("*.json")]
    assert sum(len(scores) for file in files for scores in file.values()) == 4
    assert not (killed / "evaluate.md").exists()
    outputs = counted(monkeypatch)
    assert main(command) == 0
    assert len(outputs) == 18 - 4
    assert main(evaluate(hr, through, *options, attacks=ATTACKS)) == 0
    assert len(outputs) == 18 - 4 + 18
    assert table(killed) == table(through)
    assert leftovers(killed) == []


def test_two_processes_at_once_give_the_table_of_one(hr, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    ranks = [
        started(evaluate(hr, together, attacks=ATTACKS), RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    printed = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert main(evaluate(hr, alone, attacks=ATTACKS)) == 0
    assert table(together) == table(alone)
    assert leftovers(together) == []


@pytest.mark.slow
def test_torchrun_gives_the_table_of_one_process(hr, tmp_path):
    torchrun = Path(sys.executable).with_name("torchrun")
    if not torchrun.exists():
        pytest.skip("there is no torchrun beside this Python")
    (hr / "bad.png").write_text("no image")
    alone, together = tmp_path / "alone", tmp_path / "together"
    command = [
        torchrun,
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "smoothsr.cli",
        *evaluate(hr, together, attacks=ATTACKS),
    ]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode != 0
    assert "bad.png: can't be read" in done.stderr
    assert main(evaluate(hr, alone, attacks=ATTACKS)) == 2
    assert table(together) == table(alone)


def as_rank(monkeypatch, rank, command):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    try:
        return main(command)
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("first", [0, 1])
def test_processes_take_turns(hr, tmp_path, first, capsys, monkeypatch):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert as_rank(monkeypatch, first, evaluate(hr, together)) == 0
    assert not (together / "evaluate.md").exists()
    assert {path.stem for path in (together / "parts").iterdir()} == (
        {"b"} if first else {"a", "c"}
    )
    assert f"{1 if first else 2} of 3 images done here" in capsys.readouterr().out
    assert as_rank(monkeypatch, 1 - first, evaluate(hr, together)) == 0
    assert main(evaluate(hr, alone)) == 0
    assert table(together) == table(alone)


@pytest.mark.parametrize("first", [0, 1])
def test_a_failure_does_not_stop_other_processes_before_they_are_done(
    hr, tmp_path, first, monkeypatch, capsys
):
    """A process that exits with a failure makes torchrun stop the others."""
    good = (hr / "b.png").read_bytes()
    (hr / "b.png").write_bytes(good[:60])  # an image of process 1
    command = evaluate(hr, tmp_path / "out")
    assert as_rank(monkeypatch, first, command) == 0
    assert as_rank(monkeypatch, 1 - first, command) == 2
    assert "smoothsr: b: " in capsys.readouterr().err
    assert "Means over 2 images" in (tmp_path / "out" / "evaluate.md").read_text()
    (hr / "b.png").write_bytes(good)
    assert as_rank(monkeypatch, 1, command) == 0
    assert "Means over 3 images" in (tmp_path / "out" / "evaluate.md").read_text()
    assert {path.name for path in (tmp_path / "out" / "parts").iterdir()} == {
        "a.json",
        "b.json",
        "c.json",
    }


def test_a_failure_of_an_earlier_run_is_not_one_of_this(hr, tmp_path, monkeypatch, capsys):
    """Else the first process to end would leave the image out, and make torchrun stop the one that
    measures it.
    """
    good, command = (hr / "b.png").read_bytes(), evaluate(hr, tmp_path / "out")
    (hr / "b.png").write_bytes(good[:60])  # an image of process 1
    assert main(command) == 2
    table(tmp_path / "out")
    capsys.readouterr()
    (hr / "b.png").write_bytes(good)
    assert as_rank(monkeypatch, 0, command) == 0
    printed = capsys.readouterr()
    assert (printed.err, "2 of 3 images done here" in printed.out) == ("", True)
    assert as_rank(monkeypatch, 1, command) == 0
    assert "Means over 3 images" in (tmp_path / "out" / "evaluate.md").read_text()


def test_scores_of_other_pixels_are_not_those_of_an_image_that_is_still_measured(
    hr, tmp_path, monkeypatch, capsys
):
    command = evaluate(hr, tmp_path / "out")
    assert main(command) == 0
    before = table(tmp_path / "out")
    write(hr, b=photo(9))  # an image of process 1
    assert as_rank(monkeypatch, 0, command) == 0
    assert "2 of 3 images done here" in capsys.readouterr().out
    assert table(tmp_path / "out") == before
    assert as_rank(monkeypatch, 1, command) == 0
    assert table(tmp_path / "out") != before


@pytest.mark.parametrize(
    ("rank", "size"), [("5", "2"), ("1", "1"), ("-1", "2"), ("0", "0"), ("a", "2"), ("0", "b")]
)
def test_places_that_do_not_exist_are_refused(hr, tmp_path, rank, size, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    error = error_of(capsys, evaluate(hr, tmp_path / "out"))
    assert (
        f"from 0 to WORLD_SIZE - 1, and the environment has RANK={rank} and WORLD_SIZE={size}"
        in error
    )


def test_processes_of_several_machines_understand_each_others_notes(
    hr, tmp_path, monkeypatch, capsys
):
    """The same run, by other paths, on another device and with other file times."""
    (hr / "b.png").write_text("no image")  # of process 1
    other = tmp_path / "other"
    shutil.copytree(hr, other, copy_function=shutil.copyfile)
    assert as_rank(monkeypatch, 1, [*evaluate(hr, tmp_path / "out"), "--device", "cpu"]) == 0
    assert as_rank(monkeypatch, 0, evaluate(other, hr / ".." / "out")) == 2
    assert "b.png: can't be read" in capsys.readouterr().err
    assert "- Left out, b: " in (tmp_path / "out" / "evaluate.md").read_text()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert (
        as_rank(monkeypatch, 0, evaluate(other, tmp_path / "out")) == 0
    )  # as if process 1 were still at it
    assert "2 of 3 images done here" in capsys.readouterr().out


def test_a_table_that_is_left_from_before_is_told_so(hr, tmp_path, capsys):
    assert main(evaluate(hr, tmp_path / "out")) == 0
    for path in hr.iterdir():
        path.write_text("no image")
    assert main(evaluate(hr, tmp_path / "out")) == 2
    assert "evaluate.md is of an earlier run: no image could be measured" in capsys.readouterr().err
