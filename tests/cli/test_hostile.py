"""Bad images, checkpoints, options, disks and signals: one line, exit status 2, nothing
half-written, no input changed.
"""

import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from smoothsr import SmoothedSR
from smoothsr.adapters.compact import Compact
from smoothsr.cli import main
from smoothsr.engine import draws
from smoothsr.files import images
from smoothsr.files.images import Picture

QUICK = ["--n-cert", "200", "--levels", "4", "--tile", "4", "--halo", "1", "-n", "3"]


def snapshot(folder):
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(capsys, folder, arguments, status=2):
    """Run a command, which must refuse in one line and change nothing; return the line."""
    before = snapshot(folder)
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        found = stop.code
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert found == status, captured
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("smoothsr")
    assert snapshot(folder) == before
    return lines[0]


def png_with(path, **header):
    """A PNG whose header says other sides than its data."""
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = header["width"].to_bytes(4, "big") + header["height"].to_bytes(4, "big")
    path.write_bytes(bytes(data))


BAD_IMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no image"),
    "html": lambda path: path.write_text("<html></html>"),
    "only_a_signature": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "truncated": lambda path: path.write_bytes(
        (Image.effect_noise((40, 40), 9).save(path, "PNG"), path.read_bytes()[:200])[1]
    ),
    "bomb": lambda path: png_with(path, width=100_000, height=100_000),
    "other_sides": lambda path: png_with(path, width=0, height=4),
    "floats": lambda path: Image.fromarray(np.zeros((4, 4), np.float32)).save(path, "TIFF"),
    "a_pipe": os.mkfifo,
    "a_folder": lambda path: path.mkdir(),
    "nowhere": lambda path: None,
    "a_link_to_itself": lambda path: path.symlink_to(path),
    "a_device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
@pytest.mark.parametrize("command", ["upscale", "certify", "attack"])
def test_bad_images(command, name, tmp_path, capsys):
    path = tmp_path / "bad.png"
    BAD_IMAGES[name](path)
    files = [file for file in tmp_path.iterdir() if file.is_file() and not file.is_symlink()]
    before = {file: file.read_bytes() for file in files}
    options = ["-n", 3, "-o", tmp_path / "out"]
    try:
        assert main([command, str(path), *map(str, options)]) == 2
    finally:
        captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("smoothsr: ")
    assert not (tmp_path / "out").exists()
    assert {file: file.read_bytes() for file in files} == before


def test_a_bad_reference(photo, tmp_path, capsys):
    for name in ("empty", "a_pipe", "nowhere", "floats"):
        BAD_IMAGES[name](tmp_path / f"{name}.png")
        reference = tmp_path / f"{name}.png"
        for command in ("certify", "attack"):
            arguments = [command, photo, "-o", tmp_path / "out", "--reference", reference]
            assert main([str(argument) for argument in arguments]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_certificate_that_is_a_pipe(photo, tmp_path, capsys):
    os.mkfifo(tmp_path / "c.npz")
    arguments = ["attack", photo, "-o", tmp_path / "out", "--certificate", tmp_path / "c.npz"]
    assert main([str(argument) for argument in arguments]) == 2
    assert "it is a pipe or a device" in capsys.readouterr().err


def compact(**options):
    return Compact(**options).state_dict()


def save_no_features(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that there is nothing to initialize
        torch.save(compact(features=0), path)


BAD_CHECKPOINTS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "html": lambda path: path.write_text("<!doctype html>"),
    "lfs": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
    "pickle_of_code": lambda path: torch.save(Compact, path),
    "no_tensors": lambda path: torch.save({"epoch": 3}, path),
    "a_list": lambda path: torch.save([1, 2], path),
    "other_keys": lambda path: torch.save({"a": torch.zeros(3)}, path),
    "no_keys": lambda path: torch.save({}, path),
    "truncated": lambda path: (
        torch.save(compact(), path),
        path.write_bytes(path.read_bytes()[:5000]),
    ),
    "a_key_missing": lambda path: torch.save(dict([*compact().items()][:-1]), path),
    "no_values": lambda path: torch.save(
        {key: value[:0] if value.ndim == 1 else value[:0, :0] for key, value in compact().items()},
        path,
    ),
    "no_features": save_no_features,
    "no_channels": lambda path: torch.save(
        {
            key: value[:, :0] if key == "body.0.weight" else value
            for key, value in compact().items()
        },
        path,
    ),
    "nan": lambda path: torch.save(
        {key: torch.full_like(value, torch.nan) for key, value in compact().items()}, path
    ),
    "bad_safetensors": lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0{" + b"x" * 15),
    "a_folder": lambda path: path.mkdir(),
    "a_pipe": os.mkfifo,
    "nowhere": lambda path: None,
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
@pytest.mark.parametrize("command", ["upscale", "certify", "attack", "models"])
def test_bad_checkpoints(command, name, photo, tmp_path, capsys):
    path = tmp_path / "bad.pth"
    BAD_CHECKPOINTS[name](path)
    own = [path] if command == "models" else [photo, "-m", path, "-o", tmp_path / "out"]
    refused(capsys, tmp_path, [command, *own])


SMALL = ["certify", "PHOTO", "-o", "OUT"]
BAD_OPTIONS = [
    ["upscale", "PHOTO", "-o", "OUT", "-t", "1", "--halo", "100000000"],
    [*SMALL, "-t", "1", "--halo", "100000000"],
    ["attack", "PHOTO", "-o", "OUT", "-t", "1", "--halo", "100000000"],
    ["upscale", "PHOTO", "--device", "meta"],
    [*SMALL, "--device", "meta"],
    [*SMALL, "--device", "cuda:99"],
    [*SMALL, "--device", "vulkan"],
    [*SMALL, "--device", "../x"],
    ["upscale", "PHOTO", "--suffix", "/../../x"],
    ["upscale", "PHOTO", "--suffix", "\\..\\x"],
    ["upscale", "PHOTO", "--ext", "../x.png"],
    ["upscale", "PHOTO", "--ext", "gif"],
    ["upscale", "PHOTO", "--ext", ""],
    ["upscale", "PHOTO", "--suffix", ""],
    ["upscale", "PHOTO", "-o", "PHOTO"],
    ["upscale", "PHOTO", "-o", "x.gif"],
    ["upscale", "PHOTO", "-o", "PHOTO/x"],
    ["upscale", "PHOTO", "PHOTO2", "-o", "x.png"],
    ["certify", "PHOTO", "-o", "PHOTO"],
    ["certify", "PHOTO", "-o", "PHOTO/x"],
    ["certify", "PHOTO", "-o", "/proc/x"],
    ["attack", "PHOTO", "-o", "PHOTO"],
    ["attack", "PHOTO", "-o", "/proc/x"],
    ["upscale", "PHOTO", "-o", "/proc/x"],
    *([*SMALL, option, value] for option, value in (
        ("--sigma", "0"), ("--sigma", "-1"), ("--sigma", "8"), ("--sigma", "nan"),
        ("--sigma", "1/0"), ("--sigma", ""), ("-n", "0"), ("-n", "-3"), ("-n", "20"),
        ("-n", "1.5"), ("-t", "-1"), ("--halo", "-1"), ("--halo", "x"), ("--halo-noise", "0.5"),
        ("--batch-size", "0"),
        ("--n-cert", "0"), ("--n-cert", "-5"), ("--levels", "1"), ("--levels", "-1"),
        ("--alpha", "0"), ("--alpha", "1"), ("--alpha", "2"), ("--beta", "0"), ("--beta", "1"),
        ("--radius", "-1"), ("--radius", "nan"), ("--tolerance", "-1"), ("--tolerance", "256"),
        ("--agg", "p10"), ("--agg", "mode"), ("--precision", "int8"), ("-s", "3"),
        ("-s", "0"), ("--arch", "nothing"), ("--reference", "PHOTO"), ("--nothing", "1"),
    )),
    *(["attack", "PHOTO", "-o", "OUT", "-a", text] for text in (
        "nothing:1", "pgd", "pgd:4", "pgd:-1/255", "pgd:l3:1", "jpeg:0", "pgd:4/255@clean",
        "pgd:4/255:steps=0.5", "", "+", "none+pgd:1/255",
    )),
    *(["upscale", "PHOTO", "-o", "OUT", *rest] for rest in (
        ["--agg", "p0"], ["--agg", "p101"], ["--agg", "px"], ["-n", "2"],
        ["--antithetic"], ["--seed", "x"],
        ["-m", "builtin2"], ["-m", ""], ["-m", "torchsr:nothing"],
    )),
    ["upscale"], ["certify"], ["nothing"], [],
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_OPTIONS, ids=" ".join)
def test_bad_options(arguments, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"PHOTO": photo, "PHOTO2": photo.parent / "b.png", "OUT": tmp_path / "out"}
    images.write(names["PHOTO2"], Picture(torch.rand(1, 3, 4, 4)))
    given = [str(names.get(word, word)).replace("PHOTO/", f"{photo}/") for word in arguments]
    refused(capsys, tmp_path, given)


def test_a_folder_that_can_not_be_written_is_told_once_for_all_inputs(photo, tmp_path, capsys):
    images.write(photo.parent / "b.png", Picture(torch.rand(1, 3, 4, 4)))
    refused(capsys, tmp_path, ["upscale", photo.parent, "-o", "/proc/nowhere"])


def test_evaluate_tells_an_endless_halo_at_once(photo, tmp_path, capsys):
    images.write(photo, Picture(torch.rand(1, 3, 24, 24)))
    options = ["-t", "1", "--halo", "100000000", "--metrics", "psnr", "-a", "none"]
    options += ["--sigma", "0.03"]
    assert main(["evaluate", "--hr", str(photo), "-o", str(tmp_path / "out"), *options]) == 2
    assert "halo must be at most" in capsys.readouterr().err
    assert not any((tmp_path / "out").glob("evaluate*"))


LIMITED = """
import resource, sys
from smoothsr.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def limited(limit, *arguments):
    """Run a command in a process that can't write files of more than so many bytes."""
    words = [str(word) for word in (limit, *arguments)]
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments", [["upscale", "-n", "3"], ["certify", *QUICK], ["attack", "-n", "3"]]
)
def test_a_full_disk_leaves_nothing(arguments, photo, tmp_path):
    before = snapshot(tmp_path)
    command, *options = arguments
    done = limited(700, command, photo, "-o", tmp_path / "out", *options)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert "File too large" in done.stderr
    left = snapshot(tmp_path)
    assert {key for key in left if key != "out"} == before.keys()


def test_a_disk_that_fills_up_leaves_no_half_of_a_set(photo, tmp_path):
    """Attack's images are small, its panel is large: none of them may appear without the others."""
    done = limited(9000, "attack", photo, "-o", tmp_path / "out", "-n", "3")
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert not any((tmp_path / "out").glob("*"))


def test_a_disk_that_fills_up_leaves_the_certificate(photo, tmp_path):
    done = limited(50000, "certify", photo, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "_panel.png is not written: " in done.stderr
    kept = (".npz", "_sr.png", "_lower.png", "_upper.png", "_radius.png", ".json", "_parts")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"photo{end}" for end in kept}


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal; jobs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["upscale", "certify", "attack"])
def test_signals_among_the_draws(
    command, kind, status, photo, tmp_path, capsys, monkeypatch, interruptible
):
    def send(*_arguments):
        os.kill(os.getpid(), kind)
        yield from ()

    monkeypatch.setattr(draws.Sampler, "draws", send)
    line = refused(capsys, tmp_path, [command, photo, "-o", tmp_path / "out", "-n", 3], status)
    assert "interrupted" in line or "ended" in line
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_a_file_is_written(
    kind, status, photo, tmp_path, capsys, monkeypatch, interruptible
):
    target = tmp_path / "out" / "photo_sr.png"
    target.parent.mkdir()
    target.write_bytes(b"before")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: os.kill(os.getpid(), kind))
    refused(capsys, tmp_path, ["upscale", photo, "-o", target.parent, "-n", 3], status)


def test_a_network_that_gives_nan_is_told(photo, tmp_path, capsys):
    state = {key: value.clone() for key, value in compact().items()}
    state["body.0.weight"] += float("inf")
    save_file(state, tmp_path / "inf.safetensors")
    refused(
        capsys,
        tmp_path,
        ["certify", photo, "-o", tmp_path / "o", "-m", tmp_path / "inf.safetensors"],
    )


@pytest.mark.parametrize("command", ["certify", "attack"])
def test_a_network_that_refuses_small_patches_is_told_in_one_line(command, tmp_path, capsys):
    (tmp_path / "wide.py").write_text("""
from torch import nn
class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ReflectionPad2d(8), nn.Conv2d(3, 48, 17), nn.PixelShuffle(4))
""")
    weights = {"1.weight": torch.rand(48, 3, 17, 17), "1.bias": torch.rand(48)}
    torch.save(weights, tmp_path / "wide.pth")
    images.write(tmp_path / "photo.png", Picture(torch.rand(1, 3, 12, 12)))
    network = ["-m", tmp_path / "wide.pth", "--arch", f"{tmp_path / 'wide.py'}:Wide"]
    options = [*network, "--tile", 4, "--halo", 1, "-o", tmp_path / "out"]
    assert main([command, str(tmp_path / "photo.png"), *map(str, options)]) == 2
    told = capsys.readouterr().err.splitlines()[-1]  # after a caution about its weights
    assert "fails on" in told
    assert "pass a larger" in told


def test_an_output_too_long_for_its_format_is_told_before_it_is_made(tmp_path, capsys, monkeypatch):
    images.write(tmp_path / "long.png", Picture(torch.rand(1, 3, 1, 4100)))
    made = []
    monkeypatch.setattr(SmoothedSR, "forward", lambda *words, **more: made.append(words))
    assert main(["upscale", str(tmp_path / "long.png"), "--ext", "webp", "--tile", "0"]) == 2
    assert ".webp has at most 16383 pixels a side, not 16400; use .png" in capsys.readouterr().err
    assert not made


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("reads", [True, False])
def test_printing_to_nobody_ends_in_silence(reads, buffered):
    """As before `head`, which has seen enough."""
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "smoothsr.cli", "models"]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    running = subprocess.Popen(
        command, env=usual, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    if not reads:
        running.stdout.close()
    _, told = running.communicate()
    assert (running.returncode, told) == (0 if reads else 141, "")


def test_a_command_without_stdout_does_its_work():
    command = f"{sys.executable} -m smoothsr.cli models >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
