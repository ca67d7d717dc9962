"""--precision auto: settled once, and named in what is printed and certified."""

import pytest
import torch

from smoothsr import Certificate
from smoothsr.cli import main, smoother

QUICK = ["--n-cert", "100", "--levels", "4", "--tile", "4", "--halo", "1", "-n", "3"]


@pytest.mark.parametrize("found", ["bfloat16", "float32"])
def test_the_precision_found_is_used_and_named(found, photo, tmp_path, monkeypatch, capsys):
    tried = []

    def fastest(_network, batch):
        tried.append(batch)
        return getattr(torch, found)

    monkeypatch.setattr(smoother, "fastest", fastest)
    folder = tmp_path / "out"
    command = ["certify", str(photo), "-o", str(folder), *QUICK, "--precision", "auto"]
    assert main(command) == 0
    assert f"--precision {found}" in capsys.readouterr().out
    certificate = Certificate.load(folder / f"{photo.stem}.npz")
    assert certificate.dtype.split()[0] == found
    assert [(*batch.shape[1:],) for batch in tried] == [(3, 6, 6)]  # as its patches are


def test_processes_must_name_a_precision(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smoother, "place", lambda: (0, 2))
    command = ["upscale", str(photo), "-o", str(tmp_path / "sr"), "--precision", "auto"]
    assert main(command) == 2
    assert "may differ between processes: name one" in capsys.readouterr().err


def test_attack_names_its_precision(photo, capsys):
    with pytest.raises(SystemExit):
        main(["attack", str(photo), "--precision", "auto"])
    assert "invalid choice: 'auto'" in capsys.readouterr().err
