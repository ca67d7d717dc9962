"""`smoothsr certify --enough`: draws until the average's bound is small enough."""

import json
import re
import signal

import pytest
from process_runs import as_rank, dying, torchrun

from smoothsr import Certificate
from smoothsr.cli import main
from smoothsr.files.parts import Parts
from smoothsr.reports.deviation_report import SHOWN

TILES = 6  # of a 9x7 image
NEVER = 1e-3  # steps, which not even a network without noise is certified for


def command(photo, out, *options, tile=4):
    fixed = ["--n-cert", 300, "--levels", 4, "--tile", tile, "-n", 3, "--sigma", 0.1]
    fixed += ["--halo", 1] if tile else []
    return [str(word) for word in ("certify", photo, "-o", out, *fixed, *options)]


@pytest.fixture
def steps(photo, tmp_path):
    """What 300 draws certify, in 8-bit steps."""
    assert main(command(photo, tmp_path / "all")) == 0
    certificate = Certificate.load(tmp_path / "all" / "photo.npz")
    assert (certificate.looks, certificate.n_cert) == (1, 300)
    return 255 * certificate.deviation(SHOWN, "linf")


def test_it_stops_once_the_first_sentence_promises_enough(photo, steps, tmp_path, capsys):
    enough = 4 * steps
    capsys.readouterr()
    assert main(command(photo, tmp_path / "out", "--enough", enough)) == 0
    printed = capsys.readouterr().out
    found = Certificate.load(tmp_path / "out" / "photo.npz")
    assert found.n_cert < 300
    assert (found.looks, found.alpha) == (3, 1e-3)
    assert 255 * found.deviation(SHOWN, "linf") <= enough
    assert f"steps are certified by {found.n_cert} draws, and that is enough" in printed
    assert float(re.search(r"stays within ([\d.]+) steps", printed)[1]) <= 1.01 * enough
    assert "(Confidence 0.999;" in printed
    drawn = f"0.999 over the draws of up to 3 looks, of which this one made {found.n_cert}"
    assert drawn in printed
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert record["enough_8bit"] == pytest.approx(enough)
    assert record["certificate"]["looks"] == 3
    assert not (tmp_path / "out" / "photo_parts").exists()


def test_it_says_if_all_draws_are_not_enough(photo, tmp_path, capsys):
    assert main(command(photo, tmp_path / "out", "--enough", NEVER, "--looks", 2)) == 0
    printed = capsys.readouterr().out
    assert "300 draws do not certify 0.001 steps; what they do is below" in printed
    assert (
        "with confidence 0.999 over the draws of up to 2 looks, of which this one made 300\n"
        in printed
    )
    found = Certificate.load(tmp_path / "out" / "photo.npz")
    assert (found.n_cert, found.looks) == (300, 2)


AT_ONCE = ["--radius", "0"]  # of which alone the wish speaks


def test_draws_that_are_wished_for_come_without_looks(photo, tmp_path, capsys):
    options = ["--n-cert", 60, "--levels", 32, "--enough", 254]
    assert main(command(photo, tmp_path / "out", *options)) == 0
    printed = capsys.readouterr().out
    assert "Nothing is guaranteed of single values: 20 draws can't bound 3024 of them" in printed
    wish = re.search(r"would do for radius 0: --n-cert (\d+) without --enough", printed)[1]
    assert main(command(photo, tmp_path / "out", "--levels", 32, "--n-cert", wish, *AT_ONCE)) == 0
    assert "Of the ideal median there are bounds: the table has them." in capsys.readouterr().out


def test_killed_in_a_look_it_goes_on_there(photo, tmp_path, monkeypatch, capsys):
    arguments = command(photo, tmp_path / "out", "--enough", NEVER)
    assert dying(arguments) == -signal.SIGKILL
    names, real = [], Parts.add
    monkeypatch.setattr(
        Parts, "add", lambda parts, name, arrays: names.append(name) or real(parts, name, arrays)
    )
    assert main(arguments) == 0
    assert len(names) == 3 * TILES - 2
    assert not (tmp_path / "out" / "photo_parts").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--enough", "0"], "--enough must be between 0 and 255 steps, got 0"),
        (["--enough", "300"], "--enough must be between 0 and 255 steps, got 300"),
        (
            ["--looks", "5"],
            "--looks is how often to look whether --enough is reached: add --enough",
        ),
        (["--looks", "1", "--enough", "2"], "--looks must be at least 2, got 1"),
        (["--looks", "0", "--enough", "2"], "--looks must be at least 2, got 0"),
    ],
)
def test_mistakes_are_one_line(options, message, photo, tmp_path, capsys):
    assert main(command(photo, tmp_path / "out", *options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_processes_that_do_not_wait_share_no_looks(photo, tmp_path, monkeypatch, capsys):
    arguments = command(photo, tmp_path / "out", "--enough", "2")
    assert as_rank(monkeypatch, 1, main, arguments) == 2
    error = capsys.readouterr().err
    assert "--enough over several processes takes torchrun" in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("tile", [4, 0])
def test_torchrun_starts_a_look_again(tile, photo, tmp_path):
    arguments = command(photo, tmp_path / "out", "--enough", NEVER, tile=tile)
    done = torchrun(arguments)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr or "Signal 9" in done.stderr, done.stderr
    assert done.stdout.count("300 draws do not certify 0.001 steps") == 1
    assert Certificate.load(tmp_path / "out" / "photo.npz").n_cert == 300
    assert not (tmp_path / "out" / "photo_parts").exists()
