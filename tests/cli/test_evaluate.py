"""`smoothsr evaluate`: scores of images read as they should be; the table says what is missing in
it, and why.
"""

import csv
import json

import numpy as np
import pytest
import torch
from evaluation_runs import counted, error_of, evaluate, leftovers, photo, scores, write
from PIL import Image

from smoothsr import SmoothedSR, adapters, metrics
from smoothsr.adapters.compact import Compact
from smoothsr.attacks.views import seed_of
from smoothsr.cli import main
from smoothsr.evaluation import degradations

PHOTOS = {"a": photo(1), "b": photo(2), "c": photo(3)}


@pytest.fixture
def hr(tmp_path):
    return write(tmp_path / "hr", **PHOTOS)


def test_scores_are_those_of_the_outputs(hr, tmp_path):
    out = tmp_path / "out"
    command = evaluate(
        hr,
        out,
        "--lr",
        write(tmp_path / "lr", ax4=photo(8, 9, 10), b_LR=photo(9, 9, 10), c=photo(7, 9, 10)),
    )
    command += ["--seed", "5", "--sigma", "0,0.05", "--tile", "8", "--halo", "1"]
    command += ["--halo-noise", "2"]
    assert main([*command, "--attack", "none,noise:0.1", "--metrics", "psnr_y,ssim_y,ssim"]) == 0
    network, found = adapters.load("builtin").model, scores(out)
    assert len(found) == 3 * 2 * 2
    for name, seed in (("a", 8), ("b", 9), ("c", 7)):
        chosen = seed_of(5, name)
        served = seed_of(chosen, "serving")
        smoothed = SmoothedSR(network, 0.05, 3, tile=8, halo=1, halo_noise=2, seed=served)
        for condition in ("none", "noise:0.1"):
            lr = (
                photo(seed, 9, 10)
                if condition == "none"
                else degradations.noise(photo(seed, 9, 10), 0.1, chosen)
            )
            for sigma, model in ((0, network), (0.05, smoothed)):
                with torch.no_grad():
                    output = model(lr)
                hr_part = PHOTOS[name][..., :36, :40]
                expected = {
                    "psnr_y": metrics.psnr(output, hr_part, border=4, y=True).item(),
                    "ssim_y": metrics.ssim(output, hr_part, border=4, y=True).item(),
                    "ssim": metrics.ssim(output, hr_part, border=4).item(),
                }
                assert found[name, "builtin", sigma, condition] == pytest.approx(
                    expected, rel=1e-4
                ), (name, condition, sigma)


def test_the_files_say_the_same(hr, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(evaluate(hr, out, "--sigma", "0,0.05", attacks="none,jpeg:50", metrics="mse,psnr"))
        == 0
    )
    printed = capsys.readouterr().out
    assert (out / "evaluate.md").read_text() in printed
    whole = json.loads((out / "evaluate.json").read_text())
    assert whole["options"]["attack"] == ["none", "jpeg:50"]
    with (out / "evaluate.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(whole["means"]) == 2 * 2 * 2
    for line in lines:
        values = [
            found[line["metric"]]
            for (_, _, sigma, condition), found in scores(out).items()
            if (sigma, condition) == (float(line["sigma"]), line["condition"])
        ]
        assert float(line["mean"]) == pytest.approx(np.mean(values), rel=1e-5)
        assert float(line["standard_error"]) == pytest.approx(
            np.std(values, ddof=1) / 3**0.5, rel=1e-5
        )
    assert sorted(path.name for path in (out / "parts").iterdir()) == ["a.json", "b.json", "c.json"]


def test_a_bad_image_does_not_stop_the_others(hr, tmp_path, capsys):
    (hr / "bad.png").write_text("no image")
    write(hr, tiny=photo(1, 3, 3))
    out = tmp_path / "out"
    assert main(evaluate(hr, out)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("smoothsr: bad: ")
    assert "bad.png: can't be read" in lines[0]
    assert lines[1] == "smoothsr: tiny: HR has 3x3 pixels, fewer than the scale 4"
    assert {image for image, *_ in scores(out)} == {"a", "b", "c"}
    assert "Means over 3 images" in (out / "evaluate.md").read_text()
    (hr / "bad.png").unlink()
    write(hr, tiny=photo(1, 8, 8), bad=photo(2, 9, 9))
    assert main(evaluate(hr, out, metrics="mse", n=1)) == 2  # too small for the border
    assert "at least 0 and leave some of 8x8" in capsys.readouterr().err


def test_a_later_run_measures_what_is_missing(hr, tmp_path, monkeypatch):
    out, outputs = tmp_path / "out", counted(monkeypatch)
    assert main(evaluate(hr, out, "--sigma", "0")) == 0
    assert len(outputs) == 3
    assert main(evaluate(hr, out, "--sigma", "0,0.05", attacks="none,blur:1")) == 0
    assert len(outputs) == 3 * 4
    write(hr, b=photo(9))
    assert main(evaluate(hr, out, "--sigma", "0,0.05", attacks="none,blur:1")) == 0
    assert len(outputs) == 3 * 4 + 4
    assert main(evaluate(hr, out, "-m", "builtin", "builtin-clean", "--sigma", "0")) == 0
    assert len(outputs) == 3 * 4 + 4 + 3
    assert {model for _, model, _, _ in scores(out)} == {"builtin", "builtin-clean"}


def test_network_passes_are_those_of_the_missing_cells(hr, tmp_path, monkeypatch):
    passes, load = [], adapters.load

    def watched(*args, **options):
        loaded = load(*args, **options)
        loaded.model.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
        return loaded

    monkeypatch.setattr(adapters, "load", watched)
    assert main(evaluate(hr, tmp_path / "out", "--sigma", "0,0.05", n=5)) == 0
    measured = 1  # pass of each smoothed output, for what it takes of memory
    assert sum(passes) == 3 * (1 + 5 + measured)
    assert main(evaluate(hr, tmp_path / "out", "--sigma", "0,0.05,0.1", n=5)) == 0
    assert sum(passes) == 3 * (1 + 5 + measured + 5 + measured)


def test_lpips_that_cannot_be_measured_is_said_so(hr, tmp_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    out = tmp_path / "out"
    monkeypatch.setattr(metrics, "lpips", offline)
    assert main(evaluate(hr, out, metrics="psnr,lpips", attacks="none,blur:1")) == 0
    assert (
        capsys.readouterr().err
        == "smoothsr: lpips is left out: no network (--lpips-weights FILE)\n"
    )
    text = (out / "evaluate.md").read_text()
    assert text.count("not measured |") == 2 * 2
    assert "lpips was not measured: no network" in text
    with (out / "evaluate.csv").open() as file:
        means = {
            (line["metric"], line["condition"], line["sigma"]): line["mean"]
            for line in csv.DictReader(file)
        }
    assert [means["lpips", "none", "0"], means["lpips", "blur:1", "0.03"]] == ["", ""]
    assert float(means["psnr", "blur:1", "0"]) > 0
    assert json.loads((out / "evaluate.json").read_text())["not_measured"] == {
        "lpips": "no network"
    }
    assert "no network" in error_of(capsys, evaluate(hr, out, metrics="lpips"))
    assert "no network" in error_of(
        capsys, evaluate(hr, out, "--lpips-weights", "x.pth", metrics="psnr,lpips")
    )
    monkeypatch.setattr(metrics, "lpips", lambda output, *_, **__: output.mean()[None])
    assert main(evaluate(hr, out, metrics="psnr,lpips", attacks="none,blur:1")) == 0
    assert "not measured" not in (out / "evaluate.md").read_text()


def test_lpips_by_a_file_of_weights(hr, tmp_path, data):
    pytest.importorskip("lpips")
    out, weights = tmp_path / "out", data / "metrics" / "lpips_alex.pth"
    assert (
        main(
            evaluate(
                hr,
                out,
                "--sigma",
                "0",
                "--lpips-weights",
                weights,
                "--precision",
                "bfloat16",
                metrics="lpips",
            )
        )
        == 0
    )
    lr = (
        degradations.F.interpolate(
            PHOTOS["a"][..., :36, :40], (9, 10), mode="bicubic", antialias=True
        )
        .mul(255)
        .round()
        / 255
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = adapters.load("builtin").model(lr.clamp(0, 1)).clamp(0, 1)
    expected = metrics.lpips(output.float(), PHOTOS["a"][..., :36, :40], weights=weights).item()
    assert scores(out)["a", "builtin", 0, "none"]["lpips"] == pytest.approx(expected, rel=1e-4)


def mse_of(out, name="a"):
    return scores(out)[name, "builtin", 0, "none"]["mse"]


def mse(lr, hr):
    """The bare network's score by hand: clamped, rounded to 8 bits, 4 pixels cropped at each
    side.
    """
    with torch.no_grad():
        output = (
            adapters.load("builtin").model(lr.contiguous()).clamp(0, 1).mul(255).round().numpy()
            / 255
        )
    return ((output - hr.numpy())[..., 4:-4, 4:-4] ** 2).mean()


def test_crops_are_central_and_fit_each_other(tmp_path):
    lr, hr = photo(8, 9, 12), photo(1, 36, 48)
    folders = write(tmp_path / "hr", a=hr), "--lr", write(tmp_path / "lr", a=lr), "--sigma", "0"
    command = evaluate(folders[0], tmp_path / "out", *folders[1:], metrics="mse")
    assert main([*command, "--crop", "6"]) == 0
    assert mse_of(tmp_path / "out") == pytest.approx(
        mse(lr[..., 1:7, 3:9], hr[..., 4:28, 12:36]), rel=1e-4
    )
    assert main([*command, "--crop", "10"]) == 0  # higher than the image
    assert mse_of(tmp_path / "out") == pytest.approx(mse(lr[..., 1:11], hr[..., 4:44]), rel=1e-4)
    assert main(command) == 0
    assert mse_of(tmp_path / "out") == pytest.approx(mse(lr, hr), rel=1e-4)


def test_inputs_are_reduced_as_pillow_does(hr, tmp_path, monkeypatch):
    outputs = counted(monkeypatch)
    assert main(evaluate(hr, tmp_path / "out", "--sigma", "0")) == 0
    for name, output in zip("abc", outputs, strict=True):
        whole = Image.open(hr / f"{name}.png").crop((0, 0, 40, 36))
        reduced = (
            np.asarray(whole.resize((10, 9), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
        )
        assert np.abs(output[0].numpy() - reduced).max() < 1.5 / 255
        assert torch.equal(output, output.mul(255).round() / 255)


def test_gray_images_go_through_colour_networks_as_the_other_commands_send_them(tmp_path):
    """One gray channel gets the noise: not three with a noise each. Its luma is that of a colour
    image.
    """
    hr, lr = photo(1, 36, 40, channels=1), photo(8, 9, 10, channels=1)
    folder = write(tmp_path / "hr", gray=hr, colour=photo(2))
    inputs = write(tmp_path / "lr", gray=lr, colour=photo(3, 9, 10))
    assert (
        main(
            evaluate(
                folder, tmp_path / "out", "--lr", inputs, "--sigma", "0,0.1", metrics="psnr_y,psnr"
            )
        )
        == 0
    )
    found, network = scores(tmp_path / "out"), adapters.GrayAsRGB(adapters.load("builtin").model)
    assert len(found) == 4
    serving = seed_of(seed_of(0, "gray"), "serving")
    for sigma, model in ((0, network), (0.1, SmoothedSR(network, 0.1, 3, seed=serving))):
        with torch.no_grad():
            expected = metrics.psnr(model(lr), hr, border=4).item()
        luma = expected + 20 * np.log10(255 / 219)
        assert found["gray", "builtin", sigma, "none"] == pytest.approx(
            {"psnr_y": luma, "psnr": expected}, rel=1e-4
        )


def test_inputs_are_found_by_name(tmp_path, capsys):
    folder, lr = write(tmp_path / "hr", a=PHOTOS["a"], ab=PHOTOS["b"]), tmp_path / "lr"
    command = evaluate(folder, tmp_path / "out", "--lr", lr)
    assert error_of(capsys, command) == f"smoothsr: no such file or folder: {lr}\n"
    write(lr, a_x4=photo(8, 9, 10), ax2=photo(8, 18, 20), abLRx4=photo(9, 9, 10))
    assert main(command) == 0
    write(lr, ax4=photo(8, 9, 10))
    assert (
        error_of(capsys, command)
        == f"smoothsr: a: several files in {lr} fit it, a_x4.png and ax4.png: keep one\n"
    )
    write(lr, a=photo(8, 9, 10))  # the plain name comes first
    assert main(command) == 0
    write(folder, c=PHOTOS["c"])
    assert (
        error_of(capsys, command)
        == f"smoothsr: c: no file in {lr} fits it: name one c or cx4, as HR is named\n"
    )
    write(lr, c=photo(1, 10, 9))
    assert "c: LR has 9x10 pixels; x4 of them must give HR, so 10x9" in error_of(capsys, command)


def test_mistakes_are_one_line(hr, tmp_path, capsys):
    out = tmp_path / "out"
    torch.manual_seed(0)
    torch.save(Compact(3, 8, 2, 2).state_dict(), tmp_path / "two.pth")
    two = str(tmp_path / "two.pth")
    assert "the models differ, x2 of 3 channels and x4 of 3" in error_of(
        capsys, [*evaluate(hr, out), "-m", "builtin", two]
    )
    assert "unknown metric 'foo': use psnr, psnr_y" in error_of(
        capsys, evaluate(hr, out, metrics="psnr,foo")
    )
    assert "unknown condition 'foo'" in error_of(capsys, evaluate(hr, out, attacks="none,foo"))
    assert "n must be odd" in error_of(capsys, evaluate(hr, out, n=4))
    assert "sigma must be greater than 0" in error_of(capsys, evaluate(hr, out, "--sigma", "0,-1"))
    assert "--crop must be at least 1, got 0" in error_of(capsys, evaluate(hr, out, "--crop", "0"))
    assert "device" in error_of(capsys, evaluate(hr, out, "--device", "abacus"))
    assert "nowhere" in error_of(capsys, evaluate(tmp_path / "nowhere", out))
    (tmp_path / "empty").mkdir()
    assert "no images in" in error_of(capsys, evaluate(tmp_path / "empty", out))
    other = write(tmp_path / "other", a=PHOTOS["a"])
    assert "several HR images are called a" in error_of(
        capsys, evaluate(hr, out, "--hr", str(hr), str(other))
    )
    assert not out.exists()
    write(hr, d=PHOTOS["a"])
    few = error_of(capsys, evaluate(hr, out, "--crop", "3", metrics="ssim"))
    assert few == (
        "smoothsr: a, b, c and 1 more: ssim needs at least 11x11 pixels within the border, "
        "got 4x4\n"
    )
    assert not (out / "evaluate.md").exists()


def test_networks_of_the_same_name_are_told_apart(hr, tmp_path):
    torch.manual_seed(0)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        torch.save(Compact(3, 8, 2, 4).state_dict(), tmp_path / folder / "net.pth")
    files = [str(tmp_path / folder / "net.pth") for folder in ("one", "two")]
    assert main([*evaluate(hr, tmp_path / "out", "--sigma", "0"), "-m", *files]) == 0
    found = scores(tmp_path / "out")
    assert {model for _, model, _, _ in found} == {*files}
    assert found["a", files[0], 0, "none"] != found["a", files[1], 0, "none"]
    assert main([*evaluate(hr, tmp_path / "out", "--sigma", "0"), "-m", files[0]]) == 0
    assert {model for _, model, _, _ in scores(tmp_path / "out")} == {"net"}


def test_a_failed_write_leaves_the_table_that_was_there(hr, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(evaluate(hr, out)) == 0
    before = (out / "evaluate.md").read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert "disk full" in error_of(capsys, evaluate(hr, out))
    assert (out / "evaluate.md").read_bytes() == before
    assert leftovers(out) == []


def test_transfer_attacks_are_called_so(hr, tmp_path, capsys):
    transfer, aware = "bim:4/255:steps=1@bare", "bim:4/255:steps=1"
    for sigma, attacks, told in (
        ("0,0.05", f"none,{transfer}", True),
        ("0", transfer, False),
        ("0,0.05", aware, False),
    ):
        assert main(evaluate(hr, tmp_path / "out", "--sigma", sigma, attacks=attacks)) == 0
        note = f"- {transfer} is made for the bare network: for smoothed rows a transfer attack."
        assert (note in capsys.readouterr().out) == told


def test_what_goes_wrong_after_measuring_is_told(hr, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr("smoothsr.evaluation.study.Study.records", broken)
    assert error_of(capsys, evaluate(hr, tmp_path / "out")) == "smoothsr: the disk is gone\n"
    monkeypatch.setattr("smoothsr.evaluation.study.Study.records", lambda *_: None)
    assert "what was measured on a is gone: does another run write to" in error_of(
        capsys, evaluate(hr, tmp_path / "out")
    )
