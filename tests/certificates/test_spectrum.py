"""The spectral certificate against laws whose truth is known, and mutations that these must expose.

Oracles, each a law of a tile's output in closed form under a shift t of its patch:
- `Linear`: the output follows the noise, so the certificate is exact to the first order.
- `Rare`: all 1 where a normal variable exceeds a level, else 0. With a level that is exceeded
  rarely, most certificates see nothing of it; with a lower one it is the worst for its spectrum.
- `Both`: linear, and all 1 above a level: spectral part and tail point the same way.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.special import bdtrc, ndtr, ndtri

from smoothsr.certificates import spectrum as module
from smoothsr.certificates.spectrum import (
    Spectrum,
    ideal_deviation,
    spectrum,
    up,
)
from smoothsr.engine.moments import MomentSum, TileMoments, pilot

ALPHA = 0.1


class Linear(NamedTuple):
    """.5 + .1 X v + own N, X the normal variable along the attack, v of signs, N of each value."""

    values: int = 6
    own: float = 0.03

    def draw(self, n, rng, shift=0.0):
        signs = np.resize([1, -1, 1], self.values)
        along = 0.1 * (rng.standard_normal((n, 1)) + shift) * signs
        own = self.own * rng.standard_normal((n, self.values))
        return np.clip(0.5 + along + own, 0, 1)  # at 4.8 standard deviations

    def deviation(self, shift):
        return 0.1 * shift * math.sqrt(self.values)

    def eigenvalue(self):
        return 0.01 * self.values + self.own**2

    def trace(self, _):
        return (0.01 + self.own**2) * self.values


class Rare(NamedTuple):
    """All 1 where the normal variable along the attack exceeds a level (probability p), else 0."""

    p: float = 0.0008
    values: int = 4

    def draw(self, n, rng, shift=0.0):
        hit = rng.standard_normal((n, 1)) + shift > -ndtri(self.p)
        return np.tile(hit.astype(float), self.values)

    def deviation(self, shift):
        return math.sqrt(self.values) * (ndtr(ndtri(self.p) + shift) - self.p)

    def trace(self, shift):
        q = ndtr(ndtri(self.p) + shift)
        return self.values * q * (1 - q)


class Both(NamedTuple):
    """.3 + slope X below a level, 1 above; one value."""

    p: float = 0.002
    slope: float = 0.01

    def draw(self, n, rng, shift=0.0):
        x = rng.standard_normal((n, 1)) + shift
        return np.where(x > -ndtri(self.p), 1.0, 0.3 + self.slope * x)

    def mean(self, shift):
        z = -ndtri(self.p) - shift
        density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return ndtr(-z) + (0.3 + self.slope * shift) * ndtr(z) - self.slope * density

    def deviation(self, shift):
        return self.mean(shift) - self.mean(0)


class Made(NamedTuple):
    """A certificate, what it was made from, and the mean of its draws, (T,m)."""

    spectrum: Spectrum
    moments: TileMoments
    mean: np.ndarray


def reduce(draws, first):
    """A tile's row of moments, of its draws (n,m) and pilot draws (n0,m)."""
    centre = pilot(torch.as_tensor(np.asarray(first, float)))
    sums = MomentSum(centre, len(draws))
    sums.add(torch.from_numpy(draws))
    return (centre.radius, centre.reach, centre.weight, *sums.result())


def distance(spectrum, shift, tiles_hit, to_centre):
    """Distance of the ideal mean under attack to a reference."""
    return ideal_deviation(spectrum, shift, tiles_hit) + spectrum.centre + to_centre


def served_error(spectrum, shift, tiles_hit, to_centre, n_serve):
    """Expected squared distance of a mean of n_serve draws to a reference."""
    mean = distance(spectrum, shift, tiles_hit, to_centre)
    return mean**2 + module.variance(spectrum, shift, tiles_hit) / n_serve


def gather(law, tiles, n, rng, n_pilot=100, reuse=False):
    """Draw each tile and reduce it; reuse takes the certification draws for pilot draws too."""
    rows, means = [], []
    for _ in range(tiles):
        first, draws = law.draw(n_pilot, rng), law.draw(n, rng)
        rows.append(reduce(draws, draws if reuse else first))
        means.append(draws.mean(axis=0))
    return TileMoments(n, *np.array(rows).T), np.array(means)


def certificates(law, count, tiles, n, alpha=ALPHA, seed=0, **options):
    """Make independent certificates of a law, all with the same number of draws."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        seen, mean = gather(law, tiles, n, rng, **options)
        yield Made(spectrum(seen, alpha), seen, mean)


def allowed(count, alpha=ALPHA):
    """The most wrong ones of `count` certificates that chance explains, but for 1 in 10000."""
    return next(k for k in range(count) if bdtrc(k, count, alpha) < 1e-4)


def wrong(law, made, shift, tiles_hit=None):
    """Count the certificates that promise less than an attack on as many tiles does."""
    made = list(made)
    hit = [len(each.mean) if tiles_hit is None else tiles_hit for each in made]
    truth = [math.sqrt(tiles) * law.deviation(shift) for tiles in hit]
    bounds = [ideal_deviation(each.spectrum, shift, tiles_hit) for each in made]
    return sum(bound < true for bound, true in zip(bounds, truth, strict=True))


# up


@pytest.mark.parametrize("a", [0.5, 0.02, 1e-9])
def test_up_solves_its_equation(a):
    w = np.array([1e-6, 0.3, 1, 7, 1e3, 1e8])
    mu = up(w, a)
    assert (mu > w).all()
    assert mu - w + w * np.log(w / mu) == pytest.approx(-math.log(a), rel=1e-3)
    assert (mu * (1 - 1e-6) - w + w * np.log(w / mu / (1 - 1e-6)) < -math.log(a) * (1 + 1e-6)).all()


def test_up_at_zero_is_exact_and_it_grows():
    assert up(0, 0.02) == -math.log(0.02)
    grid = up(np.r_[0, 1e-310, 1e-200, np.geomspace(1e-9, 1e9, 400)], 0.02)
    assert np.isfinite(grid).all()
    assert (np.diff(grid) >= 0).all()
    assert up(5, 0.01) > up(5, 0.1)


@pytest.mark.parametrize(("n", "p"), [(50, 0.02), (50, 0.3), (1000, 0.01), (1000, 0.2)])
def test_up_covers_binomial_sums(n, p):
    sums = np.random.default_rng(1).binomial(n, p, 20000)
    missed = int((up(sums, ALPHA) < n * p).sum())
    assert missed <= allowed(20000)
    assert (up(sums, 0.5) < n * p).any()


@pytest.mark.parametrize("total", [-1, math.nan, math.inf])
def test_up_refuses_bad_sums(total):
    with pytest.raises(ValueError, match="total must be finite"):
        up(total, 0.1)


# The pieces: tail, shares of a budget


def likelihood_ratio(shift):
    """A fine partition of the normal line: probability and likelihood ratio of each cell."""
    edges = np.r_[-np.inf, np.linspace(-9, 9 + shift, 400_001), np.inf]
    chance, after = (
        np.where(e[1:] > 0, -np.diff(ndtr(-e)), np.diff(ndtr(e))) for e in (edges, edges - shift)
    )
    keep = chance > 0
    return chance[keep], after[keep] / chance[keep]


@pytest.mark.parametrize("shift", [0.05, 0.3, 1.0, 2.5])
def test_tail_is_the_worst_share_of_given_mean(shift):
    chance, ratio = likelihood_ratio(shift)
    order = np.argsort(-np.abs(ratio - 1))  # those that change most, first
    p, h = chance[order].cumsum(), (chance * np.abs(ratio - 1))[order].cumsum()
    for rare in (1e-5, 0.003, 0.05, 0.4, 0.99):
        chances, effects = module._tail(rare, shift)
        assert chances[0] == 0
        assert (np.diff(chances) > 0).all()
        assert (np.diff(effects) >= 0).all()
        assert effects[-1] == pytest.approx(np.interp(rare, p, h), rel=5e-3)
        assert effects[-1] >= np.interp(rare, p, h) * (1 - 1e-6)
        inside = effects[:-1] > 1e-6
        assert effects[:-1][inside] == pytest.approx(np.interp(chances[1:][inside], p, h), rel=5e-3)


def test_tail_vanishes_with_the_shift_and_exceeds_neyman_pearson():
    assert module._tail(0.01, 1e-5)[1][-1] < 1e-6
    for shift in (0.1, 0.8, 3):
        assert module._tail(0.01, shift)[1][-1] >= ndtr(ndtri(0.01) + shift) - 0.01


def test_no_tiles_gain_more_than_the_sum_of_squares():
    rng = np.random.default_rng(3)
    rare, shift, gap = 0.02, 0.7, 1.5
    chances, effects = module._tail(rare, shift)
    for tiles, shared, alone in [(1, 0.01, 0.01), (5, 0.01, 0.004), (40, 0.2, 0.01)]:
        bound = module._sum_of_squares(shared, alone, chances, gap * effects, rare, tiles)
        best = 0.0
        for _ in range(2000):
            p = rare * rng.dirichlet(np.full(tiles, rng.choice([0.02, 0.3, 5])))
            b = gap * np.interp(p, np.append(chances[1:], rare), effects)
            order = b.argsort()[::-1]
            a = np.zeros(tiles)
            count = min(tiles, max(1, int(rng.integers(1, tiles + 1))))
            a[order[:count]] = np.sqrt(np.minimum(alone, shared / count))
            best = max(best, ((a + b) ** 2).sum())
        assert best <= bound * (1 + 1e-12)
        assert bound <= (math.sqrt(shared) + math.sqrt(gap**2 * tiles) * effects[-1]) ** 2 * 1.01
        assert best > 0.75 * bound


def test_a_little_shift_on_many_tiles_can_be_worse_than_all_on_one():
    # One tile at shift 5 (probability 1 at most) against four at shift 2.5 each.
    rare, shift, tiles = 0.04, 5.0, 4
    spread = tiles * ndtr(ndtri(rare / tiles) + shift / math.sqrt(tiles))
    together = ndtr(ndtri(rare) + shift)
    assert spread > 2 * together
    assert module._struck(rare, shift, 1, tiles) >= spread


@pytest.mark.parametrize("hit", [1, 4, 16])
@pytest.mark.parametrize("shift", [0.1, 0.8, 2.0])
def test_beyond_the_radius_under_attack(hit, shift):
    tiles, rare, best = 16, 0.01, 0.0
    for clipped in range(1, tiles + 1):
        for shifted in range(hit, tiles + 1):
            p, s = np.zeros(tiles), np.zeros(tiles)
            p[:clipped] = rare / clipped
            s[:shifted] = hit / shifted * shift**2
            best = max(best, ndtr(ndtri(np.maximum(p, 1e-300)) + np.sqrt(s)).sum())
    assert best <= module._struck(rare, shift, hit, tiles) <= 1.1 * best


# Known truth


def test_linear_is_never_wrong_and_close():
    law, tiles = Linear(), 64
    made = list(certificates(law, 300, tiles, 200))
    for shift, close in [(0.1, 1.35), (0.5, 1.45)]:
        assert wrong(law, made, shift) == 0
        bounds = [ideal_deviation(each.spectrum, shift, None) for each in made]
        assert np.mean(bounds) < close * math.sqrt(tiles) * law.deviation(shift)
    for hit in (1, 4):
        assert wrong(law, made, 0.5, hit) == 0
    largest = [each.spectrum.largest for each in made]
    total = [each.spectrum.total for each in made]
    assert sum(value < law.eigenvalue() for value in largest) <= allowed(300, ALPHA / 5)
    assert sum(value < tiles * law.eigenvalue() for value in total) <= allowed(300, ALPHA / 5)


def test_linear_is_exact_to_the_first_order():
    # Many draws leave (e^(t^2) - 1)^(1/2) / t, .0009 of own noise, and what the proof costs.
    law = Linear()
    (made,) = certificates(law, 1, 16, 60_000)
    plain = replace(made.spectrum, gap=0.0)
    for shift in (1e-3, 0.03, 0.1):
        ratio = ideal_deviation(plain, shift, None) / (4 * law.deviation(shift))
        assert 1 < ratio < 1.025


@pytest.mark.parametrize("tiles", [1, 8])
def test_rare_is_right_although_unseen(tiles):
    law = Rare()
    made = list(certificates(law, 300, tiles, 300))
    unseen = sum(each.moments.top.max() == 0 for each in made)
    assert unseen > 20
    for shift in (0.2, 0.8, 2):
        assert wrong(law, made, shift) <= allowed(300)
        assert wrong(law, made, shift, 1) <= allowed(300)


def test_step_is_right():
    law = Rare(p=0.05)
    assert wrong(law, certificates(law, 30, 64, 200), 2.0) <= allowed(30)


def test_both_is_right():
    law = Both()
    made = list(certificates(law, 20, 1, 200_000))
    assert wrong(law, made, 0.7) <= allowed(20)


@pytest.mark.parametrize("law", [Linear(), Rare(0.01), Rare(0.3)])
@pytest.mark.parametrize("tiles", [1, 12])
def test_centre_is_close_enough(law, tiles):
    made = list(certificates(law, 100, tiles, 150))
    exact = 0.5 if isinstance(law, Linear) else law.p
    missed = sum(np.linalg.norm(each.mean - exact) > each.spectrum.centre for each in made)
    assert missed <= allowed(100)


# Served output and references


@pytest.mark.parametrize("law", [Linear(), Rare(0.01), Rare(0.3)])
@pytest.mark.parametrize(("shift", "hit"), [(0.0, None), (0.6, None), (0.6, 2), (1.5, 1)])
def test_served_error_holds_against_its_expectation(law, shift, hit):
    tiles, n_serve = 12, 3
    missed = 0
    for each in certificates(law, 30, tiles, 150):
        hit_tiles = tiles if hit is None else min(hit, tiles)
        y = np.random.default_rng(7).random(each.mean.shape)
        exact = np.full_like(each.mean, 0.5 if isinstance(law, Linear) else law.p)
        signs = np.resize([1, -1, 1], law.values) if isinstance(law, Linear) else 1
        exact[:hit_tiles] += signs * law.deviation(shift) / math.sqrt(law.values)
        noise = hit_tiles * law.trace(shift) + (tiles - hit_tiles) * law.trace(0)
        expected = ((exact - y) ** 2).sum() + noise / n_serve
        to_centre = float(np.linalg.norm(each.mean - y))
        missed += served_error(each.spectrum, shift, hit, to_centre, n_serve) < expected
        missed += distance(each.spectrum, shift, hit, to_centre) < np.linalg.norm(exact - y)
    assert missed <= allowed(30)


def test_served_error_holds_against_simulation():
    law, tiles, shift, rng = Linear(), 4, 0.4, np.random.default_rng(5)
    (made,) = certificates(law, 1, tiles, 2000)
    served = law.draw(4000 * tiles * 5, rng, shift).reshape(4000, 5, tiles, -1).mean(axis=1)
    simulated = ((served - made.mean) ** 2).sum(axis=(1, 2)).mean()
    bound = served_error(made.spectrum, shift, None, 0.0, 5)
    assert simulated < bound < 2.5 * simulated


def test_more_served_draws_are_better_and_a_reference_adds_up():
    (made,) = certificates(Linear(), 1, 4, 200)
    errors = [served_error(made.spectrum, 0.3, None, 0.1, n) for n in (1, 5, 21, 10**6)]
    assert errors == sorted(errors, reverse=True)
    far = distance(made.spectrum, 0.3, None, 0.1)
    assert errors[-1] == pytest.approx(far**2, rel=1e-3)
    assert distance(made.spectrum, 0.3, None, 5) == pytest.approx(far + 4.9)
    assert distance(made.spectrum, 0, 3, 0) == pytest.approx(made.spectrum.centre)


# Mutations: with each of them an oracle must find wrong certificates


def no_tail(*_):
    return np.zeros(1), np.zeros(1)


def trusting(total, _):
    return np.maximum(np.asarray(total, float), 1e-12)


def first_order(shift):
    return shift**2


def test_rare_exposes_a_tail_left_out(monkeypatch):
    law = Rare()
    made = list(certificates(law, 300, 1, 300))
    monkeypatch.setattr(module, "_tail", no_tail)
    assert wrong(law, made, 0.8) > 4 * allowed(300)


def test_rare_exposes_a_mean_without_confidence(monkeypatch):
    law = Rare()
    monkeypatch.setattr(module, "up", trusting)
    made = list(certificates(law, 300, 1, 300))
    assert wrong(law, made, 0.8) > 4 * allowed(300)


def test_linear_exposes_an_eigenvalue_without_confidence(monkeypatch):
    law = Linear(own=0)
    monkeypatch.setattr(module, "up", trusting)
    monkeypatch.setattr(module, "_tail", no_tail)
    made = list(certificates(law, 200, 1, 200))
    assert wrong(law, made, 0.05) > 2 * allowed(200)


def test_rare_exposes_a_radius_chosen_from_the_certification_draws():
    # Tiles that have not jumped yet get a small radius, and nobody counts that they will.
    law, tiles, n = Rare(p=0.0017), 200, 300
    missed = {}
    for reuse in (False, True):
        made = list(certificates(law, 60, tiles, n, reuse=reuse))
        truth = [law.p * (each.moments.radius < each.moments.reach).sum() for each in made]
        missed[reuse] = sum(
            each.spectrum.rare < true for each, true in zip(made, truth, strict=True)
        )
    assert missed[False] <= allowed(60, ALPHA / 5)
    assert missed[True] == 60


def test_linear_exposes_one_patch_for_each_input_value():
    law = Linear()
    made = list(certificates(law, 30, 64, 300))
    truth = math.sqrt(4) * law.deviation(0.3)
    assert sum(ideal_deviation(each.spectrum, 0.3, 4) < truth for each in made) == 0
    assert sum(ideal_deviation(each.spectrum, 0.3, 1) < truth for each in made) >= 20


def test_linear_exposes_the_largest_tile_in_place_of_all():
    law = Linear()
    made = list(certificates(law, 30, 64, 300))
    largest = [
        each._replace(spectrum=replace(each.spectrum, total=each.spectrum.largest)) for each in made
    ]
    assert wrong(law, made, 0.3) == 0
    assert wrong(law, largest, 0.3) == 30


def test_step_exposes_the_first_order_at_large_shifts(monkeypatch):
    law = Rare(p=0.05)
    made = list(certificates(law, 30, 64, 200))
    monkeypatch.setattr(module, "_growth", first_order)
    assert wrong(law, made, 2.0) > 1.5 * allowed(30)


def test_both_exposes_parts_that_are_taken_for_orthogonal(monkeypatch):
    law = Both()
    made = list(certificates(law, 20, 1, 200_000))
    original = module._sum_of_squares
    monkeypatch.setattr(
        module, "_sum_of_squares", lambda shared, _, *rest: original(shared, 0.0, *rest)
    )
    assert wrong(law, made, 0.7) > 1.5 * allowed(20)


def test_linear_exposes_a_centre_without_its_fluctuation(monkeypatch):
    law = Linear(values=1)

    def gone():
        made = certificates(law, 100, 1, 20_000, alpha=0.01)
        return sum((abs(each.mean - 0.5) > each.spectrum.centre).any() for each in made)

    assert gone() <= allowed(100, 0.01)
    monkeypatch.setattr(module, "_wander", lambda *_: 0.0)
    assert gone() > 1.5 * allowed(100, 0.01)


def test_linear_exposes_a_served_trace_left_out(monkeypatch):
    law, tiles, n_serve = Linear(), 16, 2
    made = list(certificates(law, 30, tiles, 200))
    expected = tiles * law.trace(0) / n_serve

    def too_small():
        return sum(
            served_error(each.spectrum, 0, None, 0, n_serve)
            < expected + np.linalg.norm(each.mean - 0.5) ** 2
            for each in made
        )

    assert too_small() == 0
    monkeypatch.setattr(module, "variance", lambda *_: 0.0)
    assert too_small() == 30


def test_step_exposes_a_served_trace_without_attack(monkeypatch):
    # Under attack the output of a step varies far more than without.
    law, tiles, shift = Rare(p=0.01), 16, 2.0
    made = list(certificates(law, 30, tiles, 1000, n_pilot=1000))
    expected = tiles * law.trace(shift)

    def too_small():
        return sum(module.variance(each.spectrum, shift, None) < expected for each in made)

    assert too_small() <= allowed(30)
    monkeypatch.setattr(module, "_growth", lambda _: 0.0)
    assert too_small() == 30


# Edges


def test_constant_tiles_do_not_harm_the_others():
    rng = np.random.default_rng(0)
    seen, _ = gather(Linear(), 16, 200, rng)
    still = np.full((200, 6), 0.25)
    row = reduce(still, still)
    more = TileMoments(
        200, *(np.append(array, [value] * 3) for array, value in zip(seen[1:], row, strict=True))
    )
    plain, mixed = spectrum(seen, ALPHA), spectrum(more, ALPHA)
    assert mixed.total == pytest.approx(plain.total)
    assert mixed.fourth == pytest.approx(plain.fourth, rel=1e-3)
    assert mixed.centre == pytest.approx(plain.centre, rel=0.2)  # .25 is far from 1


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_image_of_constant_tiles_has_a_certificate(n, value):
    class Constant:
        def draw(self, count, _):
            return np.full((count, 3), value)

    (made,) = certificates(Constant(), 1, 2, n, n_pilot=1)
    numbers = np.array(list(vars(made.spectrum).values()), float)
    assert np.isfinite(numbers).all()
    assert ideal_deviation(made.spectrum, 0.5, None) > 0
    assert math.isfinite(served_error(made.spectrum, 0.5, 1, 0, 1))


@pytest.mark.parametrize("tiles", [1, 5])
def test_bounds_grow_with_the_attack(tiles):
    (made,) = certificates(Rare(0.01), 1, tiles, 100)
    shifts = [0, 1e-12, 1e-6, 1e-4, 0.1, 0.5, 1, 2, 4, 8, 16, 25.9]
    for hit in (1, 3, 5, None):
        bounds = [ideal_deviation(made.spectrum, shift, hit) for shift in shifts]
        assert bounds[0] == 0
        assert np.isfinite(bounds).all()
        assert (np.diff(bounds) >= 0).all()
        errors = [served_error(made.spectrum, shift, hit, 0, 5) for shift in shifts]
        assert np.isfinite(errors).all()
        assert (np.diff(errors) >= -1e-6 * np.array(errors[1:])).all()


@pytest.mark.parametrize("shift", [26, 1e3, math.inf])
def test_a_shift_beyond_floating_point_is_trivial(shift):
    (made,) = certificates(Linear(), 1, 2, 20)
    assert ideal_deviation(made.spectrum, shift, None) == math.inf
    assert distance(made.spectrum, shift, 1, 0) == math.inf
    assert served_error(made.spectrum, shift, 1, 0, 1) == math.inf


def test_more_patches_than_tiles_are_all_tiles():
    (made,) = certificates(Linear(), 1, 5, 50)
    everywhere = ideal_deviation(made.spectrum, 0.5, None)
    assert ideal_deviation(made.spectrum, 0.5, 5) == everywhere
    assert ideal_deviation(made.spectrum, 0.5, 500) == everywhere
    assert ideal_deviation(made.spectrum, 0.5, 1) < everywhere
    assert served_error(made.spectrum, 0.5, 500, 0, 1) == served_error(
        made.spectrum, 0.5, None, 0, 1
    )


def test_each_event_has_a_fifth_of_alpha():
    seen, _ = gather(Linear(), 3, 40, np.random.default_rng(0))
    unseen = seen._replace(clipped=np.zeros(3))
    assert spectrum(unseen, 0.05).rare == pytest.approx(-math.log(0.01) / 40)
    assert spectrum(seen, 0.01).total > spectrum(seen, 0.1).total


def test_a_count_of_clipped_draws_is_sound_but_weaker():
    law = Linear()
    (made,) = certificates(law, 1, 16, 200)
    counted = made.moments._replace(clipped=np.ceil(made.moments.clipped).astype(int))
    assert spectrum(counted, ALPHA).rare >= made.spectrum.rare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"radius": np.zeros(2)}, "radius must be greater than 0"),
        ({"weight": np.zeros(2)}, "weight must be greater than 0"),
        ({"top": np.array([1.0, math.nan])}, "top must be finite"),
        ({"clipped": np.array([-1, 0])}, "clipped must be finite and not negative"),
        ({"fourth": np.ones(3)}, "fourth must have one value for each tile"),
        ({"radius": np.ones((2, 1))}, "radius must have one value"),
    ],
)
def test_bad_moments_are_refused(change, message):
    seen, _ = gather(Linear(), 2, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        spectrum(seen._replace(**change), ALPHA)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_bad_alpha_is_refused(alpha):
    seen, _ = gather(Linear(), 2, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
        spectrum(seen, alpha)


def test_bad_attacks_are_refused():
    (made,) = certificates(Linear(), 1, 2, 20)
    for shift in (-0.1, math.nan):
        with pytest.raises(ValueError, match="shift must not be negative"):
            ideal_deviation(made.spectrum, shift, None)
    with pytest.raises(ValueError, match="tiles_hit must be at least 1"):
        ideal_deviation(made.spectrum, 0.1, 0)
