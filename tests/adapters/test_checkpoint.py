"""Checkpoint files: every wrapper and prefix is taken off, every bad file is refused in one line,
and nothing in it runs.
"""

import argparse
import contextlib
import hashlib
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from smoothsr.adapters import CheckpointError, load
from smoothsr.adapters.checkpoint import PREFIXES, WRAPPERS, read, spellings
from smoothsr.adapters.compact import Compact


@pytest.fixture(scope="module")
def network() -> Compact:
    torch.manual_seed(0)
    return Compact(3, 8, 2, 2).eval()


@pytest.fixture(scope="module")
def lr() -> torch.Tensor:
    return torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))


def rename(state, prefix):
    return {prefix + key: value for key, value in state.items()}


STYLES = [(None, ""), *((each, "") for each in WRAPPERS), *((None, each) for each in PREFIXES)]


@pytest.mark.parametrize(
    ("wrapper", "prefix"), [*STYLES, ("params", "module.model."), ("model", "model.")]
)
def test_every_wrapper_and_prefix(network, lr, tmp_path, wrapper, prefix):
    state = rename(network.state_dict(), prefix)
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "net.pth")
    sr = load(tmp_path / "net.pth")
    assert torch.equal(sr.model(lr), network(lr))
    assert (sr.scale, sr.channels, sr.value_range) == (2, 3, 1)


@pytest.mark.parametrize("name", ["net.pt", "net.ckpt", "net.safetensors", "net"])
def test_every_kind_of_file(network, lr, tmp_path, name):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(network.state_dict(), path, metadata={"recipe": "none"})
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=name != "net")
    sr = load(str(path))
    assert torch.equal(sr.model(lr), network(lr))
    assert sr.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sr.source == str(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_become_float32(network, lr, tmp_path, dtype):
    torch.save(
        {key: value.to(dtype) for key, value in network.state_dict().items()}, tmp_path / "net.pth"
    )
    model = load(tmp_path / "net.pth").model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model(lr), network(lr), atol=2e-2, rtol=0)


def test_averaged_weights_come_first(network, tmp_path):
    torch.save(
        {"params": rename(network.state_dict(), "no."), "params_ema": network.state_dict()},
        tmp_path / "net.pth",
    )
    assert list(read(tmp_path / "net.pth")[0]) == list(network.state_dict())


def test_training_checkpoints(network, lr, tmp_path):
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.zero_grad()
    network(lr).mean().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [200, 400])
    common = {
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "best_psnr": 28.1,
        "best_epoch": None,
    }
    torch.save({"state_dict": network.state_dict(), **common}, tmp_path / "torchsr_best.pt")
    both = {**rename(network.state_dict(), "net_g."), "net_d.conv.weight": torch.zeros(1)}
    torch.save({"state_dict": both, "global_step": 7}, tmp_path / "lightning.ckpt")
    for name in ("torchsr_best.pt", "lightning.ckpt"):
        assert torch.equal(load(tmp_path / name).model(lr), network(lr))


def test_old_esrgan_keys_are_never_torn_apart():
    state = {"model.0.weight": torch.zeros(1), "model.1.sub.0.RDB1.conv1.0.weight": torch.zeros(1)}
    assert list(spellings(state)[0]) == list(state)
    wrapped = rename(state, "module.model.")
    assert list(state) in [list(each) for each in spellings(wrapped)]


class Evil:
    """Makes a folder when it is unpickled by anything that executes."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def _bad(kind, path, marker, good):
    """Write one bad file and return what the error must say."""
    save = {"weights": torch.zeros(3, 3)}
    if kind == "missing":
        return "no file"
    if kind == "folder":
        path.mkdir()
        return "directory"
    text = {
        "empty": (b"", "is empty"),
        "html": (b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML page"),
        "text": (
            "weights are at example.org/größe\n".encode(),
            "is text, beginning with 'weights are at",
        ),
        "lfs": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "Git LFS pointer",
        ),
        "magic": (b"\x89PNG\r\n\x1a\n" + bytes(range(100)), "first bytes are 89 50 4e 47"),
        "text pickle": (pickle.dumps({"params": Evil(marker)}, protocol=0), "is text"),
        "pickle": (
            pickle.dumps({"params": Evil(marker)}, protocol=2),
            "a pickled posix.mkdir, which could run code",
        ),
        "new pickle": (
            pickle.dumps({"params": Evil(marker)}, protocol=5),
            "not made by torch.save",
        ),
        "safetensors": (
            struct.pack("<Q", 1000) + b'{"a":{"dtype":"F32"}}',
            "truncated safetensors",
        ),
    }
    if kind in text:
        path.write_bytes(text[kind][0])
        return text[kind][1]
    if kind == "torchscript":
        torch.save({}, path)  # the names in the archive are what counts
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/constants.pkl", b"")
            archive.writestr("archive/code/__torch__.py", b"")
        return "TorchScript archive"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
        return "zip archive, but not one of torch.save"
    objects = {
        "empty dict": ({}, "no tensors by name, its keys are: none"),
        "no weights": (
            {"iter": 1, "optimizers": [], "schedulers": []},
            "its keys are: iter, optimizers, schedulers",
        ),
        "tensor": (torch.zeros(3), "holds a Tensor, not a state dict"),
        "list": ([torch.zeros(3)], "holds a list"),
        "unknown": ({**save, "b": torch.zeros(1)}, "weights (3, 3), b (1,)"),
        "module": (torch.nn.Conv2d(3, 3, 3), "a pickled torch.nn.modules.conv.Conv2d"),
        "namespace": (
            {**save, "hyper_parameters": argparse.Namespace(scale=4)},
            "a pickled argparse.Namespace",
        ),
        "evil": ({"params": Evil(marker)}, "a pickled posix.mkdir"),
        "shape": (
            {**good, "body.2.weight": torch.zeros(8, 8, 5, 5)},
            "body.2.weight is (8, 8, 5, 5), not (8, 8, 3, 3)",
        ),
        "flat shape": ({**good, "body.0.weight": torch.zeros(8)}, "unknown shapes"),
        "gap": (
            {key: good[key] for key in good if key != "body.2.bias"},
            "1 are missing (body.2.bias ...)",
        ),
        "no channels": (
            {**good, "body.0.weight": torch.zeros(8, 0, 3, 3)},
            "body.0.weight has shape (8, 0, 3, 3), which holds no value",
        ),
        "no features": (
            {key: value[:0] for key, value in good.items()},
            "body.0.weight has shape (0, 3, 3, 3), which holds no value",
        ),
        "long": ({**good, "body.99999999.weight": torch.zeros(1)}, "reach up to body.99999999"),
        "nan": ({key: value * float("nan") for key, value in good.items()}, "not finite"),
        "activation": (
            {key: good[key] for key in good if good[key].ndim == 4 or "bias" in key},
            '"act_type": "relu"',
        ),
    }
    if kind in objects:
        torch.save(objects[kind][0], path)
        return objects[kind][1]
    legacy = kind == "truncated legacy"
    torch.save({"params": good}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return "truncated"


KINDS = """missing, folder, empty, html, text, lfs, magic, text pickle, pickle, new pickle,
safetensors, torchscript, zip, empty dict, no weights, tensor, list, unknown, module, namespace,
evil,
shape,
flat shape, no channels, no features, gap, long, nan, activation,
truncated, truncated legacy"""


@pytest.mark.parametrize("kind", [kind.strip() for kind in KINDS.split(",")])
def test_bad_files(kind, network, tmp_path):
    path, marker = tmp_path / "net.pth", tmp_path / "marker"
    says = _bad(kind, path, marker, network.state_dict())
    with pytest.raises((CheckpointError, OSError)) as caught:
        load(path)
    message = str(caught.value)
    assert says.lower() in message.lower()
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message  # PyTorch's own text advises to switch it off
    assert not marker.exists()


def test_the_marker_works(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("number", range(40))
def test_a_damaged_file_is_an_error_or_loads(number, network, tmp_path):
    """Bytes overwritten anywhere give a CheckpointError or some network, never another
    exception.
    """
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    data = bytearray((tmp_path / "net.pth").read_bytes())
    generator = torch.Generator().manual_seed(number)
    for _ in range(8):
        position = torch.randint(len(data), (1,), generator=generator).item()
        data[position] = torch.randint(256, (1,), generator=generator).item()
    (tmp_path / "net.pth").write_bytes(data)
    with contextlib.suppress(CheckpointError):
        load(tmp_path / "net.pth", value_range=1)
