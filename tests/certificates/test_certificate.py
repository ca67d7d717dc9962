"""Bounds and radius maps that a Certificate derives from its levels, against the definitions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import LinearSR, allowed, gentle
from scipy.special import betaincinv, ndtr, ndtri
from synthetic_certificates import ALPHA, FRESH, SIGMA, Z, at, made, steps, trivial

from smoothsr import SmoothedSR, metrics
from smoothsr.certificates import check
from smoothsr.files import images

# Bounds


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.05, 0.13, 0.2, 0.2001, 7.0])
def test_ideal_bounds_are_the_next_level_up(radius):
    certificate = made()
    lower, upper = at(certificate, radius / SIGMA)
    found = certificate.bounds(radius, "ideal")
    assert found[0].dtype == torch.float32
    np.testing.assert_allclose(steps(found[0]), lower, atol=1e-4)
    np.testing.assert_allclose(steps(found[1]), upper, atol=1e-4)
    share = ((lower == 0) & (upper == 255)).mean()
    assert certificate.trivial_share(radius, "ideal") == pytest.approx(share)
    assert (share == 1) == (radius > 0.2)


@pytest.mark.parametrize(("per", "values"), [("value", 1), ("image", 240)])
@pytest.mark.parametrize("beta", [0.001, 0.3])
def test_served_bounds_add_the_median_s_own_spread(per, values, beta):
    certificate = made()
    spread = ndtri(1 - betaincinv(11, 11, beta / values / 2))
    for radius in (0.0, 0.03, 0.12):
        lower, upper = at(certificate, radius / SIGMA + spread)
        found = certificate.bounds(radius, "served", beta, per)
        np.testing.assert_allclose(steps(found[0]), lower, atol=1e-4)
        np.testing.assert_allclose(steps(found[1]), upper, atol=1e-4)


def test_output_that_is_not_rounded_may_be_half_a_step_further():
    certificate = made()
    for predictor in FRESH:
        lower, upper = certificate.bounds(0.05, predictor)
        wide_lower, wide_upper = certificate.bounds(0.05, predictor, rounded=False)
        torch.testing.assert_close(wide_lower, (lower - 1 / 510).clamp(0, 1), atol=1e-6, rtol=0)
        torch.testing.assert_close(wide_upper, (upper + 1 / 510).clamp(0, 1), atol=1e-6, rtol=0)
        assert (wide_lower < lower)[lower > 0].all()
        assert (wide_upper > upper)[upper < 1].all()


def test_bounds_never_narrow_with_the_radius():
    certificate = made()
    radii = np.linspace(0, 0.25, 26)
    pairs = [certificate.bounds(radius, "ideal") for radius in radii]
    for (lower, upper), (wider_lower, wider_upper) in pairwise(pairs):
        assert (wider_lower <= lower).all()
        assert (wider_upper >= upper).all()


def test_mean_bounds_are_the_weighted_quantiles():
    certificate = made(agg="mean", channels=1)
    for radius in (0.0, 0.04, 0.1, 0.3):
        lower, upper = certificate.bounds(radius, "ideal")
        for place in ((0, 0, 0), (0, 7, 9), (0, 3, 4)):
            # Half of the draws lie below the median, the slice between two levels below the higher,
            # the rest anywhere.
            high, low = (
                0.5 * at(certificate, radius / SIGMA)[1][place],
                0.5 * at(certificate, radius / SIGMA)[0][place],
            )
            for previous, z in pairwise(Z):
                weight = ndtr(z) - ndtr(previous)
                high += weight * at(certificate, z + radius / SIGMA)[1][place]
                low += weight * at(certificate, z + radius / SIGMA)[0][place]
            high += (1 - ndtr(Z[-1])) * 255
            # The draws were rounded, their mean was not, the output is.
            assert steps(upper)[place] == pytest.approx(min(255, high + 1), abs=1e-3)
            assert steps(lower)[place] == pytest.approx(max(0, low - 1), abs=1e-3)


def test_contains():
    certificate = made()
    lower, upper = certificate.bounds(0.05, "ideal")
    assert certificate.contains(lower, 0.05, "ideal")
    assert certificate.contains(
        upper.double() + 0.49 / 255, 0.05, "ideal"
    )  # the rounded output is inside
    for place in ((0, 0, 0, 0), (0, 2, 7, 9)):
        outside = upper.clone()
        outside[place] += 1 / 255
        assert not certificate.contains(outside, 0.05, "ideal")
        outside = lower.clone()
        outside[place] -= 1 / 255
        assert not certificate.contains(outside, 0.05, "ideal")
    missing = lower.clone()
    missing[0, 0, 0, 0] = torch.nan
    assert not certificate.contains(missing, 0.05, "ideal")
    assert certificate.contains(certificate.sr, 0.0)
    with pytest.raises(ValueError, match=r"output must be \(1, 3, 8, 10\), got \(3, 8, 10\)"):
        certificate.contains(upper[0], 0.05)


def test_max_radius_is_the_last_that_is_not_trivial():
    certificate = made()
    assert certificate.max_radius == pytest.approx(0.2)
    assert certificate.trivial_share(certificate.max_radius, "ideal") < 1
    assert certificate.trivial_share(certificate.max_radius * 1.0001, "ideal") == 1
    assert trivial().max_radius < 0
    assert trivial().trivial_share(0.0, "ideal") == 1


@pytest.mark.parametrize(
    ("predictor", "per"), [("ideal", "value"), ("served", "value"), ("served", "image")]
)
def test_draws_needed_is_the_smallest_number(predictor, per):
    smoothed = SmoothedSR(LinearSR(), SIGMA, batch_size=500)
    lr = gentle(0)
    needed = smoothed.certify(lr, n=500, alpha=ALPHA, levels=4).draws_needed(
        0.05, predictor, 0.01, per
    )
    for n, share in ((needed, 0.0), (needed - 1, 1.0)):
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=4)
        assert result.trivial_share(0.05, predictor, 0.01, per) == share


def test_draws_needed_answers_beyond_reason():
    assert made().draws_needed(1.0) > 1e20
    assert made().draws_needed(100.0) > 1e20


def test_too_few_draws_are_said_to_be():
    smoothed = SmoothedSR(LinearSR(), SIGMA)
    with pytest.warns(UserWarning, match="At least n=(\\d+) would do") as warned:
        result = smoothed.certify(gentle(0), n=9)
    needed = int(str(warned[0].message).split("n=")[1].split()[0])
    assert (
        needed == result.draws_needed(0.0, "ideal") == result.summary()["draws_needed_for_radius_0"]
    )
    lower, upper = result.bounds(0.0, "ideal")
    assert (lower.max(), upper.min()) == (0, 1)
    assert result.radius_map(0.1).isnan().all()
    assert result.psnr(0.0, torch.ones_like(result.sr)) == 0
    assert str(result.psnr(0.0, torch.ones_like(result.sr))) == "0.0"
    assert smoothed.certify(gentle(0), n=needed).max_radius >= 0


# Radius map


@pytest.mark.parametrize("centre", [None, 100])
@pytest.mark.parametrize("predictor", FRESH)
@pytest.mark.parametrize("tolerance", [3, 9, 30, 300])
def test_radius_map_is_the_largest_radius_that_holds(predictor, tolerance, centre):
    certificate = made()
    middle = (
        certificate.sr_bytes[0].astype(float)
        if centre is None
        else np.full((3, 8, 10), float(centre))
    )
    found = certificate.radius_map(
        tolerance / 255,
        predictor,
        0.05,
        center=None if centre is None else torch.full((1, 3, 8, 10), centre / 255),
    ).numpy()
    # All three channels of a pixel are to hold at once.
    used = ndtri(1 - betaincinv(11, 11, 0.05 / 3 / 2)) if predictor == "served" else 0.0
    assert found.shape == (8, 10)
    for row, column in np.ndindex(8, 10):
        radii = []
        for channel in range(3):
            best = np.nan
            for index, z in enumerate(Z):
                above = (
                    certificate.upper[index, channel, row, column] - middle[channel, row, column]
                )
                below = (
                    middle[channel, row, column] - certificate.lower[index, channel, row, column]
                )
                if max(above, below) <= tolerance and z >= used:
                    best = SIGMA * (z - used)
            radii.append(best)
        assert found[row, column] == pytest.approx(np.min(radii), nan_ok=True, rel=1e-6)
        if not np.isnan(found[row, column]):  # and the bounds agree
            pair = certificate.bounds(float(found[row, column]), predictor, 0.05 / 3)
            lower, upper = (steps(bound)[:, row, column] for bound in pair)
            assert (
                np.maximum(upper - middle[:, row, column], middle[:, row, column] - lower).max()
                <= tolerance + 1e-3
            )


def test_radius_map_of_the_mean_agrees_with_its_bounds():
    certificate = made(agg="mean")
    found = certificate.radius_map(22 / 255, "ideal")
    assert 0 < found.isnan().float().mean() < 1
    expected = np.full((8, 10), np.nan)
    for z in Z:
        away = [
            (bound - certificate.sr).abs()[0].amax(dim=0)
            for bound in certificate.bounds(SIGMA * z, "ideal")
        ]
        expected[torch.maximum(*away).numpy() <= 22.001 / 255] = SIGMA * z
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# One rounding


def half_steps():
    """Values next to the middle of two 8-bit steps, in float32 (1,1,15,17)."""
    return (torch.arange(255).add(0.5).double() / 255).float().view(1, 1, 15, 17)


def test_certificate_metrics_and_files_round_alike(tmp_path):
    lr = half_steps()
    certificate = SmoothedSR(torch.nn.Identity().eval(), 1e-12, 1).certify(lr, n=100, levels=2)
    images.write(tmp_path / "sr.png", images.Picture(lr))
    assert torch.equal(images.read(tmp_path / "sr.png").pixels, certificate.sr)
    assert metrics.psnr(certificate.sr, lr).item() == np.inf
    assert certificate.psnr(0.0, lr, predictor="ideal") == np.inf
    assert certificate.contains(lr, 0.0, "ideal")
    verdict = check.judge(certificate, 0 * lr, lr)
    assert int(verdict.outside.sum()) == 0


def test_bounds_of_unrounded_output_hold_every_value_that_rounds_to_them():
    step = torch.arange(255, dtype=torch.float64)
    middle = ((step + 0.5) / 255).float()
    beside = [middle]
    for _ in range(3):
        up, down = torch.ones(255), torch.zeros(255)
        beside = [
            torch.nextafter(beside[0], down),
            *beside,
            torch.nextafter(beside[-1], up),
        ]
    values = torch.cat([*beside, torch.tensor([0.0, 1.0])]).view(1, 1, 1, -1)
    values = torch.cat([values.double(), values.double() * (1 + 1e-9)], dim=2).clamp(0, 1)
    sr = metrics.to_8bit(values).byte().numpy()
    certificate = made(sr_bytes=sr, upper=np.repeat(sr, 5, 0), lower=np.repeat(sr, 5, 0))
    lower, upper = certificate.bounds(0.0, "ideal", rounded=False)
    assert (lower <= values).all()
    assert (values <= upper).all()


def test_certified_psnr_is_never_above_the_metrics():
    """In the last bit: the metric's value of the worst output is attained, by either sum."""
    for seed in range(20):
        certificate, reference = made(seed), made(seed + 100).sr
        lower, upper = certificate.bounds(0.05, "ideal")
        worst = torch.where(reference - lower > upper - reference, lower, upper)
        certified = certificate.psnr(0.05, reference, "box", "ideal")
        assert certified <= metrics.psnr(worst, reference).item() <= certified + 1e-8


@pytest.mark.parametrize("steps", [1, 3, 8, 86, 127, 254])
def test_radius_map_counts_whole_steps(steps):
    """A tolerance of k/255 is k steps; one that is less by any bit is not, nor a centre between."""
    sr = np.zeros((1, 1, 4, 5), np.uint8)
    bounds = np.full((5, 1, 4, 5), steps, np.uint8)
    certificate = made(
        sr_bytes=sr, upper=bounds, lower=np.zeros_like(bounds), lr_shape=(1, 4, 5), tile=None
    )
    assert (certificate.radius_map(steps / 255, "ideal") > 0).all()
    assert certificate.radius_map(np.nextafter(steps / 255, 0), "ideal").isnan().all()
    assert certificate.radius_map((steps - 5e-5) / 255, "ideal").isnan().all()
    assert (certificate.radius_map(float("inf"), "ideal") > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_all_channels_of_a_pixel_stay_with_probability_beta(channels):
    """Medians of 21 draws around .5, bounds that are the exact quantiles, the least tolerance."""
    z, beta = np.linspace(0, 2, 401), 0.1
    shape = (channels, 4, 5)
    upper = np.ceil(127.5 + 255 * SIGMA * z).clip(0, 255).astype(np.uint8)
    upper = np.broadcast_to(upper[:, None, None, None], (401, *shape))
    certificate = made(
        z=z,
        sr_bytes=np.full((1, *shape), 127, np.uint8),
        upper=upper,
        lower=254 - upper,
        lr_shape=shape,
        tile=None,
    )
    draws = np.random.default_rng(0).standard_normal((20000, channels, 21))
    served = metrics.to_8bit(torch.from_numpy(0.5 + SIGMA * np.median(draws, axis=2))).numpy()
    held = [
        tolerance
        for tolerance in range(1, 40)
        if not certificate.radius_map(tolerance / 255, "served", beta).isnan().any()
    ]
    outside = (np.abs(served - 127) > held[0]).any(axis=1).sum()
    assert allowed(20000, beta / 4) < outside <= allowed(20000, beta)  # and little is given away


# What is looked up


def test_contains_speaks_of_the_whole_image_unless_told():
    certificate = made()
    upper = certificate.bounds(0.0, "served", 0.3, "image")[1]
    inner = certificate.bounds(0.0, "served", 0.3, "value")[1]
    assert (upper > inner).any()
    assert certificate.contains(upper, 0.0, "served", 0.3)
    assert not certificate.contains(upper, 0.0, "served", 0.3, per="value")
