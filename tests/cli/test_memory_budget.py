"""What a command holds in memory: peaks of fresh processes, and the count that is made before."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from smoothsr.cli import main, memory_budget
from smoothsr.cli.loading import NetworkOptions, load
from smoothsr.cli.smoother import SmootherOptions
from smoothsr.engine.forward_memory import WORKSPACE, forward_bytes
from smoothsr.files import images
from smoothsr.files.images import Picture

MIB = 2**20
# Run in a child, which tells its own peak: what its import of torch takes is the same every time.
PEAK = """
import resource, sys
from smoothsr.cli import main
status = main(sys.argv[1:])
print("peak", status, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
OPTIONS = SmootherOptions(sigma=0.03, n=21, agg="median", tile=None, halo=4, precision="float32")


def peak(*arguments: object) -> int:
    """Run a command in a fresh process, and return its peak of resident memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    word, status, size = done.stdout.splitlines()[-1].split()
    assert (word, status) == ("peak", "0"), done
    return int(size)


def picture_of(side: int) -> Picture:
    return Picture(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts otherwise elsewhere")
def test_with_a_tile_upscale_grows_with_its_output_alone(tmp_path):
    peaks = {}
    for side in (64, 128, 256):
        images.write(tmp_path / f"{side}.png", picture_of(side))
        options = ["-o", tmp_path / "out", "--tile", 32, "-n", 5, "--batch-size", 5]
        peaks[side] = peak("upscale", tmp_path / f"{side}.png", *options)
    for side in (128, 256):
        output = 4 * 3 * (4 * side) ** 2
        assert peaks[side] - peaks[64] < 3 * output + 24 * MIB


@pytest.mark.parametrize("command", ["upscale", "certify", "evaluate", "sweep", "attack"])
def test_no_command_keeps_gradients_of_the_weights(command, photo, tmp_path, monkeypatch):
    """Where they attack, the input alone wants gradients."""
    seen = []

    def watch(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            seen.append((inputs[0].requires_grad, output.requires_grad))

    handle = nn.modules.module.register_module_forward_hook(watch)
    images.write(tmp_path / "hr.png", picture_of(24))
    study = ["--hr", tmp_path / "hr.png", "--sigma", "0,0.03", "-n", 3, "--metrics", "psnr"]
    arguments = {
        "upscale": [photo, "-n", 3],
        "certify": [photo, "--n-cert", 200, "--levels", 4],
        "evaluate": [*study, "-a", "none,noise:0.1"],
        "sweep": [*study, "-a", "none"],
        "attack": [photo, "-n", 3, "-a", "fgsm:1/255"],
    }[command]
    try:
        assert main([command, *map(str, arguments), "-o", str(tmp_path / "out")]) == 0
    finally:
        handle.remove()
    assert seen
    assert all(output <= (given and command == "attack") for given, output in seen)


def test_a_pass_is_counted_as_it_is():
    """A network of known sizes: at its fullest it holds the image and the first two maps."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 3, 1))
    counted = forward_bytes(network, network, torch.rand(1, 3, 60, 50)) / WORKSPACE
    assert counted == pytest.approx(4 * (3 + 8 + 4))


@pytest.mark.parametrize(
    ("tile", "kept"), [(None, 21 * 100 * 90), (16, 21 * 16 * 16), (95, 21 * 95 * 90)]
)
def test_draws_of_a_tile_and_the_output_are_counted(tile, kept):
    picture = Picture(torch.rand(1, 3, 100, 90))
    options = SmootherOptions(0.03, 21, "median", tile, 4, "float32")
    values = 3 * 4**2
    assert memory_budget.serving_bytes(options, picture, 4) >= 4 * values * (kept + 100 * 90)


def test_what_does_not_fit_is_one_line(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: 250_000.0)
    assert main(["certify", str(photo), "--tile", "0", "-o", str(tmp_path / "out")]) == 2
    assert "GiB are free: leave --tile at 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["upscale", str(photo), "-o", str(tmp_path)]) == 2
    assert "pass --tile 64" in capsys.readouterr().err
    command = ["upscale", str(photo), "-o", str(tmp_path), "--tile", "2", "--halo", "1"]
    assert main(command) == 0


def test_fewer_draws_at_once_where_memory_is_short(monkeypatch):
    loaded, _ = load(NetworkOptions("builtin"))
    picture = picture_of(48)
    assert (
        memory_budget.fitting_smoother(OPTIONS, loaded, picture, 0, "").batching.batch_size is None
    )
    each = 48**2 * forward_bytes(loaded.model, loaded.model, picture.pixels)
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: 3.5 * each)
    some = memory_budget.fitting_smoother(OPTIONS, loaded, picture, 0, "")
    assert some.batching.batch_size == 3


def test_the_bare_network_runs_in_tiles_where_the_image_does_not_fit(monkeypatch):
    loaded, _ = load(NetworkOptions("builtin"))
    picture = picture_of(200)
    smoothed = memory_budget.fitting_smoother(OPTIONS, loaded, picture, 0, "")
    whole = memory_budget.bare_output(smoothed, picture.pixels, 4)
    assert torch.equal(whole, loaded.model(picture.pixels).clamp(0, 1))
    room = 8 * whole.numel() + 195**2 * forward_bytes(smoothed, smoothed.base, picture.pixels)
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: room)
    tiled = memory_budget.bare_output(smoothed, picture.pixels, 4)
    inner = (..., slice(80, -80), slice(80, -80))  # where no patch is completed by reflection
    torch.testing.assert_close(tiled[inner], whole[inner], atol=1e-4, rtol=0)
    assert not torch.equal(tiled, whole)
    monkeypatch.setattr(memory_budget, "free_bytes", lambda device: room / 10)
    with pytest.raises(ValueError, match="GiB are free"):
        memory_budget.bare_output(smoothed, picture.pixels, 4)


def test_free_memory_is_the_least_that_the_system_tells(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "now"
    limit.write_text("5000\n")
    used.write_text("2000\n")
    monkeypatch.setattr(memory_budget, "CGROUPS", ((str(limit), str(used)),))
    assert memory_budget.free_bytes(torch.device("cpu")) == 3000
    limit.write_text("max\n")
    assert memory_budget.free_bytes(torch.device("cpu")) > MIB
