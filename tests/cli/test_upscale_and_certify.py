import json
import re
import subprocess
import sys

import pytest
import torch

from smoothsr import Certificate
from smoothsr.cli import main
from smoothsr.evaluation.numbers import number
from smoothsr.files import images
from smoothsr.files.images import Picture
from smoothsr.reports.deviation_report import at_least

QUICK = ["--n-cert", "200", "--levels", "4", "--tile", "4", "--halo", "1", "--sigma", "0.05"]


def error_of(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("smoothsr: warning")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("smoothsr: ")
    return lines[0]


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom smoothsr.cli import main\ntry: main(['--help'])\nexcept SystemExit: "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "certify" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(("text", "value"), [("0.03", 0.03), ("8/255", 8 / 255), ("1e-3", 1e-3)])
def test_number(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["1/0", "nan", "inf", "8/255/2", "much"])
def test_bad_numbers_exit_with_2(text, capsys, photo):
    with pytest.raises(SystemExit) as stop:
        main(["certify", str(photo), "--sigma", text])
    assert stop.value.code == 2
    assert "--sigma" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "text"), [("certify", "8"), ("upscale", "1.5"), ("evaluate", "0,8"), ("sweep", "8")]
)
def test_a_sigma_in_8_bit_steps_is_told_so(command, text, capsys, photo):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                command,
                *(["--hr"] if command in ("evaluate", "sweep") else []),
                str(photo),
                "--sigma",
                text,
            ]
        )
    assert stop.value.code == 2
    assert (
        "must be at most 1, since values are in [0, 1]: write 8/255, not 8"
        in capsys.readouterr().err
    )


def test_certify_writes_what_it_says(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(
            [
                "certify",
                str(photo),
                "-o",
                str(out),
                *QUICK,
                "--radius",
                "0.01",
                "0",
                "0.5",
                "--reference",
                str(photo),
            ]
        )
        == 2
    )
    assert "the output has 28x36 pixels" in capsys.readouterr().err
    assert not out.exists()

    assert (
        main(["certify", str(photo), "-o", str(out), *QUICK, "--radius", "0.01", "0", "0.5"]) == 0
    )
    printed = capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {
        f"photo{end}"
        for end in (
            "_sr.png",
            "_lower.png",
            "_upper.png",
            "_radius.png",
            "_panel.png",
            ".json",
            ".npz",
        )
    }
    certificate = Certificate.load(out / "photo.npz")
    assert torch.equal(images.read(out / "photo_sr.png").pixels, certificate.sr)
    lower, upper = (images.read(out / f"photo_{side}.png").pixels for side in ("lower", "upper"))
    expected = certificate.bounds(0.01)
    assert torch.equal(lower, expected[0])
    assert torch.equal(upper, expected[1])
    assert (certificate.tile, certificate.halo, certificate.sigma, certificate.n_cert) == (
        4,
        1,
        0.05,
        200,
    )

    record = json.loads((out / "photo.json").read_text())
    rows = {(row["predictor"], row["radius"]): row for row in record["table"]}
    assert set(rows) == {
        (predictor, radius) for predictor in ("served", "ideal") for radius in (0, 0.01, 0.5)
    }
    for (predictor, radius), row in rows.items():
        low, high = certificate.bounds(radius, predictor)
        assert row["mean_width_8bit"] == pytest.approx(float((high - low).mean() * 255), rel=1e-5)
        assert row["psnr_collective"] == pytest.approx(
            certificate.psnr(radius, predictor=predictor)
        )
        held = certificate.radius_map(8 / 255, predictor)
        assert row["within_tolerance"] == pytest.approx(float((held >= radius).float().mean()))
    assert "Guaranteed, with confidence 0.999 over the 200 certification draws" in printed
    assert "Not guaranteed" in printed
    assert at_least(rows["ideal", 0.01]["psnr_collective"]) in printed
    assert re.search(r"predictor: --sigma 0.05 -n 21 --agg median --tile 4 --halo 1", printed)


def test_what_is_overwritten_is_told(photo, tmp_path, capsys):
    for overwritten in (False, True):
        assert main(["certify", str(photo), "-o", str(tmp_path / "out"), *QUICK]) == 0
        printed = capsys.readouterr().out
        assert (f"was in {tmp_path / 'out'} before is overwritten" in printed) == overwritten


@pytest.mark.parametrize(("fragile", "advised"), [(0.0, True), (255.0, False)])
def test_a_denoiser_is_named_where_the_mean_moves_far(
    fragile, advised, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("smoothsr.cli.certify.FRAGILE", fragile)
    assert main(["certify", str(photo), "-o", str(tmp_path / "out"), *QUICK]) == 0
    assert ("with --denoiser builtin they may differ less" in capsys.readouterr().out) == advised


def test_too_few_draws_are_said(photo, tmp_path, capsys):
    assert main(["certify", str(photo), "-o", str(tmp_path / "out"), *QUICK, "--n-cert", "9"]) == 0
    captured = capsys.readouterr()
    assert "Nothing is guaranteed of single values: 9 draws" in captured.out
    needed = int(re.search(r"--n-cert (\d+)", captured.out)[1])
    options = [*QUICK, "--n-cert", str(needed), "--radius", "0"]
    assert main(["certify", str(photo), "-o", str(tmp_path / "out"), *options]) == 0
    assert "Of the ideal median there are bounds: the table has them." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "lattice"), [([], True), (["--no-lattice"], False), (["--lattice"], True)]
)
def test_inputs_of_8_bits_are_certified_on_the_lattice(photo, tmp_path, options, lattice, capsys):
    out = tmp_path / "out"
    assert main(["certify", str(photo), "-o", str(out), *QUICK, *options]) == 0
    assert Certificate.load(out / "photo.npz").lattice == lattice
    assert ("attack by whole 8-bit steps" in capsys.readouterr().out) == lattice


def test_inputs_of_16_bits_are_not_unless_rounded(photo, tmp_path, capsys):
    picture = images.Picture(images.read(photo).pixels * 0.7, bits=16)
    images.write(tmp_path / "deep.png", picture)
    command = ["certify", str(tmp_path / "deep.png"), "-o", str(tmp_path / "out"), *QUICK]
    assert main(command) == 0
    assert not Certificate.load(tmp_path / "out" / "deep.npz").lattice
    assert main([*command, "--lattice"]) == 2
    assert "of whole 8-bit steps is certified" in capsys.readouterr().err


def test_mean_has_ideal_claims_only(photo, tmp_path, capsys):
    assert main(["certify", str(photo), "-o", str(tmp_path / "out"), *QUICK, "--agg", "mean"]) == 0
    printed = capsys.readouterr().out
    assert "ideal mean" in printed
    assert "served" not in printed


@pytest.mark.parametrize(
    ("options", "words", "n", "antithetic"),
    [
        ([], "-n 6 --agg mean --antithetic", 6, True),
        (["--no-antithetic"], "-n 21 --agg mean --no-antithetic", 21, False),
        (["-n", "7"], "-n 7 --agg mean --antithetic", 7, True),
    ],
)
def test_means_are_drawn_in_pairs_and_that_is_said(
    options, words, n, antithetic, photo, tmp_path, capsys
):
    given = ["-o", str(tmp_path / "out"), "--agg", "mean", *options]
    assert main(["certify", str(photo), *QUICK, *given]) == 0
    printed = capsys.readouterr().out
    assert f"{words} --tile 4" in printed
    assert f"PSNR, {n} draws{' in pairs' if antithetic else ''}\n" in printed
    record = json.loads((tmp_path / "out" / f"{photo.stem}.json").read_text())["certificate"]
    assert (record["n_serve"], record["antithetic"]) == (n, antithetic)
    assert main(["upscale", str(photo), *given]) == 0
    assert words in capsys.readouterr().out


def predictor_of(printed):
    """The options that define it, as a command prints them and as commands take them."""
    return re.search(r"predictor: (.*)", printed)[1].split()


def test_upscale_gives_the_certified_predictor(photo, tmp_path, capsys):
    """With the options that certify prints. With noise that hardly moves an output both commands
    must write the same image; another tile shows.
    """
    command = ["certify", photo, "-o", tmp_path / "c", *QUICK, "--sigma", "1e-6"]
    assert main([*map(str, command)]) == 0
    options = predictor_of(capsys.readouterr().out)
    assert main(["upscale", str(photo), "-o", str(tmp_path / "u1.png"), *options]) == 0
    assert predictor_of(capsys.readouterr().out) == options
    assert {"--halo-noise", "--tile", "--halo", "-n", "--agg"} < {*options}
    options[options.index("--halo") + 1] = "0"
    assert main(["upscale", str(photo), "-o", str(tmp_path / "u0.png"), *options]) == 0
    certified = images.read(tmp_path / "c" / "photo_sr.png").pixels
    same, other = (images.read(tmp_path / f"u{halo}.png").pixels for halo in ("1", "0"))
    assert (certified - same).abs().max() < 1.5 / 255
    assert (certified - other).abs().max() > 1.5 / 255


def test_upscale_folder_goes_on_past_a_bad_file(photo, tmp_path, capsys):
    (photo.parent / "broken.png").write_bytes(photo.read_bytes()[:50])
    images.write(photo.parent / "gray.png", Picture(torch.rand(1, 1, 5, 6)))
    images.write(
        photo.parent / "clear.png", Picture(torch.rand(1, 3, 6, 5), torch.rand(1, 1, 6, 5))
    )
    images.write(photo.parent / "deep.png", Picture(torch.rand(1, 3, 5, 5) / 64, bits=16))
    out = tmp_path / "out"
    assert main(["upscale", str(photo.parent), "-o", str(out), "-n", "3"]) == 2
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert "4 upscaled, 0 skipped, 1 failed" in captured.out
    shapes = {path.name: images.read(path) for path in out.iterdir()}
    assert set(shapes) == {"photo_sr.png", "gray_sr.png", "clear_sr.png", "deep_sr.png"}
    assert shapes["gray_sr.png"].pixels.shape == (1, 1, 20, 24)
    assert shapes["clear_sr.png"].alpha.shape == (1, 1, 24, 20)
    assert shapes["deep_sr.png"].bits == 16
    assert len(shapes["deep_sr.png"].pixels.unique()) > 256 / 64


def test_upscale_skips_or_overwrites_and_says_so(photo, tmp_path, capsys):
    command = [
        "upscale",
        str(photo),
        "-o",
        str(tmp_path),
        "-n",
        "1",
        "--suffix",
        "_x4",
        "--ext",
        "jpg",
    ]
    assert main(command) == 0
    written = (tmp_path / "photo_x4.jpg").read_bytes()
    assert main([*command, "--skip-existing"]) == 0
    assert "skipped" in capsys.readouterr().out
    assert (tmp_path / "photo_x4.jpg").read_bytes() == written
    assert main(command) == 0
    assert "overwritten" in capsys.readouterr().out


def test_seeded_upscale_repeats(photo, tmp_path):
    for name in ("a", "b"):
        assert (
            main(
                [
                    "upscale",
                    str(photo),
                    "-o",
                    str(tmp_path / f"{name}.png"),
                    "--seed",
                    "3",
                    "-n",
                    "3",
                ]
            )
            == 0
        )
    a, b = (images.read(tmp_path / f"{name}.png").pixels for name in ("a", "b"))
    assert (a - b).abs().max() < 1.5 / 255


def test_mistakes_are_one_line(photo, tmp_path, capsys):
    text = tmp_path / "text.png"
    text.write_text("<html>")
    image = str(photo)
    assert "no_such" in error_of(capsys, "certify", tmp_path / "no_such.png")
    assert "text.png" in error_of(capsys, "certify", text)
    assert "no_such" in error_of(capsys, "upscale", tmp_path / "no_such.png")
    assert "no_such.pth" in error_of(capsys, "upscale", image, "-m", tmp_path / "no_such.pth")
    assert "text.png" in error_of(capsys, "upscale", image, "-m", text)
    assert "sigma" in error_of(capsys, "certify", image, "--sigma", "-1")
    assert "odd" in error_of(capsys, "certify", image, "-n", "20")
    assert "alpha" in error_of(capsys, "certify", image, "--alpha", "2")
    assert "--radius" in error_of(capsys, "certify", image, "--radius", "-1")
    assert "device" in error_of(capsys, "certify", image, "--device", "abacus")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images" in error_of(capsys, "upscale", empty)
    assert list(tmp_path.glob("**/*_sr*")) == []
    assert list(tmp_path.glob("**/*.part")) == []


def test_an_existing_result_survives_a_failure(photo, tmp_path, monkeypatch):
    target = tmp_path / "photo_sr.png"
    target.write_bytes(b"before")

    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    assert main(["upscale", str(photo), "-o", str(tmp_path), "-n", "1"]) == 2
    assert target.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "photo_sr.png"}


def test_models_lists_and_tells(tmp_path, capsys):
    assert main(["models"]) == 0
    assert "builtin" in capsys.readouterr().out
    (tmp_path / "x.pth").write_text("no network")
    assert main(["models", "builtin", str(tmp_path / "x.pth")]) == 2
    captured = capsys.readouterr()
    assert "x4, 3 channels, 163,280 parameters" in captured.out
    assert "x.pth" in captured.err
