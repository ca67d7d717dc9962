"""tile="auto": the whole image where it fits, else tiles that do, without seams."""

import pytest
import torch
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.adapters import load
from smoothsr.attacks import views
from smoothsr.engine import memory
from smoothsr.files import images
from smoothsr.files.parts import Parts
from smoothsr.smoothing import variant


def photo(side: int) -> torch.Tensor:
    lr = images.read("examples/cat.png").pixels
    return torch.cat([torch.cat([lr, lr.flip(-1)], -1), torch.cat([lr.flip(-2), lr], -1)], -2)[
        ..., :side, :side
    ]


def give(monkeypatch, smoothed: SmoothedSR, lr: torch.Tensor, share: float) -> None:
    """Let so large a share of what the whole image takes be free for tiles."""
    demand = smoothed.demand(lr)
    whole = demand.held(None) + demand.a_pass(None, 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * share * whole)


def test_what_fits_is_run_whole(monkeypatch):
    smoothed = SmoothedSR(load("builtin").model, 0.03, 3, tile="auto", seed=0)
    lr = photo(40)
    give(monkeypatch, smoothed, lr, 1.0)
    assert smoothed.fitted(lr).tile is None
    torch.testing.assert_close(smoothed(lr), variant(smoothed, tile=None)(lr))


@pytest.mark.parametrize("side", [96, 117])
def test_tiles_show_no_seams(side, monkeypatch):
    """Without noise, which is another for each tile, up to the edge of the image."""
    smoothed = SmoothedSR(load("builtin").model, 0.03, 1, "mean", tile="auto")
    lr = photo(side)
    quiet, sides = variant(smoothed, sigma=0.0), set()
    with torch.no_grad():
        whole = variant(quiet, tile=None)(lr)
        give(monkeypatch, smoothed, lr, 0.6)
        found = smoothed.fitted(lr)
        assert 8 < found.tile < side
        hook = smoothed.model.register_forward_pre_hook(
            lambda _, given: sides.add(given[0].shape[3])
        )
        tiled = quiet(lr)
        hook.remove()
        reflected = variant(quiet, tile=found.tile, halo=found.halo)(lr)
    assert max(sides) < side
    assert (tiled - whole).abs().max() < 1 / 255
    assert (reflected - whole).abs().max() > 2 / 255  # what completed patches make of the edge


def test_what_is_chosen_takes_no_more_than_there_is(monkeypatch):
    smoothed = SmoothedSR(load("builtin").model, 0.03, 5, tile="auto")
    lr = photo(100)
    demand = smoothed.demand(lr)
    for share in (0.4, 0.6, 0.8):
        give(monkeypatch, smoothed, lr, share)
        found = smoothed.fitted(lr)
        room = memory.free_bytes(lr.device) / 2
        passes = found.batching.most * demand.a_pass(found.tile, found.halo)
        assert demand.held(found.tile) + passes <= room
        assert found.batching.most >= 1


class Whitened(nn.Module):
    """A network that looks at the whole image."""

    def forward(self, lr):
        return (
            (lr - lr.mean((2, 3), keepdim=True) + 0.5)
            .repeat_interleave(2, 2)
            .repeat_interleave(2, 3)
        )


def test_a_network_that_sees_the_whole_image_is_told_once(monkeypatch):
    smoothed = SmoothedSR(Whitened().eval(), 0.03, 3, tile="auto")
    lr = photo(128)
    give(monkeypatch, smoothed, lr, 0.8)
    with pytest.warns(UserWarning, match="sees more than tiles can show it"):
        smoothed(lr)
    variant(smoothed, n=5)(lr)  # warnings are errors


def test_no_certificate_is_made_of_tiles_that_memory_chose(monkeypatch):
    smoothed = SmoothedSR(load("builtin").model, 0.03, 3, tile="auto")
    lr = photo(64)
    with pytest.raises(ValueError, match="of one way to cut the image"):
        smoothed.certify(lr)
    give(monkeypatch, smoothed, lr, 0.6)
    found = smoothed.fitted(lr)
    assert found.tile
    with pytest.raises(ValueError, match="of one way to cut the image"):
        found.certify(lr)
    with pytest.raises(ValueError, match="resolved by fitted"):
        smoothed.grid(lr)


def test_attacks_see_the_tiles_that_were_chosen(monkeypatch):
    smoothed = SmoothedSR(load("builtin").model.requires_grad_(False), 0.03, 1, tile="auto")
    lr = photo(64)
    give(monkeypatch, smoothed, lr, 0.6)
    seen = views.views(smoothed, lr, 2, 0)["mean"].args[0]
    assert seen.tile == smoothed.fitted(lr).tile


def test_what_a_pass_takes_is_measured_once():
    network, passes = load("builtin").model, list[int]()
    network.register_forward_hook(lambda _, inputs, __: passes.append(inputs[0].shape[-1]))
    smoothed = SmoothedSR(network, 0.03, 3, tile="auto")
    for side in (60, 64, 60):
        smoothed(photo(side))
    assert passes.count(48) == 1


def test_processes_take_the_tiles_of_the_first_of_them(monkeypatch, tmp_path):
    """Each has another share of the memory free, and they must make parts of one image."""
    smoothed = SmoothedSR(load("builtin").model, 0.03, 3, tile="auto", seed=0)
    lr = photo(117)
    give(monkeypatch, smoothed, lr, 0.7)
    first = smoothed._agreed(lr, Parts(tmp_path, 0, 2))
    give(monkeypatch, smoothed, lr, 0.3)
    assert smoothed.fitted(lr).tile < first.tile
    second = smoothed._agreed(lr, Parts(tmp_path, 1, 2))
    assert (second.tile, second.halo, second._inside) == (first.tile, first.halo, True)
