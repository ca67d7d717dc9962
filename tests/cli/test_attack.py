import dataclasses
import errno
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from smoothsr import Certificate, SmoothedSR, adapters
from smoothsr.attacks import gradient_memory
from smoothsr.cli import attack, main
from smoothsr.engine import noise
from smoothsr.evaluation import conditions
from smoothsr.files import images
from smoothsr.files.images import Picture
from smoothsr.reports import figures

ROOT = Path(__file__).parents[2]
SAVE = figures.save_figure
QUICK = ["-n", "3", "--sigma", "0.05"]
FILES = {f"photo_{end}" for end in ("attacked.png", "attack.png", "attack.json")}
FILES |= {f"photo_{word}{end}.png" for word in ("bare", "smoothed") for end in ("", "_attacked")}


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Drawing takes longer than all the rest; what it draws is tested by itself, and by the
    example.
    """
    monkeypatch.setattr(
        "smoothsr.reports.figures.save_figure",
        lambda figure, path: path.write_text(str(len(figure.axes))),
    )


@pytest.fixture
def certified(photo, tmp_path):
    """A certificate of the photo by the command's own options."""
    out = tmp_path / "c"
    options = [
        "--n-cert",
        "300",
        "--levels",
        "8",
        "--tile",
        "4",
        "--halo",
        "1",
        "-n",
        "11",
        "--sigma",
        "0.05",
    ]
    assert main(["certify", str(photo), "-o", str(out), *options]) == 0
    return out / "photo.npz"


def run(*arguments):
    return main(["attack", *map(str, arguments)])


def error_of(capsys, *arguments):
    assert run(*arguments) == 2
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if not line.startswith("smoothsr: warning")
    ]
    assert len(lines) == 1
    return lines[0]


def steps_of(path):
    """The values of an 8-bit file, as integers."""
    return images.read(path).pixels.double().mul(255).round().numpy()


@pytest.mark.parametrize(
    "text", ["pgd:4/255:steps=2", "pgd:l2:0.3:steps=2:via=mean@bare", "blur:1+bim:2/255:steps=1"]
)
def test_files_hold_what_the_figures_say(text, photo, tmp_path, capsys):
    out = tmp_path / "out"
    reference = tmp_path / "hr.png"
    images.write(
        reference, Picture(torch.rand(1, 3, 36, 28, generator=torch.Generator().manual_seed(1)))
    )
    assert run(photo, "-o", out, "-a", text, *QUICK, "--reference", reference) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == FILES
    record = json.loads((out / "photo_attack.json").read_text())

    lr, attacked = images.read(photo).pixels, images.read(out / "photo_attacked.png")
    assert attacked.bits == 16
    change = (attacked.pixels.double() - lr.double()).numpy()
    assert record["size"]["linf_8bit"] == pytest.approx(255 * np.abs(change).max(), rel=1e-5)
    assert record["size"]["l2"] == pytest.approx(np.linalg.norm(change), rel=1e-5)
    if text.startswith("pgd:4"):
        assert 3.9 / 255 < np.abs(change).max() <= 4 / 255
    if text.startswith("pgd:l2"):
        assert 0.29 < np.linalg.norm(change) <= 0.3

    with torch.no_grad():  # what the file holds is what was measured
        again = adapters.load("builtin").model(attacked.pixels).clamp(0, 1).mul(255).round().numpy()
    assert np.abs(again - steps_of(out / "photo_bare_attacked.png")).max() <= 1
    truth = steps_of(reference)
    for row, word in zip(record["outputs"], ("bare", "smoothed"), strict=False):
        clean, harmed = (
            steps_of(out / f"photo_{word}.png"),
            steps_of(out / f"photo_{word}_attacked.png"),
        )
        assert row["largest_8bit"] == np.abs(harmed - clean).max()
        assert row["mean_8bit"] == pytest.approx(np.abs(harmed - clean).mean(), rel=1e-5)
        assert row["psnr_to_clean"] == pytest.approx(
            10 * np.log10(255**2 / np.square(harmed - clean).mean())
        )
        error = np.square(harmed - truth)[..., 4:-4, 4:-4].mean()
        assert row["psnr_attacked"] == pytest.approx(10 * np.log10(255**2 / error))
        assert f"{row['psnr_attacked']:.2f} dB" in printed
        assert {"psnr_clean", "psnr_y_clean", "psnr_y_attacked"} <= row.keys()
    assert ("@bare" in text) == ("knows the bare network only" in printed)


def test_a_seed_repeats_everything(photo, tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert (
            run(
                photo,
                "-o",
                tmp_path / name,
                "-a",
                "noise:0.02+pgd:2/255:steps=2",
                *QUICK,
                "--seed",
                seed,
            )
            == 0
        )
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert a == b
    assert {name for name in FILES if a[name] == c[name]} == {"photo_bare.png", "photo_attack.png"}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_attacker_has_not_met_the_serving_noise(photo, tmp_path, monkeypatch):
    met, original = [], noise.source

    def source(seed, *rest):
        met.append(seed)
        return original(seed, *rest)

    monkeypatch.setattr(noise, "source", source)
    assert run(photo, "-o", tmp_path / "out", "-a", "pgd:4/255:steps=2", *QUICK) == 0
    attacker, serving = met[:-3], met[-3:]
    assert len(attacker) >= 4  # the clean output, two steps and the end
    assert len({*attacker, *serving}) == len(met)  # every output has noise of its own
    assert None not in met


def test_16_bits_hold_a_change_within_its_budget():
    generator = torch.Generator().manual_seed(0)
    lr = torch.randint(256, (1, 3, 20, 20), generator=generator) / 255
    change = (torch.rand(lr.shape, generator=generator) - 0.5) / 16
    change[..., :5, :] = 0
    attacked = (lr + change).clamp(0, 1)
    written = attack._in_16_bits(lr, attacked)
    steps = written.double() * 65535
    assert (steps - steps.round()).abs().max() < 0.01
    assert torch.equal(written[..., :5, :], lr[..., :5, :])
    assert ((written - lr).abs() <= (attacked - lr).abs() + 1e-7).all()
    assert (written - attacked).abs().max() < 1.01 / 65535


def test_a_certificate_brings_its_options_and_holds(photo, certified, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run(
            photo, "-o", out, "-a", "pgd:l2:0.01:steps=2", "--certificate", certified, "--halo", "1"
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "--tile 4 --halo 1 --halo-noise 2 --precision float32" in printed
    assert "The output stayed inside." in printed
    record = json.loads((out / "photo_attack.json").read_text())["certificate"]
    assert record["holds"]
    assert record["patch_radius"] < record["radius"] <= 0.01
    output = images.read(out / "photo_smoothed_attacked.png").pixels
    assert record["bounded"] == 36 * 28 * 3
    assert record["outside_at_once"] == 0
    assert Certificate.load(certified).contains(output, 0.01)
    assert run(photo, "-o", out, "-a", "pgd:40/255:steps=1@bare", "--certificate", certified) == 0
    assert "claims nothing of so large a change" in capsys.readouterr().out


def test_a_change_of_less_than_a_step_is_none_on_the_lattice(photo, certified, tmp_path, capsys):
    """The certificate is of a smoother that rounds its input to whole steps, so none arrives."""
    assert Certificate.load(certified).lattice
    out = tmp_path / "out"
    assert run(photo, "-o", out, "-a", "fgsm:0.4/255@bare", "--certificate", certified) == 0
    record = json.loads((out / "photo_attack.json").read_text())
    assert record["certificate"]["radius"] == record["size"]["l2"] == 0
    printed = capsys.readouterr().out
    assert "Nothing: what it does is less than a file can hold." in printed
    assert "no attack was tested, only the bounds for none" in printed


@pytest.mark.parametrize(
    "attack",
    [
        "pgd:l2:0.0125:steps=2",
        "fgsm:2/255",
        "noise:0.02",
        "jpeg:90+pgd:l2:0.02:steps=2@bare",
        "pgd:rms:0.1/255:steps=2@bare+jpeg:90",
    ],
)
def test_an_attack_on_the_lattice_is_by_whole_steps(attack, photo, certified, tmp_path):
    """So that the bare network, the smoother and the certificate are asked about one change."""
    out = tmp_path / "out"
    assert run(photo, "-o", out, "-a", attack, "--certificate", certified) == 0
    change = steps_of(out / "photo_attacked.png") - steps_of(photo)
    attacked = images.read(out / "photo_attacked.png").pixels.double()
    assert np.abs(255 * attacked.numpy() - steps_of(out / "photo_attacked.png")).max() < 0.01
    record = json.loads((out / "photo_attack.json").read_text())
    norm = np.linalg.norm(change) / 255
    assert record["certificate"]["radius"] == pytest.approx(norm, rel=1e-3)
    assert record["size"]["l2"] == pytest.approx(norm, rel=1e-3)
    if attack.startswith("pgd:l2"):
        assert 3 < np.abs(change).sum() <= 10  # of norm .0125: ten values by one step at most
    if attack.startswith("fgsm"):
        assert set(np.unique(np.abs(change))) <= {0, 1, 2}


def test_a_false_certificate_gives_status_1(photo, certified, tmp_path, capsys):
    true = Certificate.load(certified)
    dataclasses.replace(true, upper=true.lower // 2, lower=true.lower // 2).save(certified)
    assert (
        run(photo, "-o", tmp_path / "out", "-a", "fgsm:l2:0.01@bare", "--certificate", certified)
        == 1
    )
    assert "THE CERTIFICATE DID NOT HOLD." in capsys.readouterr().out
    assert not json.loads((tmp_path / "out" / "photo_attack.json").read_text())["certificate"][
        "holds"
    ]


def test_certificates_of_something_else_are_refused(photo, certified, tmp_path, capsys):
    other = tmp_path / "other.png"
    images.write(other, Picture(1 - images.read(photo).pixels))
    given = ["--certificate", certified, "-o", tmp_path / "out", "-a", "fgsm:1/255@bare"]
    assert "another image" in error_of(capsys, other, *given)
    assert "another network than builtin-clean" in error_of(
        capsys, photo, *given, "-m", "builtin-clean"
    )
    assert "--sigma 0.03 contradicts" in error_of(capsys, photo, *given, "--sigma", "0.03")
    assert "-n 21 contradicts" in error_of(capsys, photo, *given, "-n", "21")
    assert "--tile 0 contradicts" in error_of(capsys, photo, *given, "--tile", "0")
    assert "--precision bfloat16 contradicts" in error_of(
        capsys, photo, *given, "--precision", "bfloat16"
    )
    made = Certificate.load(certified)
    for changed, word in (({"scope": "pixel"}, "one pixel"), ({"dtype": "float64"}, "in float64")):
        dataclasses.replace(made, **changed).save(certified)
        assert word in error_of(capsys, photo, *given)
    assert not (tmp_path / "out").exists()


def test_a_certificate_of_the_mean_is_broken_by_nothing(photo, tmp_path, capsys):
    lr = images.read(photo).pixels
    made = SmoothedSR(adapters.load("builtin").model, 0.05, 5, "mean", tile=4, halo=1).certify(
        lr, n=200, levels=4
    )
    made.save(tmp_path / "mean.npz")
    assert (
        run(photo, "-o", tmp_path / "out", "-a", "none", "--certificate", tmp_path / "mean.npz")
        == 0
    )
    printed = capsys.readouterr().out
    assert "-n 5 --agg mean --antithetic" in printed
    given = ["--certificate", tmp_path / "mean.npz", "--no-antithetic"]
    assert "--no-antithetic contradicts" in error_of(capsys, photo, *given)
    record = json.loads((tmp_path / "out" / "photo_attack.json").read_text())
    assert (record["predictor"]["n"], record["predictor"]["antithetic"]) == (5, True)
    assert "speaks of the ideal mean only" in printed


def test_gray_images_with_alpha_and_a_degradation(tmp_path, capsys):
    path = tmp_path / "photo.png"
    alpha = (torch.arange(48.0).view(1, 1, 6, 8) % 7 > 0).float()
    images.write(
        path, Picture(torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0)), alpha)
    )
    assert run(path, "-o", tmp_path / "out", "-a", "jpeg:30", *QUICK) == 0
    assert (
        "The attack" not in capsys.readouterr().out.split("moothed output")[-1]
    )  # nobody is aimed at
    attacked, output = (
        images.read(tmp_path / "out" / f"photo_{word}.png")
        for word in ("attacked", "smoothed_attacked")
    )
    assert (attacked.pixels.shape, attacked.alpha) == ((1, 1, 6, 8), None)
    assert (output.pixels.shape, output.alpha.shape) == ((1, 1, 24, 32), (1, 1, 24, 32))


def test_no_change_is_said_to_make_none(photo, tmp_path, capsys):
    assert run(photo, "-o", tmp_path / "out", "-a", "none", *QUICK) == 0
    assert "0/255 (linf), 0 (l2)" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "photo_attack.json").read_text())
    assert record["outputs"][0]["psnr_to_clean"] is None
    assert record["outputs"][1]["psnr_to_clean"] < 60  # fresh noise


@pytest.mark.parametrize("place", range(6))
def test_a_full_disk_leaves_no_half_of_a_set(place, photo, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = [photo, "-o", out, "-a", "noise:0.1", *QUICK]
    assert run(*words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = iter(range(6))  # five images, then the figure

    def full(real):
        def write(*arguments):
            if next(written) == place:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        return write

    monkeypatch.setattr(images, "write", full(images.write))
    monkeypatch.setattr(figures, "save_figure", full(figures.save_figure))
    assert "No space left" in error_of(capsys, *words, "--seed", "1")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_mistakes_are_one_line(photo, tmp_path, capsys):
    out = ["-o", tmp_path / "out", *QUICK]
    assert "unknown condition 'magic'" in error_of(capsys, photo, *out, "-a", "magic:1")
    assert "--beta" in error_of(capsys, photo, *out, "--beta", "1")
    assert "the output has 28x36 pixels" in error_of(capsys, photo, *out, "--reference", photo)
    assert "no_such" in error_of(capsys, photo, *out, "--certificate", tmp_path / "no_such.npz")
    assert "is no certificate" in error_of(capsys, photo, *out, "--certificate", photo)
    assert "JPEG quality" in error_of(capsys, photo, *out, "-a", "jpeg:200")
    assert "odd" in error_of(capsys, photo, "-o", tmp_path / "out", "-n", "4")
    assert not (tmp_path / "out").exists()


def test_memory_is_refused_before_it_is_taken(photo, tmp_path, capsys, monkeypatch):
    lr = torch.rand(1, 3, 9, 7)
    network = adapters.load("builtin").model.requires_grad_(False)
    smoothed, tiled = (SmoothedSR(network, 0.05, 3, tile=tile, halo=1) for tile in (None, 4))
    one = gradient_memory.gradient_bytes(smoothed, lr) * 63

    def require(text, smoothed=smoothed):
        attack._require_memory(conditions.parse(text), smoothed, lr)

    monkeypatch.setattr("smoothsr.attacks.gradient_memory.LIMIT", 0.9 * one)
    assert "attack a crop" in error_of(
        capsys, photo, "-o", tmp_path / "out", *QUICK, "-a", "fgsm:1/255"
    )
    assert not (tmp_path / "out").exists()
    for text in (
        "fgsm:1/255@bare",
        "strongest:1/255",
        "noise:0.1+fgsm:1/255@bare+fgsm:1/255",
    ):  # which run on the whole image
        with pytest.raises(ValueError, match="63 pixels"):
            require(text, tiled)
    require("noise:0.1")
    require("noise:0.1+bim:1/255", tiled)
    monkeypatch.setattr(
        "smoothsr.attacks.gradient_memory.LIMIT", 0.5 * one
    )  # a patch has 6 x 6 pixels
    with pytest.raises(ValueError, match="smaller --tile"):
        require("bim:1/255", tiled)
    monkeypatch.setattr("smoothsr.attacks.gradient_memory.LIMIT", 1.1 * one)
    require("strongest:1/255")


def test_the_example_draws_its_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("smoothsr.reports.figures.save_figure", SAVE)
    out = tmp_path / "panel.png"
    arguments = [
        "--crop",
        "16",
        "--attack",
        "pgd:8/255:via=mean:draws=2:steps=2",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["attack_panel.py", *arguments])
    try:
        runpy.run_path(str(ROOT / "examples/attack_panel.py"), run_name="__main__")
    finally:
        torch.use_deterministic_algorithms(False)
    printed = capsys.readouterr().out
    assert printed.count("smoothed by 0.05") == 2
    assert images.read(out).pixels.shape[1] == 3


def test_what_is_beyond_a_tile_of_a_certificate_without_tiles_is_refused(photo, tmp_path, capsys):
    options = ["--n-cert", "200", "--levels", "4", "--tile", "0", "-n", "3"]
    assert main(["certify", str(photo), "-o", str(tmp_path), *options]) == 0
    file = tmp_path / f"{photo.stem}.npz"
    assert main(["attack", str(photo), "--certificate", str(file), "--halo", "2"]) == 2
    told = capsys.readouterr().err
    assert f"--halo 2 contradicts {file}, which was made with no --halo: leave it out" in told


def test_memory_that_runs_out_is_not_taken_for_small_patches(photo, tmp_path, capsys, monkeypatch):
    def full(*_images, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SmoothedSR, "forward", full)
    assert main(["attack", str(photo), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "smoothsr: CUDA out of memory\n"
