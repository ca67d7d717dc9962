"""load: the networks that come along, the real files, the trial run, and what happens without the
extras.
"""

import configparser
import dataclasses
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import smoothsr.adapters
from smoothsr.adapters import CheckpointError, LoadedSR, available, builtin, checkpoint, load
from smoothsr.adapters.compact import Compact
from smoothsr.adapters.denoisers import DENOISERS
from smoothsr.adapters.fitted import Found
from smoothsr.adapters.loading import ADAPTERS, Adapter
from smoothsr.adapters.probe import MULTIPLES, check, find_sides, range_warning

ROOT = Path(__file__).parents[2]

# file, architecture, scale, then the values of channels and multiple_of
REAL = [
    ("RealESRGAN_x4plus.pth", "ESRGAN (64nf, 23nb)", 3, 1),
    ("realesr-animevideov3.pth", "SRVGGNetCompact (64 features, 16 convolutions)", 3, 1),
    ("spanx4_ch48.pth", "SPAN (48nf)", 3, 1),
    ("DITN_Real_x4.pth", "DITN (60dim)", 3, 8),
    ("DITN_Real_GAN_x4.pth", "DITN (60dim)", 3, 8),
    ("carn_m.pth", "torchSR CARNM", 3, 1),
]


def bicubic_error(sr: LoadedSR) -> float:
    """Mean absolute difference from a bicubic enlargement of a smooth picture, which any trained
    network comes close to.
    """
    y, x = torch.meshgrid(torch.linspace(0, 3, 13), torch.linspace(0, 2, 10), indexing="ij")
    lr = torch.stack([(x + y).sin(), (x - y).cos(), (2 * x).sin() * y.cos()])[None] * 0.3 + 0.5
    with torch.no_grad():
        return (
            (sr.model(lr) - nn.functional.interpolate(lr, scale_factor=sr.scale, mode="bicubic"))
            .abs()
            .mean()
            .item()
        )


@pytest.mark.parametrize("name", ["builtin", "builtin-clean", "builtin-smooth"])
def test_builtin(name):
    sr = load(name)
    assert isinstance(sr.model, Compact)
    assert dataclasses.astuple(dataclasses.replace(sr, model=None, sha256=None)) == (
        *(None, 4, 3, 1.0, 1, 1),
        *("SRVGGNetCompact (32 features, 16 convolutions)", name, None),
    )
    assert bicubic_error(sr) < 0.02
    assert (
        load(name).sha256
        == sr.sha256
        != load("builtin" if name == "builtin-clean" else "builtin-clean").sha256
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        sr.scale = 2


@pytest.mark.parametrize(("file", "name", "channels", "multiple"), REAL)
def test_real_files(data, file, name, channels, multiple):
    if name.startswith(("torchSR", "ESRGAN", "SPAN", "DITN")):
        pytest.importorskip("torchsr" if "torchSR" in name else "spandrel")
    sr = load(data / "checkpoints" / file, **({"scale": 4} if file == "carn_m.pth" else {}))
    assert (sr.name, sr.scale, sr.channels, sr.multiple_of, sr.value_range) == (
        name,
        4,
        channels,
        multiple,
        1,
    )
    assert bicubic_error(sr) < (0.08 if "GAN" in file or "anime" in file else 0.02)
    lr = torch.full((1, 3, 9, 7), 0.5, requires_grad=True)
    sr.model(lr).square().mean().backward()
    assert (lr.grad.abs() > 0).all()


def test_a_file_for_several_scales(data):
    pytest.importorskip("torchsr")
    path = data / "checkpoints" / "carn_m.pth"
    for scale in (2, 3, 4):
        assert bicubic_error(load(path, scale=scale)) < 0.02
        assert load(path, arch=f"torchsr:carn_m@x{scale}").scale == scale
    with pytest.raises(
        CheckpointError, match="nothing tells which scale CARNM is for; pass scale=2, 3 or 4"
    ):
        load(path)


def save(network, path):
    torch.save(network.state_dict(), path)
    return path


def test_a_network_for_255_is_doubted_until_it_is_told(tmp_path):
    # With all biases 255 times as large, a network of convolutions and PReLUs does for 0..255 what
    # it did for 0..1.
    torch.manual_seed(0)
    network, lr = (
        Compact(3, 4, 1, 2),
        torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    network.body[-1].weight.data.mul_(0.01)
    nn.init.constant_(network.body[-1].bias, 0.01)
    expected = network(lr)
    for parameter in [each for name, each in network.named_parameters() if name.endswith("bias")]:
        parameter.data.mul_(255)
    save(network, tmp_path / "net.pth")
    with pytest.warns(
        UserWarning,
        match=r"net.pth: .* looks like a network for values up to 255; pass value_range=255",
    ) as caught:
        load(tmp_path / "net.pth")
    assert caught[0].filename == __file__
    sr = load(tmp_path / "net.pth", value_range=255)
    assert sr.value_range == 255
    torch.testing.assert_close(sr.model(lr), expected)
    with pytest.raises(ValueError, match="value_range must be 1 or 255, got 2"):
        load("builtin", value_range=2)


def test_an_output_far_off_is_doubted():
    conv = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(conv.weight)
    assert range_warning(Found(conv, "", 1, 3)) is None
    conv.weight.data.mul_(10)
    assert range_warning(Found(conv, "odd", 1, 3)).startswith(
        "odd turns a mean of 0.5 into one of 5: it may be for another range"
    )


def test_the_trial_refuses_what_is_no_enlargement():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(
        CheckpointError, match=r"makes \(1, 3, 16, 16\) of \(1, 3, 16, 16\), where \(1, 3, 32, 32\)"
    ):
        check(Found(conv, "odd", 2, 3))
    with pytest.raises(CheckpointError, match="odd fails on a 16x16 image: RuntimeError"):
        check(Found(conv, "odd", 1, 4))
    assert not check(Found(conv, "", 1, 3)).singly
    assert check(
        Found(nn.Sequential(conv, nn.BatchNorm2d(3, track_running_stats=False)), "", 1, 3)
    ).singly


class Enlarging(nn.Module):
    """Takes multiples of a number as sides, and one number of channels."""

    def __init__(self, multiple, channels):
        super().__init__()
        self.asks = multiple, channels

    def forward(self, x):
        multiple, channels = self.asks
        assert x.shape[1] == channels
        assert x.shape[2] % multiple == x.shape[3] % multiple == 0
        return nn.functional.interpolate(x, scale_factor=3.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("multiple", [*MULTIPLES, 10])
def test_the_trial_finds_the_least_multiple(multiple, channels):
    network = Enlarging(multiple, channels)
    assert find_sides(network, "", [3, 1], windows=[10]) == (3, channels, multiple)


def test_device_and_random_state():
    before = torch.get_rng_state()
    assert next(load("builtin", device="cpu").model.parameters()).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.cuda
def test_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    sr, cpu = load("builtin", device="cuda"), load("builtin")
    lr = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(sr.model(lr.cuda()).cpu(), cpu.model(lr), atol=1e-3, rtol=0)


def test_names_that_are_none():
    with pytest.raises(
        FileNotFoundError,
        match="no file biultin; names of networks are builtin, builtin-clean, builtin-smooth and ",
    ):
        load("biultin")
    with pytest.raises(CheckpointError, match=r"builtin: it is SRVGGNetCompact .* x4, not x2"):
        load("builtin", scale=2)


def test_available_names_what_loads():
    rows = available()
    assert [row[0] for row in rows[:3]] == ["builtin", "builtin-clean", "builtin-smooth"]
    assert {extra for _, _, extra in rows} == {"", "load", "resselt", "torchsr", "basicsr"}


def signature_of_the_recipe(text: str) -> inspect.Signature:
    """The signature of detect that a page gives."""
    members = {"State": checkpoint.State, "Found": Found}
    exec(re.search(r"^    (def detect\(.*:)$", text, re.MULTILINE)[1] + " ...", members)
    return inspect.signature(members["detect"])


def test_adapters_are_in_one_list_as_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    recipe = signature_of_the_recipe(text)
    assert recipe != signature_of_the_recipe("    def detect(state: State) -> Found | None:")
    for adapter in (*ADAPTERS, *DENOISERS):
        assert inspect.signature(adapter.detect) == recipe, adapter.name
        assert adapter.detect.__module__ == f"smoothsr.adapters.{adapter.name}"
    for adapter in ADAPTERS:
        assert (adapter.loads, adapter.extra) in [row[1:] for row in available()]
    modules = {path.stem: path.read_text("utf-8") for path in (ROOT / "adapters").glob("*.py")}
    detecting = {name for name, code in modules.items() if re.search("^def detect\\(", code, re.M)}
    assert detecting == {adapter.name for adapter in (*ADAPTERS, *DENOISERS)}
    record = re.search(r"^    (Adapter\(.*\))$", text, re.MULTILINE)[1]
    assert isinstance(eval(record, {"Adapter": Adapter, "mine": builtin}), Adapter)


def test_extras_of_the_adapters_are_in_setup_cfg():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    extras = {*config["options.extras_require"]}
    assert {extra for _, _, extra in available()} - {""} <= extras


@pytest.mark.slow
def test_the_type_checker_sees_load(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api")
    snippet = tmp_path / "snippet.py"
    snippet.write_text("from smoothsr.adapters import load\n\nreveal_type(load)\nload(1)\n")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    cache = ROOT / ".mypy_cache"
    out, err, _ = api.run(
        ["--config-file=", "--ignore-missing-imports", f"--cache-dir={cache}", str(snippet)]
    )
    assert not err
    revealed = re.search(r'Revealed type is "(.*)"', out)[1]
    for part in ("spec: ", "arch: ", "value_range: ", "smoothsr.adapters.loading.LoadedSR"):
        assert part in revealed, out
    assert 'Argument 1 to "load" has incompatible type "int"' in out


EXTRAS = ("spandrel", "resselt", "torchsr", "basicsr", "torchvision")


def test_importing_adapters_imports_no_extra():
    code = (
        f"import sys, smoothsr.adapters as a; a.load('builtin'); print([m for m in {EXTRAS} if m "
        "in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def forget(monkeypatch):
    """Make the extras look as if they weren't installed."""
    for name in [
        *EXTRAS,
        *(name for name in sys.modules if name.startswith(tuple(f"{extra}." for extra in EXTRAS))),
    ]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("options", "keys", "says"),
    [
        (
            {},
            ["sfe1"],
            r"no network that is installed here has its keys: sfe1.weight \(4, 4, 1, 1\); .*pip "
            r"install spandrel torchvision; .*pip install resselt einops; pass arch=",
        ),
        (
            {},
            ["sfe1", "rdbs.0.layers.0.conv", "rdbs.0.lff", "upscale.0", "output"],
            r"RDN needs .*pip install torchsr",
        ),
        (
            {"arch": "torchsr:rcan@x2"},
            ["a"],
            r"rcan needs the package torchsr: pip install torchsr",
        ),
        (
            {"arch": "basicsr:EDSR"},
            ["a"],
            r"EDSR needs the package basicsr .*pip install --no-build-isolation --no-deps basicsr",
        ),
    ],
)
def test_a_missing_extra_is_named(options, keys, says, tmp_path, monkeypatch):
    forget(monkeypatch)
    torch.save({f"{key}.weight": torch.ones(4, 4, 1, 1) for key in keys}, tmp_path / "net.pth")
    # An unknown file is what it is; what arch names and isn't there is the package.
    with pytest.raises(ImportError if options else CheckpointError, match=says):
        load(tmp_path / "net.pth", **options)
    with pytest.raises(ImportError, match="pip install torchsr"):
        load("torchsr:carn@x2")


def test_without_extras_the_common_networks_load(data, monkeypatch):
    forget(monkeypatch)
    assert load(data / "checkpoints" / "realesr-animevideov3.pth").scale == 4


def test_public_names():
    assert smoothsr.adapters.__all__ == [
        "CheckpointError",
        "GrayAsRGB",
        "LoadedDenoiser",
        "LoadedSR",
        "available",
        "load",
        "load_denoiser",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert issubclass(CheckpointError, ValueError)
