"""load(arch="net.py:CLASS{...}"): networks that no library knows, by the user's own file."""

import copy
import pickle
import sys

import pytest
import torch

from smoothsr.adapters import CheckpointError, GrayAsRGB, load
from smoothsr.adapters.named import parse
from smoothsr.cli import main

BLOCK = '''
import torch
from torch import nn
from torch.nn import functional as F


class Distill(nn.Module):
    """The block of IMDN, RFDN and RLFN in small: a part of the channels is passed on."""

    def __init__(self, nf, attention):
        super().__init__()
        self.keep = nn.Conv2d(nf, nf // 2, 1)
        self.refine = nn.Conv2d(nf, nf, 3, padding=1)
        self.fuse = nn.Conv2d(nf + nf // 2, nf, 1)
        self.attention = nn.Conv2d(nf, nf, 1) if attention else None

    def forward(self, x):
        y = self.fuse(torch.cat([self.keep(x), F.leaky_relu(self.refine(x) + x, 0.05)], 1))
        if self.attention is not None:
            y = y * torch.sigmoid(self.attention(F.adaptive_avg_pool2d(y, 1)))
        return x + y
'''

NET = """
from torch import nn
{imports}

MARK = "not a network"


class {name}(nn.Module):
    def __init__(self, in_nc=3, nf=8, num_modules=2, upscale=2, attention=False):
        super().__init__()
        self.head = nn.Conv2d(in_nc, nf, 3, padding=1)
        self.blocks = nn.Sequential(*(Distill(nf, attention) for _ in range(num_modules)))
        self.tail = nn.Conv2d(nf, in_nc * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x):
        y = self.head(x)
        return self.shuffle(self.tail(self.blocks(y) + y))


def helper():
    return {name}()
"""

WINDOWED = '''
import torch
from torch import nn
from torch.nn import functional as F


class Windowed(nn.Module):
    """Mean of each window of 12, which all sides must be multiples of, around a convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        b, c, h, w = x.shape
        means = x.view(b, c, h // 12, 12, w // 12, 12).mean((3, 5))
        x = self.conv(x) + F.interpolate(means, scale_factor=12.0)
        return F.interpolate(x, scale_factor=3.0)


class Shrinking(Windowed):
    def forward(self, x):
        return F.avg_pool2d(self.conv(x), 2)


class Failing(Windowed):
    def forward(self, x):
        raise RuntimeError("no kernel\\nfor this")


class Wide(nn.Module):
    """Values up to 255: adds 10 of them to black, which is much where white is 1."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.conv.weight)
        nn.init.constant_(self.conv.bias, 10.0)

    def forward(self, x):
        return F.interpolate(self.conv(x), scale_factor=2.0)
'''


@pytest.fixture
def folder(tmp_path):
    """Files as users have them: classes in one, their blocks in a sibling."""
    before = {*sys.modules}
    (tmp_path / "block.py").write_text(BLOCK)
    for file, name, imports in [
        ("imdn.py", "IMDN", "from . import block\nDistill = block.Distill"),
        ("rfdn.py", "RFDN", "from block import Distill"),
        ("my-rlfn.v2.py", "RLFN", "from .block import Distill"),
    ]:
        (tmp_path / file).write_text(NET.format(name=name, imports=imports))
    (tmp_path / "net.py").write_text(WINDOWED)
    yield tmp_path
    for name in {*sys.modules} - before:
        if name == "block" or name.startswith("smoothsr_own_"):
            del sys.modules[name]


@pytest.fixture
def lr() -> torch.Tensor:
    return torch.rand(2, 3, 13, 9, generator=torch.Generator().manual_seed(1))


def save(path, file, name, **options):
    """Save random weights of a class in a file, whose blocks are put in its place; return it."""
    members: dict = {"__name__": "script"}
    imports = ("from .", "from block", "Distill =")
    own = [line for line in file.read_text().splitlines() if not line.startswith(imports)]
    exec(BLOCK + "\n".join(own), members)
    torch.manual_seed(0)
    network = members[name](**options).eval()
    torch.save({"params": network.state_dict()}, path)
    return network


CLASSES = [
    ("imdn.py", "IMDN", "{nf=12, upscale=4}", {"nf": 12, "upscale": 4}),
    ("rfdn.py", "RFDN", "{attention=True, num_modules=3}", {"attention": True, "num_modules": 3}),
    ("my-rlfn.v2.py", "RLFN", '{"nf": 10, "in_nc": 1}', {"nf": 10, "in_nc": 1}),
    ("rfdn.py", "RFDN", "", {}),
]


@pytest.mark.parametrize(("file", "name", "written", "options"), CLASSES)
def test_a_class_of_the_users_own(file, name, written, options, folder, lr):
    path, search = folder / "weights.pth", sys.path[:]
    network = save(path, folder / file, name, **options)
    lr = lr[:, : options.get("in_nc", 3)]
    sr = load(path, arch=f"{folder / file}:{name}{written}", value_range=1)
    torch.testing.assert_close(sr.model(lr), network(lr))
    assert (sr.scale, sr.channels, sr.multiple_of, sr.name) == (
        options.get("upscale", 2),
        options.get("in_nc", 3),
        1,
        f"{name} of {file}",
    )
    assert not sr.model.training
    assert sys.path == search
    for twin in (copy.deepcopy(sr.model), pickle.loads(pickle.dumps(sr.model))):
        torch.testing.assert_close(twin(lr), network(lr))
    with pytest.raises(CheckpointError, match=f"{name} of {file} with .* enlarges x.*, not x7"):
        load(path, arch=f"{folder / file}:{name}{written}", scale=7)


def test_gray_images_go_through_it_and_it_stays_picklable(folder, lr):
    network = save(folder / "weights.pth", folder / "rfdn.py", "RFDN")
    sr = load(folder / "weights.pth", arch=f"{folder}/rfdn.py:RFDN", value_range=1)
    gray = pickle.loads(pickle.dumps(GrayAsRGB(sr.model)))
    expected = network(lr[:, :1].repeat(1, 3, 1, 1)).mean(1, keepdim=True)
    torch.testing.assert_close(gray(lr[:, :1]), expected)


def test_sides_are_found_out(folder):
    network = save(folder / "weights.pth", folder / "net.py", "Windowed")
    sr = load(folder / "weights.pth", arch=f"{folder}/net.py:Windowed", value_range=1)
    assert (sr.scale, sr.multiple_of) == (3, 12)
    assert sr.model(torch.rand(1, 3, 13, 30)).shape == (1, 3, 39, 90)
    lr = torch.rand(1, 3, 24, 36)
    torch.testing.assert_close(sr.model(lr), network(lr))


@pytest.mark.parametrize(("given", "taken"), [(None, 255), (255, 255), (1, 1)])
def test_the_value_range_is_found_out_or_given(given, taken, folder, lr):
    network = save(folder / "weights.pth", folder / "net.py", "Wide")
    sr = load(folder / "weights.pth", arch=f"{folder}/net.py:Wide", value_range=given)
    assert sr.value_range == taken
    torch.testing.assert_close(sr.model(lr), network(lr * taken) / taken)


def test_folders_with_files_of_the_same_names_do_not_mix(folder, lr, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "rfdn.py").write_text((folder / "rfdn.py").read_text())
    (other / "block.py").write_text(BLOCK.replace("return x + y", "return x - y"))
    network = save(folder / "weights.pth", folder / "rfdn.py", "RFDN")
    first, second = (
        load(folder / "weights.pth", arch=f"{each}/rfdn.py:RFDN", value_range=1).model
        for each in (folder, other)
    )
    torch.testing.assert_close(first(lr), network(lr))
    assert not torch.allclose(second(lr), network(lr))
    pickle.loads(pickle.dumps(first))


def test_an_edited_file_is_run_again(folder):
    save(folder / "weights.pth", folder / "net.py", "Wide")
    arch = f"{folder}/net.py:Wide"
    assert load(folder / "weights.pth", arch=arch, value_range=1).scale == 2
    (folder / "net.py").write_text(WINDOWED.replace("scale_factor=2.0", "scale_factor=4.0"))
    assert load(folder / "weights.pth", arch=arch, value_range=1).scale == 4


BAD = [
    ("none.py:RFDN", FileNotFoundError, "no file .*none.py, in which arch names the class RFDN"),
    ("rfdn.py:RFDM", ValueError, "rfdn.py: RFDM is not there; its networks are: Distill, RFDN"),
    ("rfdn.py:MARK", ValueError, "MARK is no torch.nn.Module class; its networks are: .*RFDN"),
    ("rfdn.py:helper", ValueError, "helper is no torch.nn.Module class"),
    ("rfdn.py:RFDN{nfs=3}", ValueError, "RFDN of rfdn.py can't be built with .*nfs.*TypeError"),
    ("rfdn.py:RFDN{nf=4*2}", ValueError, r"options must be as in \{nf=50, upscale=4\} or JSON"),
    ("rfdn.py:RFDN{nf=exit()}", ValueError, "options must be as in"),
    ("rfdn.py:RFDN{**{}}", ValueError, "options must be as in"),
    ("rfdn.py:RFDN{3}", ValueError, "options must be as in"),
    ("rfdn.py:RFDN{nf=}", ValueError, "options must be as in"),
    ("rfdn.py:RFDN{nf=3)(nf=4}", ValueError, "options must be as in"),
    ("rfdn.py:RFDN nf=3", ValueError, "must be NAME or NAME{option=value}, got RFDN nf=3"),
    ("rfdn.py:RFDN{nf=10}", CheckpointError, r"no RFDN of rfdn.py: head.weight is \(8, 3, 3, 3\)"),
    ("net.py:Wide", CheckpointError, "it is no Wide of net.py: .* missing"),
    ("broken.py:Net", ValueError, "broken.py can't be run: ZeroDivisionError division by zero"),
    ("syntax.py:Net", ValueError, "syntax.py can't be run: SyntaxError"),
    ("leaving.py:Net", ValueError, "leaving.py can't be run: SystemExit 3"),
    ("rfdn:RFDN", ValueError, "arch must be torchsr:NAME, basicsr:NAME.*net.py:RFDN{nf=50"),
]


@pytest.mark.parametrize(("arch", "kind", "says"), BAD, ids=[row[0] for row in BAD])
def test_what_is_wrong_is_said_in_one_line(arch, kind, says, folder):
    save(folder / "weights.pth", folder / "rfdn.py", "RFDN")
    (folder / "broken.py").write_text("from . import block\n1 / 0\n")
    (folder / "syntax.py").write_text("class Net(\n")
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    search = sys.path[:]
    with pytest.raises(kind, match=says) as caught:
        load(folder / "weights.pth", arch=f"{folder}/{arch}")
    assert "\n" not in str(caught.value)
    assert sys.path == search
    assert not [name for name in sys.modules if "smoothsr_own" in name and "broken" in name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Shrinking", r"Shrinking of net.py maps no image of 3 channels .*it makes \(1, 3, 32, 32"),
        ("Failing", r"maps no image of 3 channels to an enlarged one \(RuntimeError no kernel for"),
    ],
)
def test_a_network_that_enlarges_nothing(name, says, folder):
    save(folder / "weights.pth", folder / "net.py", name)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(folder / "weights.pth", arch=f"{folder}/net.py:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [["upscale", "-n", "3"], ["certify", "--n-cert", "100"]])
def test_commands_take_it_and_name_a_tile_that_fits(command, folder, photo, capsys):
    save(folder / "weights.pth", folder / "net.py", "Windowed")
    arguments = ["-m", str(folder / "weights.pth"), "--arch", f"{folder}/net.py:Windowed"]
    for tile, padded in [("8", True), ("10", False)]:
        out = folder / f"out{tile}"
        options = ["-t", tile, "--halo", "1", "-o", str(out), "--device", "cpu"]
        assert main([*command, str(photo), *arguments, *options]) == 0
        captured = capsys.readouterr()
        assert "Windowed of net.py, x3" in captured.out
        advice = [line for line in captured.out.splitlines() if "of its work is padding" in line]
        assert len(advice) == padded
        assert not padded or "tile 10 and halo 1 need no padding" in advice[0]
        assert [*out.iterdir()]


def test_commands_refuse_in_one_line(folder, photo, capsys):
    save(folder / "weights.pth", folder / "rfdn.py", "RFDN")
    model = ["-m", str(folder / "weights.pth")]
    for arch in ("rfdn.py:RFDM", "none.py:RFDN", "rfdn.py:RFDN{nf=", "rfdn.py:RFDN{nf=10}"):
        assert main(["upscale", str(photo), *model, "--arch", f"{folder}/{arch}"]) == 2
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""
    torch.save({"body.0.weight": torch.zeros(8, 0, 3, 3)}, folder / "weights.pth")
    assert main(["models", str(folder / "weights.pth")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_checkpoint_itself_is_never_run(folder):
    torch.save({"params": torch.nn.Conv2d(3, 3, 1)}, folder / "weights.pth")
    with pytest.raises(CheckpointError, match=r"a pickled torch.nn.modules.conv.Conv2d"):
        load(folder / "weights.pth", arch=f"{folder}/rfdn.py:RFDN")


def test_the_refusal_of_an_unknown_network_names_the_way(folder):
    save(folder / "weights.pth", folder / "rfdn.py", "RFDN")
    with pytest.raises(CheckpointError) as caught:
        load(folder / "weights.pth")
    for part in ("head.weight (8, 3, 3, 3)", "arch='net.py:RFDN{nf=50, upscale=4}'", "--arch"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", ("A", {})),
        ("A{}", ("A", {})),
        (
            " A {a=-1.5, b=(1, 2), c='x}', d=None} ",
            ("A", {"a": -1.5, "b": (1, 2), "c": "x}", "d": None}),
        ),
        ('A{"a": true, "b": [1, {"c": null}]}', ("A", {"a": True, "b": [1, {"c": None}]})),
    ],
)
def test_options(text, expected):
    assert parse(text) == expected
