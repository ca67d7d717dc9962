"""`--profile` of upscale and certify: its counts, never its seconds."""

import re

import pytest
import torch
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.cli import main
from smoothsr.cli.loading import NetworkOptions, load
from smoothsr.cli.smoother import SmootherOptions, smoother
from smoothsr.engine.passes import Batch, Passes, Watched
from smoothsr.files.digests import fingerprint
from smoothsr.files.images import Picture

TILES = 6  # of a 9x7 image, tile 4


def printed(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def counts(text):
    """All passes, those of draws, those beyond."""
    found = re.search(r"(\d+) forward passes: (\d+) for the draws, .* and (\d+) beyond it", text)
    return tuple(map(int, found.groups()))


def table(text):
    """(passes, batches) by the size of the patches."""
    rows = re.findall(r"^\| (\d+x\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {patch: (passes, batches) for patch, passes, batches in rows}


def test_upscale_counts_the_draws_of_every_tile_and_image(photo, tmp_path, capsys):
    options = ["-n", 3, "--tile", 4, "--halo", 1, "--batch-size", 5, "--profile"]
    text = printed(capsys, "upscale", photo, "-o", tmp_path / "out", *options)
    # The memory of a pass is found out on the image's corner, here all of it.
    assert counts(text) == (TILES * 3 + 1, TILES * 3, 1)
    assert table(text) == {"6x6": ("18", "4"), "7x9": ("1", "1")}
    assert "| 6x6 | 18 | 4 | 5 (15) |" in text


def test_certify_counts_its_draws_and_those_that_it_serves(photo, tmp_path, capsys):
    options = ["--n-cert", 200, "--levels", 4, "-n", 3, "--tile", 4, "--halo", 1, "--profile"]
    text = printed(capsys, "certify", photo, "-o", tmp_path / "out", *options)
    everything, draws, beyond = counts(text)
    assert draws == TILES * (200 + 3)
    # The corner once for memory and once without noise; a pair of patches twice, then one by one.
    assert (everything, beyond) == (draws + 8, 8)
    assert table(text)["7x9"] == ("2", "2")
    assert int(table(text)["6x6"][0]) == draws + 6


def test_threads_side_by_side_are_told(photo, tmp_path, capsys):
    options = ["--n-cert", 200, "--levels", 4, "-n", 3, "--tile", 4, "--halo", 1, "--profile"]
    before = torch.get_num_threads()
    for threads, told in ((1, ": "), (2, ", in 2 threads side by side, each of them on average: ")):
        torch.set_num_threads(threads)
        try:
            text = printed(capsys, "certify", photo, "-o", tmp_path / str(threads), *options)
        finally:
            torch.set_num_threads(before)
        assert re.search(rf"Drawing took [0-9.]+ s{told}[0-9.]+ s in the network", text)
        assert counts(text)[1] == TILES * (200 + 3)


@pytest.mark.parametrize("own", [False, True])
def test_networks_of_known_classes_run_side_by_side(own, tmp_path):
    """Of a user's own class nothing is known."""
    arch = None
    if own:
        (tmp_path / "net.py").write_text(
            "from torch import nn\n"
            "class Net(nn.Sequential):\n"
            "    def __init__(self):\n"
            "        super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))\n"
        )
        network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        torch.save(network.state_dict(), tmp_path / "net.pth")
        arch = f"{tmp_path / 'net.py'}:Net"
    networks = load(NetworkOptions(str(tmp_path / "net.pth") if own else "builtin", arch))
    options = SmootherOptions(0.03, 3, "median", 4, 1, "float32")
    picture = Picture(torch.rand(1, 3, 8, 8))
    assert smoother(options, networks, picture).side_by_side is not own


@pytest.mark.parametrize("command", ["upscale", "certify"])
def test_without_it_nothing_is_counted_or_told(command, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Watched, "__init__", lambda *_: pytest.fail("the network is watched"))
    more = ["--n-cert", 100, "--levels", 4] if command == "certify" else []
    options = ["-n", 3, "--tile", 4, "--halo", 1, *more]
    assert "forward passes:" not in printed(
        capsys, command, photo, "-o", tmp_path / "out", *options
    )


def test_a_watched_network_is_told_from_the_bare_one_by_nothing_but_its_counts():
    bare, passes = nn.Conv2d(3, 3, 1).eval(), Passes()
    watched = Watched(bare, passes)
    lr = torch.rand(2, 3, 5, 4)
    assert torch.equal(watched(lr), bare(lr))
    assert passes.batches == {Batch(5, 4, 2): 1}
    assert passes.count == 2
    assert not watched.training
    assert fingerprint(watched) == fingerprint(bare)
    assert watched.state_dict().keys() == bare.state_dict().keys()


def test_a_compiled_network_is_known_for_one_under_the_watch():
    network = nn.Conv2d(3, 3, 1).eval()
    assert not SmoothedSR(Watched(network, Passes()), 0.1).batching.steady
    network.compile()
    assert SmoothedSR(Watched(network, Passes()), 0.1).batching.steady
