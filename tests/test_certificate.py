"""What a Certificate derives from its levels, against the definitions, and what it refuses to say."""

import dataclasses
import io
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import LinearSR, gentle
from scipy.special import betaincinv, ndtr, ndtri

from smoothsr import SmoothedSR, metrics
from smoothsr.certificate import Certificate

SIGMA, ALPHA, SCALE = 0.1, 0.01, 2
Z = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
FRESH = ("served", "ideal")


def made(seed=0, channels=3, sides=(4, 5), tile=2, halo=1, **changes):
    """A certificate with bounds that widen at random; scale 2."""
    generator = np.random.default_rng(seed)
    shape = (channels, SCALE * sides[0], SCALE * sides[1])
    sr = generator.integers(40, 215, (1, *shape))
    above, below = (np.cumsum(generator.integers(0, 12, (len(Z), *shape)), axis=0) for _ in range(2))
    fields = {
        "sr_bytes": sr.astype(np.uint8),
        "z": Z,
        "upper": (sr + above).clip(0, 255).astype(np.uint8),
        "lower": (sr - below).clip(0, 255).astype(np.uint8),
        "lr_shape": (channels, *sides),
        "sigma": SIGMA,
        "agg": "median",
        "n_serve": 21,
        "n_cert": 1000,
        "alpha": ALPHA,
        "level_count": len(Z),
        "scope": "image",
        "tile": tile,
        "halo": halo,
        "seeded": False,
        "void": False,
        "dtype": "float32",
        "input_digest": "0" * 64,
        "weights_digest": "1" * 64,
    }
    return Certificate(**{**fields, **changes})


def trivial():
    whole = made()
    nothing = np.empty((0, *whole.upper.shape[1:]), np.uint8)
    return dataclasses.replace(whole, z=np.empty(0), upper=nothing, lower=nothing)


def at(certificate, shift):
    """(lower, upper) in 8-bit steps at a shift in units of z, by the definition: rounded up to a level, else the whole range."""
    above = np.flatnonzero(certificate.z >= shift - 1e-12)
    if not above.size:
        shape = certificate.upper.shape[1:]
        return np.zeros(shape), np.full(shape, 255.0)
    return certificate.lower[above[0]].astype(float), certificate.upper[above[0]].astype(float)


def error(certificate, shift, y):
    """Largest squared error of each value at a shift, in [0, 1] units."""
    lower, upper = at(certificate, shift)
    return np.maximum((upper - y) ** 2, (y - lower) ** 2) / 255**2


def db(mse):
    return -10 * np.log10(mse)


def steps(image):
    return image[0].double().numpy() * 255


# Files


@pytest.mark.parametrize("certificate", [made(), trivial(), made(tile=None, halo=0, channels=1)], ids=["tiled", "trivial", "whole"])
def test_files_give_back_every_bit(certificate, tmp_path):
    certificate.save(tmp_path / "a.npz")
    loaded = Certificate.load(tmp_path / "a.npz")
    for field in dataclasses.fields(Certificate):
        before, after = getattr(certificate, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert (type(before), before) == (type(after), after)
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_truncated_files(tmp_path):
    whole, part = tmp_path / "whole.npz", tmp_path / "part.npz"
    made().save(whole)
    content = whole.read_bytes()
    for length in (0, 3, 100, len(content) // 2, len(content) - 1):
        part.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is no certificate"):
            Certificate.load(part)


def test_files_with_a_changed_byte(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    content = path.read_bytes()
    refused = 0
    places = range(7, len(content), 97)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            loaded = Certificate.load(path)
        except ValueError:
            refused += 1
        else:  # a byte of the container that says nothing, such as a date
            np.testing.assert_array_equal(loaded.upper, made().upper)
    assert refused > 0.9 * len(places)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", 1e-9, "was changed"),
        ("void", True, "was changed"),
        ("n_serve", 2001, "was changed"),
        ("extra", 1, "was changed"),
        ("format", 2, "format version 2"),
        ("format", None, "is no certificate"),
    ],
)
def test_files_with_changed_options(name, value, message, tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    options = {**json.loads(str(arrays["options"])), name: value}
    if value is None:
        del options[name]
    np.savez(path, **{**arrays, "options": np.array(json.dumps(options))})
    with pytest.raises(ValueError, match=message):
        Certificate.load(path)


def test_files_with_changed_bounds(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["upper"][1, 0, 0, 0] -= 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="was changed"):
        Certificate.load(path)


class Danger:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


def foreign():
    array, objects, other = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    names = ("sr_bytes", "z", "upper", "lower", "digest")
    np.savez(objects, options=np.array([Danger()], dtype=object), **dict.fromkeys(names, np.zeros(1)))
    np.savez(other, options=np.array("[1, 2]"), **dict.fromkeys(names, np.zeros(1)))
    pickled = pickle.dumps(Danger())
    return [b"", b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(100), array.getvalue(), objects.getvalue(), other.getvalue(), pickled]


@pytest.mark.parametrize("content", foreign(), ids=["empty", "text", "png", "npy", "objects", "list", "pickle"])
def test_foreign_files(content, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is no certificate") as found:
        Certificate.load(path)
    assert "\n" not in str(found.value)


def test_a_missing_file_is_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        Certificate.load(tmp_path / "none.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        dataclasses.replace(made(), dtype=object()).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_pickle():
    certificate = made()
    copy = pickle.loads(pickle.dumps(certificate))
    assert copy.summary() == certificate.summary()
    np.testing.assert_array_equal(copy.lower, certificate.lower)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().alpha = 0.5


def test_repr():
    assert repr(made()) == (
        "Certificate(10x8, sigma=0.1, median of n_serve=21, n_cert=1000, alpha=0.01, scope='image', tile=2, halo=1, max_radius=0.2)"
    )
    assert repr(trivial()).endswith("trivial)")
    assert "VOID" in repr(made(void=True))


def test_summary_says_under_which_conditions():
    certificate = made()
    summary = json.loads(json.dumps(certificate.summary()))
    assert summary == certificate.summary() | {"lr_shape": [3, 4, 5]}
    expected = {
        "agg": "median",
        "n_serve": 21,
        "n_cert": 1000,
        "scope": "image",
        "values_at_once": 3 * 8 * 10,
        "alpha": ALPHA,
        "sigma": SIGMA,
        "tile": 2,
        "halo": 1,
        "multiplicity": 4,
        "tiles": 6,
        "levels": 5,
        "dtype": "float32",
        "max_radius": 0.2,
        "serving_noise": "fresh",
        "certification_noise": "fresh",
        "input_digest": "0" * 64,
        "weights_digest": "1" * 64,
    }
    assert {name: summary[name] for name in expected} == expected
    assert "ideal" in made(seeded=True).summary()["serving_noise"]
    assert "VOID" in made(void=True).summary()["certification_noise"]
    assert made(scope="pixel").summary()["values_at_once"] == 3
    json.dumps(trivial().summary())
    assert certificate.rms(0.2) == pytest.approx(0.2 * 255 / 60**0.5)  # as if every value changed by that much


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
            # Half of the draws lie below the median, the slice between two levels below the higher, the rest anywhere.
            high, low = 0.5 * at(certificate, radius / SIGMA)[1][place], 0.5 * at(certificate, radius / SIGMA)[0][place]
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
    assert certificate.contains(upper.double() + 0.49 / 255, 0.05, "ideal")  # the rounded output is inside
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


@pytest.mark.parametrize(("predictor", "per"), [("ideal", "value"), ("served", "value"), ("served", "image")])
def test_draws_needed_is_the_smallest_number(predictor, per):
    smoothed = SmoothedSR(LinearSR(), SIGMA, batch_size=500)
    lr = gentle(0)
    needed = smoothed.certify(lr, n=500, alpha=ALPHA, levels=4).draws_needed(0.05, predictor, 0.01, per)
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
    assert needed == result.draws_needed(0.0, "ideal") == result.summary()["draws_needed_for_radius_0"]
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
    middle = certificate.sr_bytes[0].astype(float) if centre is None else np.full((3, 8, 10), float(centre))
    found = certificate.radius_map(
        tolerance / 255, predictor, 0.05, center=None if centre is None else torch.full((1, 3, 8, 10), centre / 255)
    ).numpy()
    used = ndtri(1 - betaincinv(11, 11, 0.05 / 2)) if predictor == "served" else 0.0
    assert found.shape == (8, 10)
    for row, column in np.ndindex(8, 10):
        radii = []
        for channel in range(3):
            best = np.nan
            for index, z in enumerate(Z):
                above = certificate.upper[index, channel, row, column] - middle[channel, row, column]
                below = middle[channel, row, column] - certificate.lower[index, channel, row, column]
                if max(above, below) <= tolerance and z >= used:
                    best = SIGMA * (z - used)
            radii.append(best)
        assert found[row, column] == pytest.approx(np.min(radii), nan_ok=True, rel=1e-6)
        if not np.isnan(found[row, column]):  # and the bounds agree
            pair = certificate.bounds(float(found[row, column]), predictor, 0.05)
            lower, upper = (steps(bound)[:, row, column] for bound in pair)
            assert np.maximum(upper - middle[:, row, column], middle[:, row, column] - lower).max() <= tolerance + 1e-3


def test_radius_map_of_the_mean_agrees_with_its_bounds():
    certificate = made(agg="mean")
    found = certificate.radius_map(22 / 255, "ideal")
    assert 0 < found.isnan().float().mean() < 1
    expected = np.full((8, 10), np.nan)
    for z in Z:
        away = [(bound - certificate.sr).abs()[0].amax(dim=0) for bound in certificate.bounds(SIGMA * z, "ideal")]
        expected[torch.maximum(*away).numpy() <= 22.001 / 255] = SIGMA * z
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# PSNR


@pytest.mark.parametrize("predictor", FRESH)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_psnr_is_infinite_where_every_bound_is_the_reference(predictor, norm):
    sr = made().sr_bytes
    exact = made(upper=np.repeat(sr, 5, axis=0), lower=np.repeat(sr, 5, axis=0))
    if predictor == "ideal":
        assert exact.psnr(0.01, predictor=predictor, norm=norm) == np.inf
    else:  # the median of 21 has a tail beyond every level
        assert 40 < exact.psnr(0.001, predictor=predictor, norm=norm) < np.inf
    assert exact.psnr(0.01, exact.sr.double() + 1e-4, predictor="ideal") == np.inf  # rounded to 8 bits, as metrics do
    assert exact.psnr(0.01, (exact.sr + 1 / 255), predictor="ideal") == pytest.approx(db(1 / 255**2))


def test_psnr_agrees_with_the_metric_s_reference():
    certificate = made()
    reference = torch.rand(certificate.sr.shape, generator=torch.Generator().manual_seed(0))  # between 8-bit steps
    lower, upper = certificate.bounds(0.05, "ideal")
    worst = torch.where((reference * 255).round() / 255 - lower > upper - (reference * 255).round() / 255, lower, upper)
    assert certificate.psnr(0.05, reference, "box", "ideal") == pytest.approx(metrics.psnr(worst, reference).item(), abs=1e-4)


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.07, 0.2, 0.3])
@pytest.mark.parametrize("agg", ["median", "mean"])
def test_box_is_the_mean_of_the_largest_errors(radius, agg):
    certificate = made(agg=agg)
    reference = made(seed=5).sr
    lower, upper = (steps(bound) for bound in certificate.bounds(radius, "ideal"))
    y = steps(reference)
    expected = np.maximum((upper - y) ** 2, (y - lower) ** 2).mean() / 255**2
    assert certificate.psnr(radius, reference, "box", "ideal") == pytest.approx(db(expected), abs=1e-3)


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


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize("predictor", FRESH)
@pytest.mark.parametrize("seed", range(3))
def test_collective_is_at_least_the_box_and_falls_with_the_radius(predictor, y, border, seed):
    certificate = made(seed)
    radii = (0.0, 0.01, 0.05, 0.0500001, 0.08, 0.15, 0.2, 0.21, 0.5)
    shared = [certificate.psnr(radius, predictor=predictor, y=y, border=border) for radius in radii]
    boxes = [certificate.psnr(radius, None, "box", predictor, y=y, border=border) for radius in radii]
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
    blocks = [error(certificate, e / SIGMA, y)[:, rows, columns].sum() for e in levels for rows, columns, _ in tiles_by_hand()]
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
    """Output rows and columns of each tile of a 4x5 image at tile 2, and how many pixels its patch with halo 1 reads."""
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
    assert certificate.psnr(change, made(seed=5).sr, "box", "ideal", "linf") == pytest.approx(db(box), abs=1e-3)


@pytest.mark.parametrize("radius", [0.0, 0.03, 0.12])
def test_served_psnr_is_of_the_expected_error(radius):
    certificate = made()
    y = certificate.sr_bytes[0].astype(float)
    # The served median is a random quantile; its bounds at exact levels, and at levels half a unit (a bin) further out.
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


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seeded": True}, "fixed seed"), ({"agg": "mean"}, "mean of few draws")],
)
def test_served_needs_fresh_noise_and_the_median(changes, message):
    certificate = made(**changes)
    output = certificate.sr
    for ask in (
        lambda **kind: certificate.bounds(0.1, **kind),
        lambda **kind: certificate.psnr(0.1, **kind),
        lambda **kind: certificate.radius_map(0.1, **kind),
        lambda **kind: certificate.contains(output, 0.1, **kind),
        lambda **kind: certificate.trivial_share(0.1, **kind),
        lambda **kind: certificate.draws_needed(0.1, **kind),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
        ask(predictor="ideal")


def test_a_seeded_smoother_claims_the_ideal_only():
    result = SmoothedSR(LinearSR(), SIGMA, seed=3, batch_size=200).certify(gentle(0), n=200)
    assert result.seeded
    with pytest.raises(ValueError, match="ideal"):
        result.bounds(0.0)


def test_pixel_scope_says_nothing_of_images():
    certificate = made(scope="pixel")
    for ask in (
        lambda: certificate.psnr(0.1, predictor="ideal"),
        lambda: certificate.radius_map(0.1, "ideal"),
        lambda: certificate.contains(certificate.sr, 0.1, "ideal"),
        lambda: certificate.bounds(0.1, per="image"),
    ):
        with pytest.raises(ValueError, match='certify with scope="image"'):
            ask()
    certificate.bounds(0.1)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.bounds(-0.1), "radius must be finite and at least 0, got -0.1"),
        (lambda c: c.bounds(float("nan")), "radius must be finite"),
        (lambda c: c.psnr(float("inf")), "radius must be finite"),
        (lambda c: c.bounds(0.1, "best"), "predictor must be one of 'served', 'ideal', got 'best'"),
        (lambda c: c.bounds(0.1, beta=0.0), "beta must be between 0 and 1"),
        (lambda c: c.bounds(0.1, beta=float("nan")), "beta must be between 0 and 1"),
        (lambda c: c.bounds(0.1, per="pixel"), "per must be one of"),
        (lambda c: c.radius_map(-0.1), "tolerance must be at least 0"),
        (lambda c: c.radius_map(float("nan")), "tolerance must be at least 0"),
        (lambda c: c.radius_map(0.1, center=torch.zeros(1, 1, 1, 1)), r"center must be \(1, 3, 8, 10\), got \(1, 1, 1, 1\)"),
        (lambda c: c.psnr(0.1, torch.zeros(1, 3, 8, 8)), r"reference must be \(1, 3, 8, 10\), got \(1, 3, 8, 8\)"),
        (lambda c: c.psnr(0.1, torch.zeros(3, 8, 10)), "reference must be"),
        (lambda c: c.psnr(0.1, torch.full((1, 3, 8, 10), torch.nan)), "reference has NaN"),
        (lambda c: c.psnr(0.1, method="sum"), "method must be one of"),
        (lambda c: c.psnr(0.1, norm="l1"), "norm must be one of"),
        (lambda c: c.psnr(0.1, border=4), "border 4 leaves nothing of 8x10 pixels"),
        (lambda c: c.psnr(0.1, border=-1), "border -1"),
        (lambda _: made(channels=1).psnr(0.1, y=True), "y=True needs three channels, got 1"),
    ],
)
def test_questions_out_of_range(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(made())
