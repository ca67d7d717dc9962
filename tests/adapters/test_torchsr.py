"""torchSR's networks: without the package, by name, and with the weights that torchSR publishes."""

import sys
from importlib import import_module

import pytest
import torch

from smoothsr.adapters import CheckpointError, load


@pytest.fixture
def lr() -> torch.Tensor:
    return torch.rand(2, 3, 21, 18, generator=torch.Generator().manual_seed(1))


def build(module: str, name: str, **options) -> torch.nn.Module:
    pytest.importorskip("torchsr")
    torch.manual_seed(0)
    return getattr(import_module(f"torchsr.models.{module}"), name)(**options).eval()


def save(network, path):
    torch.save(network.state_dict(), path)
    return path


def forget(monkeypatch):
    """Make torchsr look as if it weren't installed."""
    for name in ["torchsr", *(name for name in sys.modules if name.startswith("torchsr."))]:
        monkeypatch.setitem(sys.modules, name, None)


def test_edsr_needs_no_package_and_range_and_mean_come_from_the_file(tmp_path, lr, monkeypatch):
    network = build("edsr", "EDSR", n_resblocks=2, n_feats=8, scale=2, res_scale=1.0)
    path = save(network, tmp_path / "net.pth")
    forget(monkeypatch)
    torch.testing.assert_close(load(path).model(lr), network(lr))
    # The same weights trained on 0..1: the shift is the mean itself, and the network sees values
    # 255 times smaller.
    for shift in (network.sub_mean, network.add_mean):
        shift.bias.data /= 255
    torch.testing.assert_close(
        load(save(network, path), value_range=1).model(lr), network(lr / 255) * 255
    )


def test_rcan_is_left_to_spandrel_where_there_is_no_torchsr(tmp_path, lr, monkeypatch):
    pytest.importorskip("spandrel")
    network = build("rcan", "RCAN", n_resgroups=2, n_resblocks=2, n_feats=8, reduction=4, scale=2)
    path, before = save(network, tmp_path / "net.pth"), lr.clone()
    assert load(path, value_range=1).name == "torchSR RCAN"
    forget(monkeypatch)
    sr = load(path, value_range=1)
    assert sr.name.startswith("RCAN (8nf")
    torch.testing.assert_close(sr.model(lr), network(lr))
    assert torch.equal(lr, before)  # spandrel's RCAN by itself scales the image in place


def test_vdsr_of_255(tmp_path, lr):
    network = build("vdsr", "VDSR", n_resblocks=3, n_feats=8, scale=2, pretrained=False)
    for shift in (network.sub_mean, network.add_mean):
        shift.bias.data *= 255
    sr = load(save(network, tmp_path / "net.pth"), scale=2)
    assert sr.value_range == 255
    torch.testing.assert_close(sr.model(lr), network(lr * 255) / 255)


def test_by_name(tmp_path, lr, monkeypatch):
    network = build("ninasr", "ninasr_b0", scale=2, pretrained=False)
    path = save(network, tmp_path / "net.pth")
    for arch in ("torchsr:ninasr_b0", "torchsr:ninasr_b0@x2"):
        torch.testing.assert_close(load(path, arch=arch, value_range=1).model(lr), network(lr))
    with pytest.raises(CheckpointError, match="it is no torchsr:ninasr_b0: "):
        load(path, arch="torchsr:ninasr_b0@x4")
    with pytest.raises(ValueError, match=r"torchsr:ninasr must be .* NAME of carn, "):
        load(path, arch="torchsr:ninasr")
    with pytest.raises(ValueError, match="contradicts scale=3"):
        load(path, arch="torchsr:ninasr_b0@x2", scale=3)
    with pytest.raises(ValueError, match="leave arch='torchsr:rcan' out"):
        load("torchsr:ninasr_b0@x2", arch="torchsr:rcan")
    with pytest.raises(ValueError, match="arch must be torchsr:NAME, basicsr:NAME"):
        load(path, arch="ninasr_b0")

    monkeypatch.setattr(
        import_module("torchsr.models.ninasr"),
        "load_state_dict_from_url",
        lambda *_, **__: network.state_dict(),
    )
    sr = load("torchsr:ninasr_b0@x2", value_range=1)
    torch.testing.assert_close(sr.model(lr), network(lr))
    assert (sr.sha256, sr.source, sr.name) == (None, "torchsr:ninasr_b0@x2", "torchSR ninasr_b0")


def test_weights_that_cannot_be_had(monkeypatch):
    pytest.importorskip("torchsr")

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(import_module("torchsr.models.ninasr"), "load_state_dict_from_url", offline)
    with pytest.raises(
        CheckpointError,
        match=r"weights for ninasr_b0 x2 can't be had \(no route to host\); pass a file",
    ):
        load("torchsr:ninasr_b0@x2")
    with pytest.raises(CheckpointError, match=r"weights for vdsr x2 can't be had"):
        load("torchsr:vdsr", scale=2)
    with pytest.raises(CheckpointError, match="which scale ninasr_b0 is for; pass scale=2, 3 or 4"):
        load("torchsr:ninasr_b0")
