"""Larger noise in the halo: what a change of a patch counts for, against known truth."""

import math

import pytest
import torch
from oracles import LinearSR, allowed, gentle, truth
from scipy.special import ndtr
from torch import nn

from smoothsr import SmoothedSR
from smoothsr.certificates.check import _patch_norm, bounds_under
from smoothsr.certificates.spectral_error import attack
from smoothsr.engine import draws
from smoothsr.engine.batching import Batching
from smoothsr.engine.noise import Noise
from smoothsr.engine.tiles import grid, multiplicity

SIGMA, ALPHA, TRIALS = 0.05, 0.1, 300


class Keen(nn.Module):
    """1 on patches where the sum of values over the variances of their noise exceeds that of .5:
    no other function of a patch tells a uniform change so well.
    """

    def __init__(self, tile, halo, halo_noise):
        super().__init__()
        side = tile + 2 * halo
        weight = torch.full((side, side), 1 / halo_noise**2)
        weight[halo : halo + tile, halo : halo + tile] = 1
        self.weight = nn.Parameter(weight / weight.sum())
        self.eval()

    def forward(self, x, sigma=None):
        told = (x * self.weight).sum(dim=(1, 2, 3), keepdim=True) > 0.5
        return told.to(x.dtype).expand_as(x)


@pytest.mark.parametrize("halo_noise", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("on_lattice", [False, True])
def test_the_noise_that_is_added_is_the_noise_that_is_counted(halo_noise, on_lattice):
    """The keenest network's tile in the middle flips as often as its shift says, to 4 standard
    deviations.
    """
    n, change, (tile,) = 4000, 1 / 255, grid(6, 6, 2, 2)[4:5]
    shift = attack(change / SIGMA, "linf", 1, [tile], halo_noise).shift
    lr = torch.full((1, 1, 6, 6), 128 / 255)
    level = (128 / 255 - 0.5) / change
    for steps in (level, level + 1):
        how = Noise(SIGMA, on_lattice=on_lattice, halo_noise=halo_noise)
        net = Keen(2, 2, halo_noise)
        changed = lr + (steps - level) * change
        sampler = draws.Sampler(net, changed, [tile], how, Batching(500, False))
        share = sum(float(part[:, 0, 0, 0].sum()) for _, part in sampler.draws(n)) / n
        expected = ndtr(steps * shift)
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("halo_noise", [1.0, 1.5, 3.0])
@pytest.mark.parametrize(("tile", "halo"), [(2, 1), (3, 2), (2, 3)])
def test_squared_shifts_of_all_patches_add_up_to_no_more_than_m(tile, halo, halo_noise):
    tiles = grid(7, 8, tile, halo)
    most = multiplicity(tiles, halo_noise)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.eye(56).view(56, 1, 7, 8)
    changes = torch.randn(20, 1, 7, 8, generator=generator)
    sums = [
        sum(patch_norm(change, each, halo_noise) ** 2 for each in tiles)
        / change.square().sum().item()
        for change in torch.cat([pixels, changes])
    ]
    assert max(sums) == pytest.approx(most)
    for each in tiles:
        counted = each.weight(halo_noise)
        assert counted == pytest.approx(patch_norm(torch.ones(1, 7, 8), each, halo_noise) ** 2)
        assert _patch_norm(changes[0], each, halo_noise) == pytest.approx(
            patch_norm(changes[0], each, halo_noise)
        )
    # Patches at the edge hold less of the image; the largest counts.
    largest = max(patch_norm(torch.ones(1, 7, 8), each, halo_noise) for each in tiles)
    assert attack(0.5, "linf", 3, tiles, halo_noise).shift == pytest.approx(
        0.5 * math.sqrt(3) * largest
    )


def patch_norm(change, tile, halo_noise):
    noise = torch.full_like(change, halo_noise)
    rows, columns = tile
    noise[..., rows.start : rows.stop, columns.start : columns.stop] = 1
    told = (change / noise)[..., rows.first : rows.last, columns.first : columns.last]
    return told.double().norm().item()


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_certificates_hold_and_are_close(agg):
    net = LinearSR(channels=1)
    exact = truth(net, (1, 1, 6, 6), 2, 1)
    singular = torch.linalg.svd(exact.jacobian)
    sign = singular.Vh[0].sign()
    wrong = {"l2": 0, "linf": 0, "values": 0}
    for seed in range(TRIALS):
        smoothed = SmoothedSR(net, SIGMA, 21, agg, tile=2, halo=1, halo_noise=2.0)
        kind = "spectral" if agg == "mean" else "levels"
        found = smoothed.certify(gentle(seed, side=6), n=100, alpha=ALPHA, kind=kind)
        if agg == "mean":
            moved = {"l2": singular.S[0], "linf": (exact.jacobian @ sign).norm()}
            for norm, gain in moved.items():
                radius = 0.1 * SIGMA
                bound = found.deviation(radius, norm) * math.sqrt(144)
                wrong[norm] += bound < gain * radius
                assert bound < 12 * gain * radius
            continue
        change = 0.3 * SIGMA * singular.Vh[0].view(1, 1, 6, 6)
        lower, upper = bounds_under(found, change, "ideal")
        output = exact.output(gentle(seed, side=6) + change) / 255
        wrong["values"] += bool(((output < lower - 0.002) | (output > upper + 0.002)).any())
    assert max(wrong.values()) <= allowed(TRIALS, ALPHA)


def test_a_whole_image_has_no_halo():
    smoothed = SmoothedSR(LinearSR(channels=1), SIGMA, 21, "mean", halo_noise=2.0)
    found = smoothed.certify(gentle(0), n=100, alpha=ALPHA, kind="spectral")
    assert found.halo_noise == 1


@pytest.mark.parametrize("halo_noise", [0.5, float("nan"), float("inf"), 0])
def test_less_noise_than_sigma_is_refused(halo_noise):
    with pytest.raises(ValueError, match="halo_noise must be at least 1"):
        SmoothedSR(LinearSR(), SIGMA, halo_noise=halo_noise)
