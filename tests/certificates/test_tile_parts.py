"""Certificates whose tiles are kept in part files are those of one process, whoever makes them."""

import math

import numpy as np
import pytest
import torch
from oracles import LinearSR
from shared_certificates import LR, N, certified, same, smoother

from smoothsr import SmoothedSR
from smoothsr.engine import draws
from smoothsr.engine.tiles import grid
from smoothsr.files.parts import NotLastError, Parts

TILES = 9

pytestmark = pytest.mark.usefixtures("deterministic")


@pytest.fixture
def tiles_drawn(monkeypatch):
    """The numbers of tiles that were certified, of each call."""
    found, real = [], draws.observe

    def observe(sampler, *arguments):
        found.append(len(sampler.tiles))
        return real(sampler, *arguments)

    monkeypatch.setattr(draws, "observe", observe)
    return found


@pytest.mark.parametrize("kind", ["levels", "spectral", "both"])
@pytest.mark.parametrize("agg", ["median", "mean"])
def test_parts_change_nothing_at_the_same_seed(tmp_path, kind, agg):
    smoothed = smoother(agg=agg, seed=5)
    same(
        certified(smoothed, None, kind=kind), certified(smoothed, Parts(tmp_path / "p"), kind=kind)
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_processes_that_share_the_tiles_make_the_certificate_of_one(tmp_path, order, tiles_drawn):
    smoothed = smoother(seed=5)
    for rank in order[:2]:
        with pytest.raises(NotLastError):
            certified(smoothed, Parts(tmp_path / "p", rank, 3))
    together = certified(smoothed, Parts(tmp_path / "p", order[2], 3))
    assert tiles_drawn == [3, 3, 3]
    same(together, certified(smoothed, None))


def test_draws_that_do_not_suffice_are_shared_too(tmp_path):
    options = {"kind": "levels", "n": 5}
    smoothed = smoother(agg="median", seed=5)
    with pytest.raises(NotLastError):
        certified(smoothed, Parts(tmp_path / "p", 0, 2), **options)
    with pytest.warns(UserWarning, match="5 draws can't bound"):
        together = certified(smoothed, Parts(tmp_path / "p", 1, 2), **options)
    with pytest.warns(UserWarning, match="5 draws can't bound"):
        same(together, certified(smoothed, None, **options))


def test_more_processes_than_tiles_go_on_with_tiles_that_are_there(tmp_path, tiles_drawn):
    """Rather than share all draws anew, which would choose among draws."""
    smoothed, folder = smoother(tile=5), tmp_path / "p"
    with pytest.raises(NotLastError):
        certified(smoothed, Parts(folder, 0, 2))
    before = {path.name: path.read_bytes() for path in folder.glob("*_tile_*")}
    for rank in (4, 3, 2, 0):
        with pytest.raises(NotLastError):
            certified(smoothed, Parts(folder, rank, 5))
    certified(smoothed, Parts(folder, 1, 5))
    after = {path.name: path.read_bytes() for path in folder.glob("*_tile_?.npz")}
    assert len(before) == 2
    assert before.items() < after.items()
    assert not [*folder.glob("*draws*")]


def test_processes_agree_on_how_many_draws_are_wanted(tmp_path, monkeypatch):
    wanted = iter([150, 160])
    monkeypatch.setattr(SmoothedSR, "draws_wanted", lambda *_, **__: next(wanted))
    with pytest.raises(NotLastError):
        certified(smoother(), Parts(tmp_path / "p", 0, 2), n="auto")
    together = certified(smoother(), Parts(tmp_path / "p", 1, 2), n="auto")
    assert together.n_cert == 150


def test_each_process_has_noise_of_its_own(tmp_path):
    """On a flat image two tiles of equal patches would have equal draws otherwise."""
    flat, parts = torch.full((1, 1, 3, 15), 0.5), tmp_path / "p"
    with pytest.raises(NotLastError):
        certified(smoother(tile=3), Parts(parts, 0, 2), lr=flat, seed=None)
    certificate = certified(smoother(tile=3), Parts(parts, 1, 2), lr=flat, seed=None)
    means = certificate.mean.reshape(6, 5, 6).transpose(1, 0, 2)
    assert not any(np.array_equal(means[i], means[j]) for i in range(5) for j in range(i))


def test_a_restart_draws_what_is_missing_and_no_more(tmp_path, tiles_drawn):
    """Draws that were completed are used, and never drawn again to choose from."""
    smoothed, real = smoother(seed=5), Parts.add

    def die(parts, name, arrays):
        if len([*parts.folder.glob("*_tile_*")]) == 4:
            raise KeyboardInterrupt
        real(parts, name, arrays)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "add", die)
        with pytest.raises(KeyboardInterrupt):
            certified(smoothed, Parts(tmp_path / "p"), seed=None)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    shown = {
        path.stem: Parts(tmp_path / "p").read(path.stem)
        for path in (tmp_path / "p").glob("*_tile_*")
    }
    certificate = certified(smoothed, Parts(tmp_path / "p"), seed=None)
    assert tiles_drawn == [TILES, TILES - 4]
    assert {name: (tmp_path / "p" / name).read_bytes() for name in kept} == kept
    tiles = grid(7, 9, 3, 1)
    for name, arrays in shown.items():
        rows, columns = tiles[int(name.rpartition("_")[2])]
        place = np.s_[..., 2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]
        assert np.array_equal(certificate.mean[0][place], arrays["mean"])
        assert np.array_equal(certificate.upper[place], arrays["ranks"][-4:])


OTHER = {
    "alpha": lambda parts: certified(smoother(), parts, alpha=2e-3),
    "levels": lambda parts: certified(smoother(), parts, levels=5),
    "kind": lambda parts: certified(smoother(), parts, kind="spectral"),
    "scope": lambda parts: certified(smoother(), parts, kind="levels", scope="pixel"),
    "n": lambda parts: certified(smoother(), parts, n=N + 1),
    "seed": lambda parts: certified(smoother(), parts, seed=2),
    "fresh": lambda parts: certified(smoother(), parts, seed=None),
    "serving seed": lambda parts: certified(smoother(seed=5), parts),
    "sigma": lambda parts: certified(smoother(sigma=0.0501), parts),
    "served draws": lambda parts: certified(smoother(n=5), parts),
    "agg": lambda parts: certified(smoother(agg="median"), parts),
    "tile": lambda parts: certified(smoother(tile=4), parts),
    "halo": lambda parts: certified(smoother(halo=2), parts),
    "weights": lambda parts: certified(smoother(gain=0.51), parts),
    "denoiser": lambda parts: certified(smoother(denoiser=torch.nn.Identity().eval()), parts),
    "input": lambda parts: certified(smoother(), parts, lr=LR + 1 / 255),
    "dtype": lambda parts: certified(smoother().double(), parts, lr=LR.double()),
}


@pytest.mark.parametrize("name", OTHER)
def test_parts_of_other_options_are_not_used(tmp_path, name, tiles_drawn):
    certified(smoother(), Parts(tmp_path / "p"))
    before = {path: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    OTHER[name](Parts(tmp_path / "p"))
    assert tiles_drawn[1] > 0
    assert {path: path.read_bytes() for path in before} == before


def test_autocast_is_told_apart(tmp_path, tiles_drawn):
    certified(smoother(), Parts(tmp_path / "p"))
    with torch.autocast("cpu", torch.bfloat16):
        certified(smoother(), Parts(tmp_path / "p"))
    assert tiles_drawn == [TILES, TILES]


class Scaled(LinearSR):
    """What it does depends on a number that its weights and its structure do not show."""

    def __init__(self, by, broken=False):
        super().__init__()
        self.by, self.broken, self.calls = by, broken, 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (math.nan if self.broken and self.calls > 12 else self.by)


def test_parts_of_another_network_with_the_same_weights_are_refused(tmp_path):
    parts, options = Parts(tmp_path / "p", 0, 2), {"tile": 3, "halo": 1}
    with pytest.raises(NotLastError):
        SmoothedSR(Scaled(1.0), 0.05, 3, **options).certify(LR, n=20, parts=parts)
    with pytest.raises(ValueError, match="same weights and does something else"):
        SmoothedSR(Scaled(0.5), 0.05, 3, **options).certify(LR, n=20, parts=parts)


def test_a_draw_that_is_not_finite_is_not_drawn_again(tmp_path):
    """To go on with the tiles that went well would choose among draws."""
    parts, options = Parts(tmp_path / "p"), {"tile": 3, "halo": 1, "batch_size": 20}
    for broken, message in ((True, "has NaN or infinite"), (False, "would choose among draws")):
        smoothed = SmoothedSR(Scaled(1.0, broken), 0.05, 3, **options)
        with pytest.raises(ValueError, match=message):
            smoothed.certify(LR, n=20, kind="spectral", parts=parts)
