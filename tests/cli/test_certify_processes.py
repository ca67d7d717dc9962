"""`smoothsr certify`, killed and started again, or shared by processes: no tile is drawn twice."""

import os
import signal

import numpy as np
import pytest
from process_runs import as_rank, dying, started, torchrun

from smoothsr import Certificate
from smoothsr.cli import main, processes
from smoothsr.files.parts import Parts

TILES = 6  # of a 9x7 image
ENDS = (".npz", "_sr.png", "_lower.png", "_upper.png", "_radius.png", "_panel.png", ".json")
RESULTS = {f"photo{end}" for end in ENDS}


def certify(photo, out, tile=4, n_cert=200):
    options = ["--n-cert", n_cert, "--levels", 4, "--tile", tile, "-n", 3]
    options += ["--halo", 1] if tile else []
    return [str(word) for word in ("certify", photo, "-o", out, *options)]


def kept(out):
    parts = Parts(out / "photo_parts")
    found = [path.stem for path in parts.folder.iterdir() if not path.stem.endswith("probe")]
    return {name: parts.read(name) for name in found}


@pytest.fixture
def added(monkeypatch):
    """The names of the parts that are added in this process from now on."""
    names, real = [], Parts.add

    def add(parts, name, arrays):
        names.append(name)
        real(parts, name, arrays)

    monkeypatch.setattr(Parts, "add", add)
    return names


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_killed_and_started_again_it_goes_on_where_it_was(photo, tmp_path, added, capsys):
    command = certify(photo, tmp_path / "out")
    assert dying(command) == -signal.SIGKILL
    before = kept(tmp_path / "out")
    assert len(before) == 2
    assert main(command) == 0
    assert "photo_parts of these options is not drawn again" in capsys.readouterr().out
    assert len(added) == TILES - 2
    assert names(tmp_path / "out") == RESULTS
    mean = Certificate.load(tmp_path / "out" / "photo.npz").mean
    first = before[min(before)]["mean"]
    assert min(before).endswith("_tile_0")
    assert np.array_equal(mean[0, :, : first.shape[1], : first.shape[2]], first)


def test_two_processes_at_once_make_one_certificate(photo, tmp_path):
    command = certify(photo, tmp_path / "out")
    ranks = [started(command, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    printed = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    told = [out.count("Wrote ") for out, _ in printed]
    assert sorted(told) == [0, 1], printed
    assert "the process that is last to end writes the certificate" in printed[told.index(0)][0]
    assert names(tmp_path / "out") == RESULTS


def test_the_work_of_a_killed_process_is_done_by_the_next(photo, tmp_path, added, monkeypatch):
    command = certify(photo, tmp_path / "out")
    assert dying(command, RANK="0", WORLD_SIZE="2") == -signal.SIGKILL
    for rank in (1, 0):
        assert names(tmp_path / "out") == {"photo_parts"}
        assert as_rank(monkeypatch, rank, main, command) == 0
    assert len(added) == TILES - 2
    assert names(tmp_path / "out") == RESULTS


def test_processes_share_the_draws_of_a_whole_image(photo, tmp_path, added, monkeypatch):
    command = certify(photo, tmp_path / "out", tile=0)
    assert dying(command, RANK="0", WORLD_SIZE="2") == -signal.SIGKILL
    assert len([*(tmp_path / "out" / "photo_parts").glob("*draws*.npy")]) == 2
    for rank in (1, 0):
        assert as_rank(monkeypatch, rank, main, command) == 0
    blocks = [name for name in added if "draws" in name]
    assert len(blocks) == 3 + 50 - 2  # of 1 of 3 served draws each, and of 4 of 200
    assert names(tmp_path / "out") == RESULTS


@pytest.mark.slow
@pytest.mark.parametrize(("tile", "n_cert"), [(4, 200), (0, 40)])  # tiles, and draws in bands
def test_torchrun_starts_a_killed_process_again(tile, n_cert, photo, tmp_path):
    done = torchrun(certify(photo, tmp_path / "out", tile, n_cert))
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr or "Signal 9" in done.stderr, done.stderr
    assert names(tmp_path / "out") == RESULTS


def test_a_damaged_part_is_told_in_one_line(photo, tmp_path, capsys):
    command = certify(photo, tmp_path / "out")
    dying(command)
    part = min((tmp_path / "out" / "photo_parts").iterdir())
    part.write_bytes(part.read_bytes()[: os.path.getsize(part) // 2])
    assert main(command) == 2
    assert capsys.readouterr().err == f"smoothsr: {part} is damaged: delete it, and start again\n"


def test_only_where_torchrun_starts_them_processes_wait_for_each_other(monkeypatch, tmp_path):
    for name in ("TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR"):
        assert processes.parts_of(tmp_path).together is None
        monkeypatch.setenv(name, "0")
    assert processes.parts_of(tmp_path).together is not None
