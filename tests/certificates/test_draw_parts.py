"""Draws that processes share give the certificate, and the output, of one process."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from oracles import LinearSR
from shared_certificates import LR, certified, same, smoother

from smoothsr import SmoothedSR
from smoothsr.certificates import gathering
from smoothsr.certificates.band_parts import bands_of
from smoothsr.certificates.draw_parts import DrawParts
from smoothsr.engine.batching import Batching
from smoothsr.engine.draws import Sampler
from smoothsr.engine.noise import Noise
from smoothsr.engine.tiles import grid
from smoothsr.files.parts import NotLastError, Parts

pytestmark = pytest.mark.usefixtures("deterministic")


def shared(folder, make, ranks=3, order=(1, 2, 0)):
    """What the last of several processes makes, each with its own parts."""
    for rank in order[: ranks - 1]:
        with pytest.raises(NotLastError):
            make(Parts(folder, rank, ranks))
    return make(Parts(folder, order[ranks - 1], ranks))


@pytest.mark.parametrize("kind", ["levels", "spectral", "both"])
@pytest.mark.parametrize(("agg", "tile"), [("median", None), ("mean", None), ("mean", 5)])
def test_draws_of_few_tiles_are_shared(tmp_path, kind, agg, tile):
    smoothed = smoother(agg=agg, seed=5, tile=tile)
    ranks = 3 if tile is None else 5
    order = (1, 2, 0) if tile is None else (4, 2, 0, 1, 3)
    together = shared(
        tmp_path / "p", lambda parts: certified(smoothed, parts, kind=kind), ranks, order
    )
    same(together, certified(smoothed, None, kind=kind))


def test_many_draws_are_shared(tmp_path):
    """More than are kept side by side."""

    def make(parts):
        return certified(smoother(tile=None, seed=5), parts, n=1200)

    same(shared(tmp_path / "p", make), make(None))


@pytest.fixture
def bands(monkeypatch):
    """Into so many each tile is cut, however small it is."""
    monkeypatch.setattr(gathering, "bands_of", lambda n, values: 3)
    return 3


@pytest.mark.parametrize("kind", ["levels", "spectral", "both"])
@pytest.mark.parametrize(("agg", "tile", "ranks"), [("median", None, 2), ("mean", 5, 5)])
def test_the_last_process_makes_what_the_draws_show_band_by_band(
    tmp_path, kind, agg, tile, ranks, bands
):
    smoothed = smoother(agg=agg, seed=5, tile=tile)
    order = [*range(1, ranks), 0]
    made = shared(tmp_path / "p", lambda parts: certified(smoothed, parts, kind=kind), ranks, order)
    assert len([*(tmp_path / "p").glob("*_band_?_?.npz")]) == bands * len(made.tiles)
    same(made, certified(smoothed, None, kind=kind), spectrum=1e-3)


@pytest.mark.parametrize("scale", [1, 3])
def test_processes_that_wait_for_each_other_share_the_bands(tmp_path, bands, scale):
    """In threads, since a test of processes would start Python twice."""
    smoothed, added, both = smoother(tile=None, seed=5), {0: [], 1: []}, Barrier(2)
    waits = []

    def together(_):
        waits.append(both.wait())

    class Told(Parts):
        def add(self, name, arrays):
            added[self.rank].append(name)
            super().add(name, arrays)

    def made(rank):
        try:
            return certified(smoothed, Told(tmp_path / "p", rank, 2, together), n=scale * 100)
        except NotLastError:
            return None

    with ThreadPoolExecutor(2) as pool:
        certificates = [each for each in pool.map(made, range(2)) if each]
    assert len(certificates) == 1
    assert sorted(waits) == [0, 0, 1, 1]  # once for the draws, once for the bands
    same(certificates[0], certified(smoothed, None, n=scale * 100), spectrum=1e-3)
    of_bands = [[name for name in names if "_band_" in name] for names in added.values()]
    assert [*map(len, of_bands)] == [2, 1]
    assert len({*of_bands[0], *of_bands[1]}) == bands


def test_bands_are_not_made_twice(tmp_path, bands, monkeypatch):
    smoothed, parts, real = smoother(tile=None, seed=5), Parts(tmp_path / "p", 1, 2), Parts.add
    with pytest.raises(NotLastError):
        certified(smoothed, Parts(tmp_path / "p", 0, 2))

    def killed(parts, name, arrays):
        if name.endswith("_band_0_1"):
            raise KeyboardInterrupt
        real(parts, name, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            certified(smoothed, parts)
    before = {*parts.folder.iterdir()}
    certificate = certified(smoothed, parts)
    new = {path.stem.partition("_")[2] for path in {*parts.folder.iterdir()} - before}
    assert new == {"band_0_1", "band_0_2", "band_0_0_last_of_2"}
    same(certificate, certified(smoothed, None), spectrum=1e-3)


def test_products_of_all_draws_are_no_more_than_the_draws():
    assert bands_of(300, 3 * 192**2) == 8
    for n, values in ((300, 19_000), (1000, 10_000), (5000, 3 * 512**2), (10, 640), (10, 639)):
        kept = 2 * n * bands_of(n, values)  # float64, of n * n products in each band
        assert bands_of(n, values) == 1 or kept <= values


def test_one_process_goes_on_with_the_draws_that_several_began(tmp_path, monkeypatch):
    smoothed = smoother(tile=None, seed=5)
    with pytest.raises(NotLastError):
        certified(smoothed, Parts(tmp_path / "p", 0, 2))
    before = {*(tmp_path / "p").iterdir()}
    made, real = [], DrawParts.make
    monkeypatch.setattr(DrawParts, "make", lambda *words: (made.append(words[1]), real(*words))[1])
    alone = certified(smoothed, Parts(tmp_path / "p"))
    assert len(made) == len({*(tmp_path / "p").iterdir()} - before) > 0
    assert not {path.stem for path in before} & {*made}
    same(alone, certified(smoothed, None))


def test_one_process_alone_keeps_no_draws(tmp_path):
    certified(smoother(tile=None), Parts(tmp_path / "p"))
    names = sorted(path.stem.split("_")[1] for path in (tmp_path / "p").iterdir())
    assert names == ["probe", "tile"]


def test_the_served_output_is_that_of_the_served_parts(tmp_path):
    """And not made once more by the process that joins them."""
    smoothed, parts = smoother(agg="median", tile=None), Parts(tmp_path / "p")
    certificate = shared(parts.folder, lambda parts: certified(smoothed, parts, kind="levels"))
    names = [path.stem for path in parts.folder.glob("*_served_draws_0_?.npy")]
    served = np.concatenate([parts.array(name) for name in names])
    assert len(served) == smoothed.n
    assert np.array_equal(certificate.sr_bytes[0], np.rint(255 * np.median(served, axis=0)))


def test_blocks_of_a_mean_tear_no_pair_apart(tmp_path):
    with pytest.raises(NotLastError):
        smoother(n=7, tile=None)(LR, parts=Parts(tmp_path, 0, 2))
    sizes = [len(Parts(tmp_path).array(path.stem)) for path in tmp_path.iterdir()]
    assert sizes == [2, 2]


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize(("agg", "n"), [("median", 21), ("mean", 7), ("p10", 20), ("median", 1)])
def test_a_served_output_is_shared(tmp_path, agg, n, tile):
    smoothed = smoother(agg=agg, n=n, tile=tile, seed=5)
    together = shared(tmp_path / "p", lambda parts: smoothed(LR, parts=parts))
    assert torch.allclose(together, smoothed(LR), atol=1e-6)
    assert not together.requires_grad


def test_outputs_of_other_inputs_and_seeds_are_not_joined(tmp_path):
    def made(smoothed, lr):
        with pytest.raises(NotLastError):
            smoothed(lr, parts=Parts(tmp_path / "p", 0, 2))
        return len([*(tmp_path / "p").iterdir()])

    first = made(smoother(seed=5), LR)
    assert made(smoother(seed=5), LR) == first
    assert made(smoother(seed=6), LR) == 2 * first
    assert made(smoother(seed=5), LR + 1 / 255) == 3 * first
    assert made(SmoothedSR(LinearSR(), 0.05, 3, "mean", seed=5), LR) > 3 * first


def sampler(tile, seed=1):
    network = LinearSR().requires_grad_(False)
    return Sampler(
        lambda patches, _: network(patches),
        LR,
        grid(7, 9, tile, 1),
        Noise(0.1, seed),
        Batching(3, False),
    )


def drawn(source, n):
    """The draws of each tile."""
    found = [*source.draws(n)]
    return [
        torch.cat([part for at, part in found if at == index]) for index in range(len(source.tiles))
    ]


@pytest.mark.parametrize(("n", "step"), [(1, 1), (7, 2), (65, 1), (129, 2), (1000, 1)])
@pytest.mark.parametrize("tile", [None, 3])
def test_blocks_are_all_draws_once(tmp_path, n, step, tile):
    kept = DrawParts(sampler(tile), n, Parts(tmp_path), "k", step)
    sizes = [kept.make(name) for name in kept.names]
    assert all(size % step == 0 for size in sizes if size != min(sizes))
    assert sum(sizes) == n * len(kept.tiles)
    for draws, expected in zip(drawn(kept, n), drawn(sampler(tile), n), strict=True):
        assert torch.allclose(draws, expected, atol=1e-6)


def test_fresh_blocks_differ(tmp_path):
    kept = DrawParts(sampler(None, seed=None), 4, Parts(tmp_path), "k")
    for name in kept.names:
        kept.make(name)
    assert len(drawn(kept, 4)[0].unique(dim=0)) == 4
    with pytest.raises(ValueError, match="4 draws are kept, asked for 5"):
        next(kept.draws(5))
