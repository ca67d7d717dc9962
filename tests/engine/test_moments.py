"""Moments of draws against their definitions, whichever matrix they are taken of."""

import gc
import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from smoothsr.engine import moments
from smoothsr.engine.batching import Batching
from smoothsr.engine.draws import Sampler, observe
from smoothsr.engine.moments import (
    BandMoments,
    Centre,
    Moments,
    MomentSum,
    _lengths,
    mean_of,
    moments_of_band,
    moments_of_tile,
    pilot,
)
from smoothsr.engine.noise import Noise
from smoothsr.engine.tiles import grid


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def summed(draws, centre, batch=7):
    sums = MomentSum(centre, len(draws))
    for part in draws.split(batch):
        sums.add(part)
    return sums.result()


def shortened(draws, centre):
    """Z of each draw, and how far draws lie beyond the radius in all."""
    offsets = draws.double() - centre.values
    lengths = offsets.norm(dim=1, keepdim=True)
    beyond = (lengths - centre.radius).clamp_min(0).sum().item()
    return offsets * (centre.radius / lengths).clamp_max(1), beyond


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (1, 3), (3, 1), (60, 30)])
@pytest.mark.parametrize("block", [8, 1024])
def test_moments_are_those_of_shortened_draws(shape, dtype, block, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", block)
    draws = uniform(*shape, dtype=dtype)
    size = math.sqrt(shape[1])
    centre = Centre(torch.full((shape[1],), 0.4, dtype=torch.float64), 0.3 * size, 0.6 * size, 1)
    z, beyond = shortened(draws, centre)
    top, clipped, fourth = summed(draws, centre)
    exact = torch.linalg.eigvalsh(z.T @ z)[-1].item() / len(draws)
    assert exact <= top * (1 + 1e-12)
    assert top <= 1.01 * exact
    assert fourth == pytest.approx((z.norm(dim=1) ** 4).sum().item(), rel=1e-5)
    assert clipped == pytest.approx(beyond / (0.3 * size), rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(5, 40), (40, 5), (40, 40)])
def test_the_smaller_matrix_is_made_and_rounding_counts_its_sums(n, m, monkeypatch):
    """Products of draws are sums over values, and second moments of values are sums over draws."""
    seen = []
    matrices, rounding = moments.largest_eigenvalue, moments._rounding
    monkeypatch.setattr(
        moments, "largest_eigenvalue", lambda matrix: seen.append(len(matrix)) or matrices(matrix)
    )
    monkeypatch.setattr(
        moments, "_rounding", lambda terms, dtype: seen.append(terms) or rounding(terms, dtype)
    )
    summed(uniform(n, m), Centre(torch.full((m,), 0.4, dtype=torch.float64), 1.0, 2.0, 1))
    assert seen == [max(n, m), min(n, m)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cuts", [(0, 5, 12), (0, 3, 7, 7, 12), (0, 12)])
def test_bands_together_are_the_whole(cuts, dtype):
    """Of draws some of which lie beyond the radius, and of an empty band."""
    draws = 0.4 + 0.2 * uniform(40, 3, 12, 5, dtype=dtype)
    draws[15:20] += 0.25
    pilots = 9
    bands = [moments_of_band(draws[:, :, a:b].clone(), pilots) for a, b in pairwise(cuts)]
    whole = reduce(BandMoments.and_of, bands)
    assert whole.rounding == max(float(band.rounding) for band in bands) > 0
    found = moments_of_tile(whole)
    centre = pilot(draws[:pilots].flatten(1))
    expected = [*centre[1:], *summed(draws[pilots:].flatten(1), centre)]
    assert expected[4] > 0.1  # clipped
    # The bound of rounding errors is smaller for shorter sums.
    assert found == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 1e-9)
    z = shortened(draws[pilots:].flatten(1), centre)[0]
    assert found[3] >= torch.linalg.eigvalsh(z.T @ z)[-1].item() / len(z) * (1 - 1e-12)


def test_the_top_of_bands_allows_for_rounding():
    """By a share of the trace, as the top of draws that one process has."""
    draws = 0.4 + 0.2 * uniform(30, 20, dtype=torch.float32)
    band = moments_of_band(draws.clone(), 10)
    exact = moments_of_tile(band._replace(rounding=np.array(0.0)))
    trace = shortened(draws[10:], pilot(draws[:10]))[0].square().sum().item()
    assert band.rounding == pytest.approx(28 * 2**-24)  # of 20 terms
    allowed = moments_of_tile(band)[3] - exact[3]
    assert allowed == pytest.approx(float(band.rounding) * trace / 20, rel=1e-4)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_the_mean_is_of_all_draws(n):
    draws = uniform(n, 3, 5, dtype=torch.float32)
    found = mean_of(draws)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, draws.double().mean(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("values", [0, 1, 1000, 2**18 - 1, 2**18 + 1])
def test_lengths_are_of_all_values(values):
    rows = uniform(7, values, dtype=torch.float32)
    expected = rows.double().square().sum(1).sqrt()
    torch.testing.assert_close(_lengths(rows), expected, rtol=1e-12, atol=0)


def test_draws_that_are_all_alike_have_bands_too():
    found = moments_of_tile(moments_of_band(torch.full((6, 8), 0.5), 2))
    assert found[3:] == pytest.approx([0, 0, 0])


def test_pilot_of_draws_at_full_reach_never_clips():
    draws = torch.eye(2, dtype=torch.float64)
    centre = pilot(draws)
    assert centre.radius == pytest.approx(centre.reach)
    assert summed(draws, centre)[1] == pytest.approx(0, abs=1e-12)


def test_pilot_fixes_mean_radius_reach_and_weight():
    draws = uniform(50, 12)
    centre = pilot(draws)
    distances = (draws - draws.mean(0)).norm(dim=1)
    torch.testing.assert_close(centre.values, draws.mean(0), rtol=1e-12, atol=0)
    assert centre.radius == pytest.approx(1.25 * distances.max().item())
    assert centre.weight == pytest.approx((distances**4).mean().item() ** -0.5)
    farthest = torch.maximum(draws.mean(0), 1 - draws.mean(0)).norm().item()
    assert centre.reach == pytest.approx(farthest)


def f(patches, sigma):
    return patches.clamp(0, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_an_image_has_a_row_for_each_tile_and_pilots_are_used_for_nothing_else(batch):
    lr, n, pilots = uniform(1, 3, 5, 6, dtype=torch.float32), 30, 10
    tiles = grid(5, 6, 3, 1)
    sampler = Sampler(f, lr, tiles, Noise(0.2, 3), Batching(batch, False))
    observer = Moments(n, pilots, (5, 6))
    observe(sampler, n, [observer])
    assert observer.mean.shape == (1, 3, 10, 12)
    assert observer.tiles.n == n - pilots
    for index, tile in enumerate(tiles):
        draws = torch.cat([outputs for at, outputs in sampler.draws(n) if at == index])
        centre = pilot(draws[:pilots].flatten(1))
        row = [array[index] for array in observer.tiles[1:]]
        assert row[:3] == pytest.approx([centre.radius, centre.reach, centre.weight])
        assert row[3:] == pytest.approx(summed(draws[pilots:].flatten(1), centre), rel=1e-3)
        down, across = (slice(2 * span.start, 2 * span.stop) for span in tile)
        assert np.allclose(observer.mean[0, :, down, across], draws[pilots:].mean(0), atol=1e-6)


def test_tiles_are_in_the_order_of_the_grid_whichever_ended_first():
    tiles = grid(4, 6, 2, 1)
    observers = [Moments(3, 1, (4, 6)) for _ in range(2)]
    for observer, order in zip(observers, (tiles, tiles[::-1]), strict=True):
        for tile in order:
            row = np.full(6, 1.0 + tiles.index(tile))
            observer.put(tile, row, np.zeros((1, 4, 4), np.float32))
    for one, other in zip(*(observer.tiles for observer in observers), strict=True):
        assert np.array_equal(one, other)
    assert observers[1].tiles.top.tolist() == [1, 2, 3, 4, 5, 6]


def test_nothing_of_a_tile_is_kept_but_numbers():
    """Tensors that stay, however small, keep memory that grows with the tiles."""

    def tensors() -> int:
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    counts = list[int]()

    class Counted(Moments):
        def finish(self, tile):
            super().finish(tile)
            counts.append(tensors())

    lr = uniform(1, 3, 8, 8, dtype=torch.float32)
    sampler = Sampler(f, lr, grid(8, 8, 2, 1), Noise(0.2, 3), Batching(10, False))
    observe(sampler, 20, [Counted(20, 5, (8, 8))])
    assert len(counts) == 16
    assert counts[-1] <= counts[1]


@pytest.mark.parametrize("pilots", [0, 30, 31])
def test_some_draws_must_be_pilots_and_some_not(pilots):
    with pytest.raises(ValueError, match="pilots must be from 1 to n - 1 = 29"):
        Moments(30, pilots, (5, 6))


def test_nothing_drawn_is_an_error():
    observer = Moments(3, 1, (2, 2))
    with pytest.raises(ValueError, match="no draws"):
        observer.mean  # noqa: B018
    with pytest.raises(ValueError, match="before its certification draws"):
        observer.finish(grid(2, 2, None, 0)[0])


def test_half_of_a_product_is_all_that_rounding_may_lose():
    """A float32 Gram matrix is wider than the same in float64 by no more than its rounding."""
    draws = uniform(50, 3000)
    centre = pilot(uniform(20, 3000, seed=1))
    exact, rounded = summed(draws, centre)[0], summed(draws.float(), centre)[0]
    assert rounded == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("given", [4, 6])
def test_exactly_the_draws_that_were_told_must_come(given):
    sums = MomentSum(pilot(uniform(5, 3)), 5)
    with pytest.raises(ValueError, match=f"there must be 5 draws, got {given}"):
        sums.add(uniform(given, 3)) or sums.result()


def test_long_draws_are_summed_in_chunks_that_lose_little():
    draws = 0.5 + 0.1 * (uniform(6, 50_000) - 0.5)
    centre = pilot(draws)
    exact, rounded = summed(draws, centre)[0], summed(draws.float(), centre)[0]
    assert exact <= rounded * (1 + 1e-9)
    assert rounded <= 1.01 * exact


def rounded_to(bits):
    def rounded(factor):
        mantissa, exponent = factor.to_dense().frexp()
        return torch.ldexp((2**bits * mantissa).round() / 2**bits, exponent)

    return lambda first, second: linear(rounded(first), rounded(second)).to_mkldnn()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("bits", [8, 11])  # bfloat16 and tf32
@pytest.mark.parametrize("made", ["random", "to deceive"])
def test_where_torch_rounds_factors_products_are_float64(bits, made, monkeypatch):
    rows = uniform(80, 90, dtype=torch.float32) if made == "random" else deceiving()
    exact = rows.double() @ rows.double().T
    assert (moments._gram(rows) - exact).abs().max() > 1e-9
    assert moments._gram(rows).sub(exact).abs().max() < 1e-4 * exact.max()
    monkeypatch.setattr(moments, "linear", rounded_to(bits))
    torch.testing.assert_close(moments._gram(rows), exact, rtol=1e-12, atol=1e-12)


def deceiving():
    """Rows of which the errors of bfloat16 cancel in their lengths, and in no other product."""
    signs = 2.0 * (uniform(32, 2044, dtype=torch.float32) < 0.5) - 1
    up, down = (0.25 * (1 + part * 2**-8) for part in (0.98, 1.02))
    return torch.cat([torch.full((32, 2052), up), down * signs], dim=1)


@pytest.mark.parametrize("values", [100, 5000, 200_000])
@pytest.mark.parametrize("rows", [60, 1])
def test_float32_is_precise_enough(rows, values, monkeypatch):
    """Else products would be made twice, and take twice the memory."""
    draws = uniform(rows, values, dtype=torch.float32) - 0.5
    stripes, made = moments._by_stripes, []
    monkeypatch.setattr(moments, "_by_stripes", lambda x: made.append(x.dtype) or stripes(x))
    moments._gram(draws)
    assert made == [torch.float32]


def test_products_are_those_of_rows_with_or_without_onednn(monkeypatch):
    first, second = uniform(7, 90, dtype=torch.float32), uniform(90, 30, dtype=torch.float32).T
    exact = first.double() @ second.double().T
    for available in {torch.backends.mkldnn.is_available(), False}:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda value=available: value)
        found = moments._products(first, second).double()
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=0)


def test_autocast_is_for_the_network_alone():
    rows = uniform(80, 100, dtype=torch.float32)
    centre = pilot(rows[:20])
    expected = summed(rows[20:], centre)
    with torch.autocast("cpu", torch.bfloat16):
        assert summed(rows[20:], centre) == expected
