"""What a command holds in memory: peaks of fresh processes, and the count that is made before."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.cli import main, memory_budget
from smoothsr.cli.loading import NetworkOptions, load
from smoothsr.cli.smoother import SmootherOptions, smoother
from smoothsr.engine import memory
from smoothsr.engine.forward_memory import WORKSPACE, footprint
from smoothsr.engine.memory import Demand
from smoothsr.files import images
from smoothsr.files.images import Picture

MIB = 2**20
# Run in a child, which tells its own peak: what its import of torch takes is the same every time.
# (getrusage would tell the peak of the process that started it, if that was larger.)
PEAK = """
import re, sys
from smoothsr.cli import main
status = main(sys.argv[1:])
found = re.search("VmHWM: *([0-9]+) kB", open("/proc/self/status").read().replace(chr(9), " "))
print("peak", status, 1024 * int(found[1]))
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of memory")
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


@LINUX
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
    found = footprint(network, network, torch.rand(1, 3, 60, 50))
    assert found.pixel_bytes / WORKSPACE == pytest.approx(4 * (3 + 8 + 4))
    assert found.scale == 1


@pytest.mark.parametrize("agg", ["median", "mean"])
@pytest.mark.parametrize(("tile", "kept"), [(None, 100 * 90), (16, 16 * 16), (95, 95 * 90)])
def test_draws_of_a_tile_and_the_output_are_counted(agg, tile, kept):
    smoothed = SmoothedSR(nn.Upsample(scale_factor=4), 0.03, 21, agg, tile=tile)
    demand = smoothed.demand(torch.rand(1, 3, 100, 90))
    draws = 22 if agg == "median" else 2
    assert demand.held(tile) == 3 * 4**2 * (4 * draws * kept + 8 * 100 * 90)


def give(monkeypatch, free: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)


def test_what_does_not_fit_is_one_line(photo, tmp_path, capsys, monkeypatch):
    give(monkeypatch, 250_000.0)
    assert main(["certify", str(photo), "--tile", "0", "-o", str(tmp_path / "out")]) == 2
    assert "GiB are free: leave --tile at 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["upscale", str(photo), "-o", str(tmp_path), "--tile", "0"]) == 2
    assert "leave --tile at auto" in capsys.readouterr().err
    assert main(["upscale", str(photo), "-o", str(tmp_path)]) == 2
    assert "allow more, or take a crop" in capsys.readouterr().err
    command = ["upscale", str(photo), "-o", str(tmp_path), "--tile", "2", "--halo", "1"]
    assert main(command) == 0
    assert main(["upscale", str(photo), "-o", str(tmp_path), "--memory", "1MiB"]) == 2
    assert "0 GiB may be taken" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["evaluate"], ["sweep", "--over", "certified"]])
def test_an_image_that_does_not_fit_is_left_out(command, photo, tmp_path, capsys, monkeypatch):
    images.write(tmp_path / "hr.png", picture_of(256))
    options = ["--hr", tmp_path / "hr.png", "--sigma", "0.05", "--tile", "64", "-o", tmp_path]
    give(monkeypatch, 1e6)
    assert main([*command, *map(str, options)]) == 2
    told = capsys.readouterr().err
    assert "64x64 pixels would take" in told
    assert "pass a smaller --tile than 64, or --crop" in told


def test_draws_that_are_held_count_too(tmp_path, capsys, monkeypatch):
    picture = picture_of(256)
    images.write(tmp_path / "hr.png", picture)
    network = load(NetworkOptions("builtin")).sr.model
    demand = SmoothedSR(network, 0.05, tile=64).demand(picture_of(64).pixels)
    options = ["--hr", tmp_path / "hr.png", "--sigma", "0.05", "--tile", "64", "-o", tmp_path]
    give(monkeypatch, demand.a_pass(64, 4) + 0.5 * demand.held(64))
    assert main(["evaluate", *map(str, options)]) == 2
    assert "64x64 pixels would take" in capsys.readouterr().err


def test_memory_is_written_with_its_unit(photo, capsys):
    with pytest.raises(SystemExit):
        main(["upscale", str(photo), "--memory", "2"])
    assert "must be such as 2GiB or 800MB, got '2'" in capsys.readouterr().err


def test_fewer_draws_at_once_where_memory_is_short(monkeypatch):
    networks = load(NetworkOptions("builtin"))
    picture = picture_of(48)
    each = 48**2 * footprint(networks.sr.model, networks.sr.model, picture.pixels).pixel_bytes
    # An eighth is for what threads side by side hold of their own.
    for free, most in ((3.5 * each, 3), (3.3 * each, 2), (1.5 * each, 1), (1.05 * each, 1)):
        give(monkeypatch, free)
        smoothed = smoother(OPTIONS, networks, picture)
        some = memory_budget.fitted(smoothed, picture.pixels, lambda *_: 0.0, "")
        assert (some.batching.batch_size, some.batching.most) == (None, most)
    give(monkeypatch, 0.5 * each)
    with pytest.raises(ValueError, match="GiB are free: advice"):
        memory_budget.fitted(smoothed, picture.pixels, lambda *_: 0.0, "advice")


def test_the_bare_network_runs_in_tiles_where_the_image_does_not_fit(monkeypatch):
    networks = load(NetworkOptions("builtin"))
    picture = picture_of(200)
    smoothed = smoother(OPTIONS, networks, picture)
    whole = memory_budget.bare_output(smoothed, picture.pixels)
    torch.testing.assert_close(whole, networks.sr.model(picture.pixels).clamp(0, 1))
    demand = smoothed.demand(picture.pixels)._replace(draws=2)
    give(monkeypatch, 2 * (demand.held(150) + demand.a_pass(None, 0)) - 2)
    seen = list[int]()
    smoothed.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    tiled = memory_budget.bare_output(smoothed, picture.pixels)
    assert (tiled - whole).abs().max() < 1 / 255
    assert seen[-4:] == [seen[-1]] * 4
    assert seen[-1] < 200
    give(monkeypatch, 2 * demand.held(1))
    with pytest.raises(ValueError, match="GiB may be taken"):
        memory_budget.bare_output(smoothed, picture.pixels)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    """Options of a network that costs next to nothing."""
    folder = tmp_path_factory.mktemp("cheap")
    source = """
from torch import nn
class Cheap(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))
"""
    (folder / "cheap.py").write_text(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))
    torch.save(network.state_dict(), folder / "cheap.pth")
    return ["-m", folder / "cheap.pth", "--arch", f"{folder / 'cheap.py'}:Cheap"]


@pytest.fixture(scope="module")
def program(cheap, tmp_path_factory):
    """Bytes that the program itself takes here: mostly torch's libraries."""
    picture = tmp_path_factory.mktemp("program") / "small.png"
    images.write(picture, picture_of(16))
    return peak("upscale", picture, "-o", picture.parent / "out", *cheap)


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("little", [True, False])
def test_a_large_output_stays_within_the_memory_that_is_stated(little, cheap, program, tmp_path):
    """4096x4096 pixels of 21 draws each: in little more than the program takes, and in 2 GiB."""
    images.write(tmp_path / "large.png", picture_of(1024))
    budget = program + 768 * MIB if little else 2048 * MIB
    options = ["-o", tmp_path / "out", "--memory", f"{budget / MIB:.0f}MiB", *cheap]
    found = peak("upscale", tmp_path / "large.png", *options)
    assert found < budget
    assert found - program > 0.5 * (budget - program)  # and makes use of it


@pytest.mark.slow
@LINUX
def test_a_certificate_of_a_large_output_takes_what_is_counted(cheap, tmp_path):
    """1024x1024 pixels; levels and spectrum."""
    images.write(tmp_path / "small.png", picture_of(16))
    images.write(tmp_path / "large.png", picture_of(256))
    options = ["-o", tmp_path / "out", "--tile", 8, "--halo", 2, "--n-cert", 100, *cheap]
    options += ["--batch-size", 64]
    program = peak("certify", tmp_path / "small.png", *options)
    found = peak("certify", tmp_path / "large.png", *options)
    demand = Demand((256, 256), 3 * 16, 22, 1000.0)
    counted = memory_budget.certifying_bytes(demand, 8, 100, 32)
    assert found < 3 * 2**30
    passes = 64 * 12**2 * demand.pixel_bytes
    assert found - program < counted + passes + 100 * MIB


def test_free_memory_is_the_least_that_the_system_tells(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "now"
    limit.write_text("5000\n")
    used.write_text("2000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    assert memory.free_bytes(torch.device("cpu")) == 3000
    limit.write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) > MIB
