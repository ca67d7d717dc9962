"""The engine against a brute-force stack of the same noise, and its memory."""

import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from smoothsr.engine import draws, noise, quantiles
from smoothsr.engine.batching import Batching
from smoothsr.engine.noise import Noise
from smoothsr.engine.tiles import grid

SIGMA = 0.2


def f(patches: Tensor, sigma: Tensor) -> Tensor:
    """Enlarge by 2; each output value depends on its own pixel and the one to the left."""
    mixed = 0.7 * patches + 0.3 * patches.roll(1, -1)
    return mixed.clamp(0, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)


def image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))


def sampler(lr, tiles, seed, batch, f=f, sigma=SIGMA, antithetic=False) -> draws.Sampler:
    return draws.Sampler(
        f, lr, tiles, Noise(sigma, seed, antithetic), Batching(batch, batch is None)
    )


def ranks_of(source: draws.Sampler, n: int, ranks: list[int], **options) -> np.ndarray:
    observer = quantiles.Quantiles(n, ranks, source.lr)
    draws.observe(source, n, [observer], **options)
    return observer.result


def stack(
    lr: Tensor, tile: int | None, halo: int, n: int, seed: int, antithetic: bool = False
) -> Tensor:
    """All n outputs (n,C,2h,2w), by numpy's padding and one pass for each tile."""
    result = torch.empty(n, lr.shape[1], 2 * lr.shape[2], 2 * lr.shape[3])
    source = noise.source(seed, lr.device, lr.dtype, antithetic)
    for index, (rows, columns) in enumerate(grid(*lr.shape[2:], tile, halo)):
        real = lr[..., rows.first : rows.last, columns.first : columns.last]
        noisy = (real + SIGMA * source(index, range(n), (*real.shape[1:],))).numpy()
        before = [span.offset - (span.start - span.first) for span in (rows, columns)]
        after = [
            len(s.gather) - b - (s.last - s.first)
            for s, b in zip((rows, columns), before, strict=True)
        ]
        padded = np.pad(
            noisy, [(0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])], mode="reflect"
        )
        output = f(torch.from_numpy(padded), torch.tensor(SIGMA))
        inner = [slice(2 * s.offset, 2 * (s.offset + s.stop - s.start)) for s in (rows, columns)]
        outer = [slice(2 * s.start, 2 * s.stop) for s in (rows, columns)]
        result[..., outer[0], outer[1]] = output[..., inner[0], inner[1]]
    return result


CUTS = [
    (6, 5, None, 4),
    (6, 5, 4, 0),
    (7, 5, 3, 2),
    (2, 9, 4, 1),
    (3, 3, 8, 2),
    (5, 4, 2, 9),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize(("height", "width", "tile", "halo"), CUTS)
def test_smooth_and_quantiles_are_those_of_the_stack(height, width, tile, halo):
    lr, n = image(height, width), 7
    tiles = grid(height, width, tile, halo)
    expected = stack(lr, tile, halo, n, seed=3)
    for rank in (1, 4, 7):
        found = draws.smooth(sampler(lr, tiles, 3, 2), n, rank)
        assert torch.allclose(found, expected.sort(0).values[rank - 1 : rank], atol=1e-6)
    mean = draws.smooth(sampler(lr, tiles, 3, 3), n, None)
    assert torch.allclose(mean, expected.mean(0, keepdim=True), atol=1e-6)
    paired = draws.smooth(sampler(lr, tiles, 3, 3, antithetic=True), n, None)
    opposite = stack(lr, tile, halo, n, 3, antithetic=True).mean(0, keepdim=True)
    assert torch.allclose(paired, opposite, atol=1e-6)
    found = ranks_of(sampler(lr, tiles, 3, None), n, [7, 2])
    assert (found == expected.mul(255).round().byte().sort(0).values[[6, 1]].numpy()).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_draws_are_held_as_they_lie_in_memory(layout):
    outputs = torch.rand(5, 3, 6, 8).contiguous(memory_format=layout)
    found = draws._ranked(iter(outputs.split(2)), 5, 3)
    assert torch.equal(found[0], outputs.median(0).values)
    assert found.stride()[1:] == outputs.stride()[1:]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_histograms_give_what_kept_draws_give(channels, monkeypatch):
    lr, ranks = image(5, 7, channels), [1, 9, 20, 37]
    tiles = grid(5, 7, 4, 1)
    results = []
    for direct, batch in [(1024, 7), (37, 64), (36, 7), (36, 64), (10, 1), (1, 7)]:
        monkeypatch.setattr(quantiles, "DIRECT", direct)
        results.append(ranks_of(sampler(lr, tiles, 1, batch), 37, ranks))
    assert all((one == results[0]).all() for one in results)
    assert (
        results[0]
        == stack(lr, 4, 1, 37, 1).mul(255).round().byte().sort(0).values[[0, 8, 19, 36]].numpy()
    ).all()


def test_noise_goes_on_real_pixels_before_they_are_reflected():
    lr, seen = image(6, 5), []

    def spy(patches, sigma):
        seen.append(patches.clone())
        return f(patches, sigma)

    tiles = grid(6, 5, 4, 3)
    draws.smooth(sampler(lr, tiles, 0, 5, spy), 5, 3)
    assert [tile.padded for tile in tiles] == [True] * 4
    assert len(seen) == 4
    for tile, patches in zip(tiles, seen, strict=True):
        for axis, span in zip((2, 3), tile, strict=True):
            # Positions that show the same real pixel show the same noise: with noise on the padded
            # patch they would not.
            same = [span.gather.index(pixel) for pixel in span.gather]
            assert same != [*range(len(same))]
            assert torch.equal(patches, patches.index_select(axis, torch.tensor(same)))
        clean = lr[..., tile.rows.first : tile.rows.last, tile.columns.first : tile.columns.last]
        clean = clean[:, :, list(tile.rows.gather)][..., list(tile.columns.gather)]
        assert (patches - clean).std() == pytest.approx(SIGMA, rel=0.3)


def test_noise_is_not_clamped():
    seen = []

    def spy(patches, sigma):
        seen.append(patches.clone())
        return f(patches, sigma)

    dark = torch.zeros(1, 1, 8, 8)
    draws.smooth(sampler(dark, grid(8, 8, None, 0), 0, 9, spy, sigma=5.0), 9, 5)
    assert seen[0].min() < -5
    assert seen[0].max() > 5


@pytest.mark.parametrize("run", [draws.smooth, ranks_of])
def test_progress_counts_draws_over_all_tiles(run):
    calls = []
    rank = 5 if run is draws.smooth else [5]
    source = sampler(image(5, 5), grid(5, 5, 2, 1), None, 4)
    run(source, 9, rank, progress=lambda *c: calls.append(c))
    # Batches of four, cut where a tile ends.
    assert [done for done, _ in calls] == sorted({*range(4, 82, 4), *range(9, 82, 9)})
    assert {total for _, total in calls} == {81}


@pytest.mark.parametrize("n", [1, 2, 5, 21])
@pytest.mark.parametrize("batch", [1, 4, 64, None])
def test_batches_go_on_with_the_next_tile_and_draws_come_in_order(n, batch):
    """Each draw is what it is by itself, whatever it shares a batch with."""
    lr, tiles, sizes = image(7, 5), grid(7, 5, 3, 2), []

    def spy(patches, sigma):
        sizes.append(len(patches))
        return f(patches, sigma)

    found = [*sampler(lr, tiles, 3, batch, spy).draws(n)]
    order = [index for index, outputs in found for _ in outputs]
    assert order == [index for index in range(len(tiles)) for _ in range(n)]
    if batch:
        assert sizes[:-1] == [batch] * (len(sizes) - 1)
        assert len(sizes) == -(-n * len(tiles) // batch)
    one_by_one = [outputs for _, outputs in sampler(lr, tiles, 3, 1).draws(n)]
    flat = [output for _, outputs in found for output in outputs]
    for first, second in zip(flat, one_by_one, strict=True):
        torch.testing.assert_close(first[None], second)


def test_some_of_some_tiles_have_the_noise_that_they_have_among_all():
    tiles = grid(4, 9, 3, 1)
    every = sampler(image(4, 9), tiles, 5, 2)
    some = every.only([1, 3, 5]).only([2, 0])
    assert some.tiles == [tiles[5], tiles[1]]
    for index, place in enumerate((5, 1)):
        one = [outputs for at, outputs in some.draws(3) if at == index]
        other = [outputs for at, outputs in every.draws(3) if at == place]
        assert torch.equal(torch.cat(one), torch.cat(other))


def test_no_two_batches_are_kept():
    """Memory does not grow with the tiles, though a batch reaches over several of them."""
    alive, most = set[int](), []

    def watched(patches, sigma):
        outputs = f(patches, sigma)
        alive.add(len(most))
        weakref.finalize(outputs.untyped_storage(), alive.remove, len(most))
        most.append(len(alive))
        return outputs

    tiles = grid(16, 16, 2, 1)
    draws.smooth(sampler(image(16, 16), tiles, 0, 10, watched), 3, 2)
    assert len(most) == -(-len(tiles) * 3 // 10)
    assert max(most) == 2  # one batch, and the one before it, while it is made


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_gradients_flow_through_batches_that_tiles_share(rank, batch):
    lr, tiles = image(7, 5).double().requires_grad_(), grid(7, 5, 3, 1)
    weight = torch.linspace(-1, 1, 3 * 14 * 10, dtype=torch.float64).view(1, 3, 14, 10)
    gradients = []
    for size in (1, batch):
        output = draws.smooth(sampler(lr, tiles, 3, size, sigma=0.01), 3, rank)
        gradients += torch.autograd.grad((output * weight).sum(), lr)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


def test_no_two_tiles_draws_are_ever_alive(monkeypatch):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    class Watched(quantiles._Draws):
        def __init__(self, n, like):
            super().__init__(n, like)
            alive.add(self)
            most.append((len(alive), self.block.nbytes + self.histogram.nbytes))

    monkeypatch.setattr(quantiles, "_Draws", Watched)
    for n, size in [(100, 8), (1000, 8), (100, 24)]:
        most.clear()
        ranks_of(sampler(image(size, size, 1), grid(size, size, 4, 1), 0, 50), n, [1, n])
        assert len(most) == (size // 4) ** 2
        # The previous tile's draws are given back before this tile's first are kept, and they don't
        # grow with the image.
        assert most == [(1, n * 64)] * len(most)


@pytest.mark.parametrize("shape", [(9, 10), (3, 2), (12, 5), (6, 10), (0, 0)])
def test_output_must_be_an_integer_multiple(shape):
    def odd(patches, sigma):
        return patches.new_zeros(len(patches), 3, *shape)

    with pytest.raises(ValueError, match="integer multiple"):
        draws.smooth(sampler(image(6, 5), grid(6, 5, None, 0), 0, 3, odd), 3, 2)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="n must be at least 1"):
        ranks_of(sampler(image(2, 2), grid(2, 2, None, 0), 0, 1), 0, [1])
    with pytest.raises(ValueError, match="no draws"):
        ranks_of(sampler(image(2, 2), [], 0, 1), 3, [1])
