"""Certified PSNR against the definitions: the box, the shared budget, l2 and linf, ideal and
served.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import LinearSR, gentle
from scipy.special import betaincinv, ndtri
from synthetic_certificates import FRESH, SIGMA, Z, at, db, error, made, steps

from smoothsr import SmoothedSR, metrics
from smoothsr.certificates import quantile_bounds


@pytest.mark.parametrize("predictor", FRESH)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_psnr_is_infinite_where_every_bound_is_the_reference(predictor, norm):
    sr = made().sr_bytes
    exact = made(upper=np.repeat(sr, 5, axis=0), lower=np.repeat(sr, 5, axis=0))
    if predictor == "ideal":
        assert exact.psnr(0.01, predictor=predictor, norm=norm) == np.inf
    else:  # the median of 21 has a tail beyond every level
        assert 40 < exact.psnr(0.001, predictor=predictor, norm=norm) < np.inf
    assert (
        exact.psnr(0.01, exact.sr.double() + 1e-4, predictor="ideal") == np.inf
    )  # rounded to 8 bits, as metrics do
    assert exact.psnr(0.01, (exact.sr + 1 / 255), predictor="ideal") == pytest.approx(
        db(1 / 255**2)
    )


def test_psnr_agrees_with_the_metric_s_reference():
    certificate = made()
    reference = torch.rand(
        certificate.sr.shape, generator=torch.Generator().manual_seed(0)
    )  # between 8-bit steps
    lower, upper = certificate.bounds(0.05, "ideal")
    worst = torch.where(
        (reference * 255).round() / 255 - lower > upper - (reference * 255).round() / 255,
        lower,
        upper,
    )
    assert certificate.psnr(0.05, reference, "box", "ideal") == pytest.approx(
        metrics.psnr(worst, reference).item(), abs=1e-4
    )


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.07, 0.2, 0.3])
@pytest.mark.parametrize("agg", ["median", "mean"])
def test_box_is_the_mean_of_the_largest_errors(radius, agg):
    certificate = made(agg=agg)
    reference = made(seed=5).sr
    lower, upper = (steps(bound) for bound in certificate.bounds(radius, "ideal"))
    y = steps(reference)
    expected = np.maximum((upper - y) ** 2, (y - lower) ** 2).mean() / 255**2
    assert certificate.psnr(radius, reference, "box", "ideal") == pytest.approx(
        db(expected), abs=1e-3
    )


@pytest.mark.parametrize("border", [0, 2, 3])
def test_box_in_luma_without_border(border):
    certificate = made()
    reference = made(seed=5).sr
    inside = slice(border, -border or None)
    for radius in (0.03, 0.12):
        lower, upper = (luma(steps(bound)) for bound in certificate.bounds(radius, "ideal"))
        y = luma(steps(reference))
        errors = np.maximum((upper - y) ** 2, (y - lower) ** 2)[inside, inside]
        found = certificate.psnr(radius, reference, "box", "ideal", y=True, border=border)
        assert found == pytest.approx(db(errors.mean()), abs=1e-3)
        errors = error(certificate, radius / SIGMA, steps(reference))[:, inside, inside]
        found = certificate.psnr(radius, reference, "box", "ideal", border=border)
        assert found == pytest.approx(db(errors.mean()), abs=1e-3)


def luma(image):
    return (65.481 * image[0] + 128.553 * image[1] + 24.966 * image[2]) / 255**2


@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize("method", ["collective", "box"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    ("agg", "predictor"), [("median", "served"), ("median", "ideal"), ("mean", "ideal")]
)
@pytest.mark.parametrize("z", [Z, np.array([0, 0.1, 0.9, 1, 2])], ids=["even", "uneven"])
def test_a_curve_is_the_psnr_at_each_radius(z, agg, predictor, norm, method, y):
    certificate, reference = made(agg=agg, z=z), made(seed=5).sr
    radii = [0.07, 0.0, 0.3, 0.0500001, 0.05, 0.07, 0.001]
    options = {"method": method, "predictor": predictor, "norm": norm, "y": y, "border": 1}
    alone = [certificate.psnr(radius, reference, **options) for radius in radii]
    assert certificate.psnr_curve(radii, reference, **options) == pytest.approx(alone, abs=1e-9)
    assert certificate.psnr_curve(np.array(radii), reference, **options) == pytest.approx(alone)
    assert len(set(alone)) > 2


def test_a_curve_takes_radii():
    with pytest.raises(ValueError, match="at least one radius"):
        made().psnr_curve([])
    with pytest.raises(ValueError, match="radius must be finite and at least 0, got -1"):
        made().psnr_curve([0.1, -1.0])


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize("predictor", FRESH)
@pytest.mark.parametrize("seed", range(3))
def test_collective_is_at_least_the_box_and_falls_with_the_radius(predictor, y, border, seed):
    certificate = made(seed)
    radii = (0.0, 0.01, 0.05, 0.0500001, 0.08, 0.15, 0.2, 0.21, 0.5)
    shared = [certificate.psnr(radius, predictor=predictor, y=y, border=border) for radius in radii]
    boxes = [
        certificate.psnr(radius, None, "box", predictor, y=y, border=border) for radius in radii
    ]
    assert all(a >= b - 1e-9 for a, b in zip(shared, boxes, strict=True))
    assert shared[0] == pytest.approx(boxes[0])
    assert border or any(a > b + 0.1 for a, b in zip(shared, boxes, strict=True))
    for found in (shared, boxes):
        assert all(a >= b - 1e-6 for a, b in pairwise(found))


def test_collective_is_above_no_way_to_share_the_budget():
    certificate, radius = made(), 0.11
    y = certificate.sr_bytes[0].astype(float)
    steps_below = SIGMA * Z
    levels = np.append(steps_below[steps_below < radius], radius)
    blocks = [
        error(certificate, e / SIGMA, y)[:, rows, columns].sum()
        for e in levels
        for rows, columns, _ in tiles_by_hand()
    ]
    table = np.reshape(blocks, (len(levels), 6))
    # An error at a level needs no more than just over the level before.
    costs = np.concatenate([[0.0, 0.0], levels[1:-1]]) ** 2
    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(20000):
        choice = generator.integers(0, len(levels), 6)
        if costs[choice].sum() <= 4 * radius**2:
            worst = max(worst, table[choice, range(6)].sum())
    mse = 10 ** (-certificate.psnr(radius, predictor="ideal") / 10)
    assert worst / y.size <= mse + 1e-12
    # The dual's minimum over a fine grid of prices is no lower than the one found.
    prices = np.linspace(0, 2000, 20001)
    paid = prices[:, None, None] * costs[None, :, None]
    dual = prices * 4 * radius**2 + (table[None] - paid).max(axis=1).sum(axis=1)
    assert mse * y.size == pytest.approx(dual.min(), rel=1e-3)
    assert mse * y.size <= dual.min() + 1e-9


def tiles_by_hand():
    """Output rows and columns of each tile of a 4x5 image at tile 2, and how many pixels its patch
    with halo 1 reads.
    """
    rows = [(slice(0, 4), 3), (slice(4, 8), 3)]
    columns = [(slice(0, 4), 3), (slice(4, 8), 4), (slice(8, 10), 2)]
    return [(row, column, high * wide) for row, high in rows for column, wide in columns]


@pytest.mark.parametrize("change", [0.0, 0.004, 0.01, 0.03, 0.05])
def test_linf_gives_each_patch_its_own_radius(change):
    certificate = made()
    y = steps(made(seed=5).sr)
    total = sum(
        error(certificate, change * np.sqrt(3 * pixels) / SIGMA, y)[:, rows, columns].sum()
        for rows, columns, pixels in tiles_by_hand()
    )
    found = certificate.psnr(change, made(seed=5).sr, predictor="ideal", norm="linf")
    assert found == pytest.approx(db(total / y.size), abs=1e-3)
    box = error(certificate, change * np.sqrt(60) / SIGMA, y).mean()
    assert certificate.psnr(change, made(seed=5).sr, "box", "ideal", "linf") == pytest.approx(
        db(box), abs=1e-3
    )


@pytest.mark.parametrize("radius", [0.0, 0.03, 0.12])
def test_served_psnr_is_of_the_expected_error(radius):
    certificate = made()
    y = certificate.sr_bytes[0].astype(float)
    # The served median is a random quantile; its bounds at exact levels, and at levels half a unit
    # (a bin) further out.
    z = ndtri(betaincinv(11, 11, (np.arange(500) + 0.5) / 500))

    def expected(bin_width):
        total = 0.0
        for strayed in z:
            upper = at(certificate, max(0.0, radius / SIGMA + strayed + bin_width))[1]
            lower = at(certificate, max(0.0, radius / SIGMA - strayed + bin_width))[0]
            total += np.maximum((upper - y) ** 2, (y - lower) ** 2).mean() / 255**2 / len(z)
        return total

    found = 10 ** (-certificate.psnr(radius, method="box") / 10)
    assert expected(0.0) * 0.999 <= found <= expected(0.5) * 1.001


def test_served_psnr_is_lower_than_the_ideal_one():
    smoothed = SmoothedSR(LinearSR(channels=3), SIGMA, tile=2, halo=1, batch_size=1000)
    result = smoothed.certify(gentle(0, 3), void_guarantee_seed=0)
    for radius in (0.0, 0.05, 0.1, 0.15):
        for y in (False, True):
            assert result.psnr(radius, y=y) < result.psnr(radius, predictor="ideal", y=y)


def test_few_draws_make_no_masses_of_bins():
    tiny = made(z=1e-7 * np.arange(5))
    assert 0 < tiny.psnr(0.0) < tiny.psnr(0.0, predictor="ideal")


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("n", [1, 21])
@pytest.mark.parametrize("method", ["box", "collective"])
def test_served_error_is_the_sum_over_bins(method, n, border):
    """Bin by bin and value by value; in luma, root mean squares of a tile's channels add."""
    certificate = made(n_serve=n, sides=(5, 5), tile=3)
    y = steps(made(seed=5, sides=(5, 5)).sr)
    radius = 0.07
    weights, up, down = quantile_bounds.served_bins(n, Z)

    def errors(shift):
        total = 0.0
        for weight, above, below in zip(weights, up, down, strict=True):
            upper = at(certificate, max(0.0, shift + above))[1]
            lower = at(certificate, max(0.0, shift + below))[0]
            total = total + weight * np.maximum((upper - y) ** 2, (y - lower) ** 2) / 255**2
        return total[:, border : 10 - border, border : 10 - border]

    reference = made(seed=5, sides=(5, 5)).sr
    if method == "box":
        found = certificate.psnr(radius, reference, method, border=border)
        assert found == pytest.approx(db(errors(radius / SIGMA).mean()), abs=1e-6)
        found = certificate.psnr(radius, reference, method, y=True, border=border)
        weights_of_luma = np.array([65.481, 128.553, 24.966]) / 255
        whole = errors(radius / SIGMA)
        total = 0.0
        for rows in (slice(0, 6 - border), slice(6 - border, None)):
            for columns in (slice(0, 6 - border), slice(6 - border, None)):
                sums = whole[:, rows, columns].sum(axis=(1, 2))
                total += (weights_of_luma @ np.sqrt(sums)) ** 2
        assert found == pytest.approx(db(total / whole[0].size), abs=1e-6)
    else:
        radii = np.array([0.0, 0.05, radius])
        table = []
        for rows in (slice(0, 6), slice(6, 10)):
            for columns in (slice(0, 6), slice(6, 10)):
                inside = np.zeros((10, 10))
                inside[rows, columns] = 1
                inside = inside[border : 10 - border, border : 10 - border]
                table.append([(errors(e / SIGMA) * inside).sum() for e in radii])
        total = quantile_bounds.collective_error(np.array(table), radii, 4)
        found = certificate.psnr(radius, reference, border=border)
        assert found == pytest.approx(db(total / 3 / (10 - 2 * border) ** 2), abs=1e-6)


def test_pairs_of_levels_are_summed_once(monkeypatch):
    """The work does not grow with bins: each value meets each pair of levels at most once."""
    done = []
    maximum = np.maximum

    def counted(first, second, *rest, **options):
        result = maximum(first, second, *rest, **options)
        done.append(result.size)
        return result

    few = SmoothedSR(LinearSR(), SIGMA, tile=8, halo=2).certify(gentle(0, side=32), n=100)
    monkeypatch.setattr(np, "maximum", counted)
    assert few.psnr(0.9 * few.max_radius) > 0
    assert sum(done) <= few.sr_bytes.size * (len(few.z) + 1) * (len(few.z) + 3)
