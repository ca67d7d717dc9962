"""Certificates of the mean: spectrum and levels of the same draws, against known truth."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import LinearSR, Same, Step, gentle, truth
from scipy.special import bdtrc, ndtr
from torch import nn

from smoothsr import Certificate, SmoothedSR
from smoothsr.certificates import spectral_error
from smoothsr.certificates.evidence import pilot_count
from smoothsr.smoothing import variant

SIGMA, TILED = 0.05, {"tile": 2, "halo": 1}
ALPHA = 0.1  # so large that violations would show
TRIALS = 300


class Rare(nn.Module):
    """All 1 where a patch's mean exceeds .5 by `level` of its standard deviations, else 0."""

    def __init__(self, level: float, values: int) -> None:
        super().__init__()
        self.threshold = 0.5 + level * SIGMA / math.sqrt(values)
        self.eval()

    def forward(self, x):
        hit = x.mean(dim=(1, 2, 3), keepdim=True) > self.threshold
        return hit.to(x.dtype).expand_as(x).clone()


def smoother(net, **options):
    return SmoothedSR(net, SIGMA, 21, "mean", **{**TILED, **options})


def certify(net=None, lr=None, n=200, seed=0, **options):
    net = net or LinearSR(channels=3)
    lr = gentle(seed, channels=3, side=6) if lr is None else lr
    return smoother(net).certify(lr, n=n, alpha=ALPHA, **options)


def allowed(trials, share=ALPHA):
    """The largest count of events of that probability that is no evidence against it."""
    return next(count for count in range(trials + 1) if bdtrc(count, trials, share) <= 1e-3)


@pytest.fixture(scope="module")
def both():
    return certify()


@pytest.mark.parametrize("net", [LinearSR(channels=1), Same()])
def test_deviation_holds_and_is_close_on_linear_networks(net):
    """The worst deviation in l2 is the largest singular value's; in linf that of a sign image."""
    exact = truth(net, (1, 1, 4, 4), **TILED)
    singular = torch.linalg.svd(exact.jacobian)
    signs = [singular.Vh[0].sign(), torch.ones(16, dtype=torch.float64)]
    linf = max((exact.jacobian @ sign).norm().item() for sign in signs)
    gain = {"l2": singular.S[0].item(), "linf": linf}
    budgets = [("l2", 0.01), ("l2", 0.6), ("linf", 0.01), ("linf", 0.15)]
    wrong = dict.fromkeys(budgets, 0)
    for seed in range(TRIALS):
        found = certify(net, gentle(seed), n=150, kind="spectral")
        for norm, sigmas in budgets:
            moved = gain[norm] * sigmas * SIGMA / math.sqrt(len(exact.jacobian))
            bound = found.deviation(sigmas * SIGMA, norm)
            wrong[norm, sigmas] += bound < moved
            assert bound < 10 * moved
    assert max(wrong.values()) <= allowed(TRIALS)


@pytest.mark.parametrize(
    ("net", "level"), [(Rare(3.16, 4), 3.16), (Step(1), 0.0)], ids=["Rare", "Step"]
)
def test_deviation_holds_where_whole_tiles_jump(net, level):
    """Rare jumps at the clean input with probability .0008, which 150 draws of 4 tiles miss in 6 of
    10 certificates; Step with .5. A uniform change on a patch of 4 values shifts it in full.
    """
    lr, shift = torch.full((1, 1, 4, 4), 0.5), 0.8
    moved = ndtr(shift - level) - ndtr(-level)
    wrong = {"l2": 0, "linf": 0}
    for _ in range(TRIALS):
        found = smoother(net, halo=0).certify(lr, n=150, alpha=ALPHA, kind="spectral")
        # All of the budget on one of four tiles, and every value of all tiles.
        wrong["l2"] += found.deviation(shift * SIGMA, "l2") < moved / 2
        wrong["linf"] += found.deviation(shift * SIGMA / 2, "linf") < moved
    assert max(wrong.values()) <= allowed(TRIALS)


@pytest.mark.parametrize("net", [LinearSR(channels=1), Same(), Step(1)])
def test_psnr_to_any_reference_is_never_above_the_truth(net):
    shape = (1, 1, 4, 4)
    exact = truth(net, shape, **TILED)
    wrong, trials = 0, 40
    for seed in range(trials):
        lr = gentle(seed)
        found = certify(net, lr, n=100)
        reference = torch.rand(found.sr.shape, generator=torch.Generator().manual_seed(seed))
        radius = 0.3 * SIGMA
        change = torch.ones(shape) * radius / 4
        draws = SmoothedSR(net, SIGMA, 4001, "mean", **TILED)
        outputs = (draws(lr + change) * 255).round() / 255
        mse = (outputs - (reference * 255).round() / 255).square().mean().item()
        reached = -10 * math.log10(mse)
        wrong += found.psnr(radius, reference, predictor="ideal") > reached + 0.1
    assert wrong <= allowed(trials)
    assert exact.constant.numel() == found.sr.numel()


def test_served_error_holds_on_average():
    net, lr, radius = LinearSR(channels=1), gentle(3, side=8), 0.4 * SIGMA
    exact = truth(net, (1, 1, 8, 8), **TILED)
    served, ideal = smoother(net, antithetic=False), (exact.jacobian @ lr.double().flatten())
    found = served.certify(lr, n=300, alpha=ALPHA)
    direction = torch.linalg.svd(exact.jacobian).Vh[0].view(lr.shape).float()
    clean = ideal.view_as(exact.constant) + exact.constant
    outputs = [(served(lr + radius * direction) * 255).round() / 255 for _ in range(60)]
    error = np.mean([(output - clean).square().mean().item() for output in outputs])
    assert found.psnr(radius, predictor="served") <= -10 * math.log10(error)
    assert found.psnr(radius, predictor="served") >= -10 * math.log10(error) - 12
    fewer = Certificate(**{**vars(found), "n_serve": 3})
    assert fewer.psnr(radius, predictor="served") < found.psnr(radius, predictor="served")


class Even(nn.Module):
    """Six times each value's distance from .5, so that both of a pair's outputs are the same."""

    def forward(self, x):
        return 6 * (x - 0.5).abs()


EVEN = SmoothedSR(Even().eval(), SIGMA, agg="mean", tile=8, halo=0, batch_size=500)
EVEN_AT = torch.full((1, 1, 16, 16), 0.5)


@pytest.fixture(scope="module", params=[0.0, 0.2 / 255], ids=["clean", "attacked"])
def even(request):
    """An attack's radius, and certificates of what is attacked: there, but not here, Even is
    even.
    """
    lr, radius = EVEN_AT - request.param, request.param
    options = {"n": 500, "alpha": ALPHA, "kind": "spectral"}
    return radius, [EVEN.certify(lr, void_guarantee_seed=-seed, **options) for seed in range(1, 21)]


def paired_claims_hold(even, n, serves=80):
    """Of the expected error of a mean in pairs that bring nothing, measured on many of them."""
    radius, certificates = even
    ideal = 6 * SIGMA * math.sqrt(2 / math.pi)  # in which the clamp at 1 is less than .0002
    outputs = [variant(EVEN, n=n, seed=seed)(EVEN_AT) for seed in range(serves)]
    outputs = torch.cat(outputs).double().mul(255).round() / 255
    reference = torch.full_like(EVEN_AT, ideal).mul(255).round() / 255 if radius else None
    error = (outputs - (reference if radius else ideal)).square().mean().item()
    claims = [
        Certificate(**{**vars(one), "n_serve": n}).psnr(radius, reference, norm="linf")
        for one in certificates
    ]
    errors = [10 ** (-claim / 10) for claim in claims]
    assert np.mean(errors) < (2 if radius else 1.3) * error  # else it would be no news
    return sum(one < error for one in errors) <= allowed(len(errors))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_served_claims_hold_where_pairs_bring_nothing(even, n, monkeypatch):
    assert paired_claims_hold(even, n)
    monkeypatch.setattr(spectral_error, "independent_draws", lambda n, _: n)
    if not even[0]:  # under attack the ideal mean's own error hides so much
        assert not paired_claims_hold(even, n)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 21, 100])
def test_pairs_count_by_the_squares_of_their_weights(n):
    weights = [2 / n] * (n // 2) + [1 / n] * (n % 2)
    assert sum(weights) == pytest.approx(1)
    expected = 1 / sum(weight**2 for weight in weights)
    assert spectral_error.independent_draws(n, True) == pytest.approx(expected)
    assert spectral_error.independent_draws(n, False) == n


def test_a_pair_counts_as_one_draw(both):
    """Six draws in pairs have the claim of three that are independent, and the ideal has not
    changed.
    """
    assert both.antithetic
    pairs, apart = (
        Certificate(**{**vars(both), "n_serve": n, "antithetic": antithetic})
        for n, antithetic in ((6, True), (3, False))
    )
    assert pairs.psnr(0.02) == apart.psnr(0.02)
    assert pairs.psnr(0.02, predictor="ideal") == apart.psnr(0.02, predictor="ideal")
    assert "n_serve=6 in pairs, n_cert" in repr(pairs)
    assert "n_serve=3, n_cert" in repr(apart)
    assert [one.summary()["antithetic"] for one in (pairs, apart)] == [True, False]


def test_the_better_of_both_bounds_is_taken(both):
    """Beyond a few sigma the exponential is worse than the levels, which end at their last."""
    radius = 0.3 * SIGMA
    alone = certify(kind="levels"), certify(kind="spectral")
    psnr = [each.psnr(radius, predictor="ideal") for each in (both, *alone)]
    assert psnr[0] > psnr[1] + 1
    assert psnr[2] == pytest.approx(psnr[0], abs=1.5)
    assert both.psnr(10 * SIGMA, predictor="ideal") >= 0


@pytest.mark.parametrize("referred", [False, True])
def test_levels_or_spectrum_whichever_is_better(both, referred):
    """Against itself, levels pay for the way from this certificate's output to the ideal mean."""
    exact = np.repeat(both.sr_bytes, len(both.z), axis=0)
    known = both.spectrum
    wide = replace(known, total=100 * known.total, largest=100 * known.largest)
    tight = Certificate(**{**vars(both), "upper": exact, "lower": exact, "spectrum": wide})
    by_levels = Certificate(**{**vars(tight), "spectrum": None})
    nothing = exact[:0]
    by_spectrum = Certificate(
        **{**vars(tight), "z": both.z[:0], "upper": nothing, "lower": nothing}
    )
    distance = np.linalg.norm(both.mean[0].astype(float) - both.sr_bytes[0] / 255)
    compared = spectral_error.compared(both.sr_bytes.size, False)
    beside = 0 if referred else spectral_error.rms_to_ideal(both.spectrum, compared, distance)
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(both.sr.shape, generator=generator) if referred else None
    won = set()
    for radius in (0.0, 0.001, 0.01, 0.05, 0.1):
        levels, spectrum, found = (
            10 ** (-each.psnr(radius, reference, predictor="ideal") / 20)
            for each in (by_levels, by_spectrum, tight)
        )
        assert found == pytest.approx(min(levels + beside, spectrum), rel=1e-7)
        won.add(levels + beside < spectrum)
    assert won == {False, True} or referred


def test_deviation_is_monotone_and_capped(both):
    found = [both.deviation(share * SIGMA) for share in (0, 0.1, 0.5, 1, 3, 50)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] == 1
    linf = both.deviation(1 / 255, "linf")
    assert linf <= both.deviation(math.sqrt(3 * 36) / 255, "l2")


def test_luma_moves_less_than_all_channels_together(both):
    weights = math.hypot(65.481, 128.553, 24.966) / 255
    whole, luma = both.deviation(0.02), both.deviation(0.02, y=True)
    assert luma == pytest.approx(whole * weights * math.sqrt(3))
    reference = both.sr.clone()
    assert both.psnr(0.02, reference, predictor="ideal", y=True, border=1) > 0


def test_a_border_leaves_fewer_values_for_the_same_deviation(both):
    inner = both.psnr(0.02, predictor="ideal", border=2)
    assert inner <= both.psnr(0.02, predictor="ideal")


def test_a_median_certificate_speaks_of_the_mean_too():
    net, lr = LinearSR(channels=3), gentle(0, channels=3, side=6)
    median = SmoothedSR(net, SIGMA, 21, **TILED).certify(lr, n=200, alpha=ALPHA, kind="both")
    mean = median.as_mean()
    assert (median.agg, mean.agg) == ("median", "mean")
    assert (median.antithetic, mean.antithetic) == (False, True)  # as means are served
    apart = Certificate(**{**vars(mean), "antithetic": False})
    assert not apart.as_mean().antithetic
    assert mean.deviation(0.02) == median.deviation(0.02)
    assert mean.psnr_predictors == ["served", "ideal"]
    assert mean.predictors == ["ideal"]
    steps = (torch.from_numpy(median.mean) * 255).round() / 255
    assert torch.allclose(mean.sr, steps, atol=1e-6)
    assert median.psnr(0.02) != mean.psnr(0.02)


def test_levels_get_half_of_alpha_only_where_there_is_a_spectrum():
    net, lr = LinearSR(channels=3), gentle(0, channels=3, side=6)
    smoothed = SmoothedSR(net, SIGMA, 21, **TILED)
    whole, half = (
        smoothed.certify(lr, n=200, alpha=alpha, kind=kind)
        for alpha, kind in ((ALPHA / 2, "levels"), (ALPHA, "both"))
    )
    assert np.array_equal(whole.z, half.z)
    assert half.spectrum.alpha == ALPHA / 2
    assert certify(kind="spectral").spectrum.alpha == ALPHA
    assert half.draws_needed(0.0, "ideal") == whole.draws_needed(0.0, "ideal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "spectral", "scope": "pixel"}, 'needs n >= 2 and scope="image"'),
        ({"kind": "spectral", "n": 1}, 'needs n >= 2 and scope="image"'),
        ({"kind": "nothing"}, "kind must be one of 'levels', 'spectral', 'both'"),
    ],
)
def test_what_can_not_be_asked_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        certify(**options)


def test_what_can_not_be_answered_is_refused(both):
    with pytest.raises(ValueError, match="have no useful bounds"):
        both.bounds(0.02)
    with pytest.raises(ValueError, match="levels bound no mean of few draws"):
        both.psnr(0.02, method="box")
    alone = certify(kind="levels")
    for ask in (lambda: alone.deviation(0.02), alone.as_mean):
        with pytest.raises(ValueError, match="holds levels only"):
            ask()
    with pytest.raises(ValueError, match="radius must be finite"):
        both.deviation(-1)


def test_a_fixed_seed_leaves_claims_of_the_ideal_mean():
    seeded = SmoothedSR(LinearSR(channels=1), SIGMA, 21, "mean", seed=1, **TILED)
    found = seeded.certify(gentle(0), n=100, alpha=ALPHA)
    assert found.psnr_predictors == ["ideal"]
    with pytest.raises(ValueError, match="fixed seed"):
        found.psnr(0.02)
    assert found.deviation(0.02) < 1


def test_certificates_come_back_from_their_files(both, tmp_path):
    both.save(tmp_path / "a.npz")
    back = Certificate.load(tmp_path / "a.npz")
    assert back.antithetic is True
    assert back.spectrum == both.spectrum
    assert np.array_equal(back.mean, both.mean)
    assert back.deviation(0.02, "linf") == both.deviation(0.02, "linf")
    assert back.summary() == both.summary()


def test_pilot_draws_are_a_tenth_within_limits():
    assert [pilot_count(n) for n in (2, 12, 30, 100, 1000, 50_000)] == [1, 6, 10, 10, 100, 200]


def test_pictures_of_many_tiles_need_fewer_draws():
    net = LinearSR(channels=3)
    small, large = gentle(0, channels=3, side=6), gentle(0, channels=3, side=60)
    few, many = (smoother(net).draws_wanted(lr, 0.5 / 255) for lr in (large, small))
    assert 100 <= few <= many <= 1000
    assert few < 1000
    found = smoother(net).certify(small, n="auto", alpha=ALPHA, void_guarantee_seed=3)
    assert found.n_cert == smoother(net).draws_wanted(small, alpha=ALPHA, seed=3)


def test_the_smallest_radii_promise_no_more_than_none(both):
    """A shift whose square is 0 in floating point must not become an infinite PSNR."""
    black = torch.zeros_like(both.sr)
    for predictor in ("ideal", "served"):
        for radius in (1e-320, 1e-170, 1e-100):
            assert both.psnr(radius, black, predictor=predictor) < 20
            none = both.psnr(0.0, predictor=predictor)
            assert both.psnr(radius, predictor=predictor) <= none


def test_half_precision_has_no_spectrum():
    smoothed = SmoothedSR(LinearSR(channels=1).half(), SIGMA, 21, **TILED)
    with pytest.raises(ValueError, match="float32 or float64"):
        smoothed.certify(gentle(0).half(), n=50, kind="both")


def test_a_reference_pays_for_what_the_draws_do_not_tell_of_the_mean():
    """At radius 0 the ideal mean is as far from its own draws' mean as `centre` allows."""
    found = certify(kind="spectral")
    to_mean = (torch.from_numpy(found.mean).double() - found.sr.double()).norm().item()
    rms = (found.spectrum.centre + to_mean) / math.sqrt(found.sr.numel()) + 0.5 / 255
    expected = -20 * math.log10(rms)
    assert found.psnr(0.0, found.sr, predictor="ideal") == pytest.approx(expected, abs=0.02)
