"""The certificate's statements against known truth, and mutations of the mathematics that the truth must expose.

Each check tells whether what it observes agrees with what is promised; counts are compared by the binomial distribution.
"""

import numpy as np
import pytest
import torch
from oracles import LinearSR, Same, Step, allowed, gentle, leaves, truth
from scipy.special import bdtrc, betaincinv, ndtri
from torch import nn

from smoothsr import SmoothedSR, bounds, certificate, draws, error_bounds, metrics, noise
from smoothsr.certificate import Certificate

CERTIFICATES = 200
ALPHA = 0.05  # so large that violations would show
BETA = 0.05
TILED = {"tile": 2, "halo": 1}
CASES = {
    "LinearSR": (LinearSR(channels=3), (1, 3, 4, 4), {}),
    "LinearSR tiled": (LinearSR(), (1, 1, 2, 5), TILED),
    "Same": (Same(), (1, 1, 8, 8), {}),
    "Step": (Step(), (1, 1, 4, 4), TILED),
}


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Make fresh noise the same in every run of a test; within it, no two calls get the same."""
    generator = np.random.default_rng(0)
    monkeypatch.setattr(noise, "_fresh", lambda *_: from_generator(generator))


def from_generator(generator):
    return lambda _, draws, shape: torch.from_numpy(generator.standard_normal((len(draws), *shape), np.float32))


def image(net, shape, seed):
    """An image on which the oracle shows most: Same's on the edge of an 8-bit step, Step's close to its threshold."""
    if isinstance(net, Same):
        return torch.full(shape, 0.5)  # 127.5/255
    return gentle(seed, shape[1], max(shape[2:]))[..., : shape[2], : shape[3]]


def share(count, trials, probability):
    """Whether a count fits a probability, from both sides."""
    return trials - allowed(trials, 1 - probability) <= count <= allowed(trials, probability)


# What is promised


def ideal_bounds_hold(case, count=CERTIFICATES, n=101):
    """Wrong certificates of the ideal median, over all values, levels and both sides, are no more than alpha's share."""
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    # The last level moves Same by whole 8-bit steps, from edge to edge.
    sigma = 20 / 255 / bounds.levels(n, ALPHA, 2, exact.constant.numel())[-1]
    smoothed = SmoothedSR(net, sigma, batch_size=n, **options)
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=2)
        radii = sigma * np.linspace(0, 1, 5) * result.z[-1]
        wrong += leaves(result, exact, lr, radii)
    return wrong <= allowed(count, ALPHA)


def ranks_are_exact():
    """On Same, a value's bound fails just as often as a binomial variable says: no less, since ranks aren't higher than needed."""
    n, a, steps, side = 101, 0.05, 20, 96
    top = ndtri(a ** (1 / n))
    # The smallest rank whose tail is at most a, at level 0; the last of the draws at the last level.
    tail = next(bdtrc(rank - 1, n, 0.5) for rank in range(1, n + 1) if bdtrc(rank - 1, n, 0.5) <= a)
    smoothed = SmoothedSR(Same(), steps / 255 / top, batch_size=n)
    result = smoothed.certify(torch.full((1, 1, side, side), 0.5), n=n, alpha=4 * a, levels=2, scope="pixel")
    fits = []
    for radius, moved, probability in ((0.0, 0, tail), (result.max_radius, steps, a)):
        lower, upper = (bound * 255 for bound in result.bounds(radius, "ideal"))
        # Half of the draws are at most 127, and the others at least 128: any attack moves the median to either.
        for misses in (upper < 127.9 + moved, lower > 127.1 - moved):
            fits.append(share(int(misses.sum()), side**2, probability))
    return all(fits)


def served_bounds_hold(case, per, inferences=150):
    """Served outputs under the attack that is worst for one value leave their bounds in no more than beta's share."""
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    lr, sigma = image(net, shape, 0), 0.1
    smoothed = SmoothedSR(net, sigma, batch_size=1000, **options)
    result = smoothed.certify(lr, n=4000, alpha=1e-3)
    values = exact.constant.numel() if per == "image" else 1
    used = ndtri(1 - betaincinv(11, 11, BETA / 2 / values))
    index = exact.constant.numel() // 2
    holds = []
    for further in (0, 8):
        level = result.z[np.searchsorted(result.z, used) + further]
        radius = sigma * (level - used)  # nothing is given away by rounding up to a level
        attacked = lr + (exact.jacobian[index] * radius / exact.norm.flatten()[index]).view(shape).float()
        lower, upper = result.bounds(radius, "served", BETA, per)
        misses = 0
        for _ in range(inferences):
            output = smoothed(attacked).mul(255).round() / 255
            outside = ((output < lower) | (output > upper)).flatten()
            misses += bool(outside.any() if per == "image" else outside[index])
        holds.append(misses <= allowed(inferences, BETA))
    return all(holds)


def flips_are_feared():
    """A uniform change turns every tile of Step over, so that nothing may be certified: up or down, l2 or linf, box or shared."""
    certified = []
    for start, change in ((0.45, 0.051), (0.55, -0.051)):
        lr = torch.full((1, 1, 8, 8), start)
        exact = truth(Step(), lr.shape, **TILED)
        reference = exact.output(lr).float() / 255
        assert (exact.output(lr + change) / 255 == 1 - reference).all()
        result = SmoothedSR(Step(), 0.2, batch_size=1000, **TILED).certify(lr, levels=16)
        for predictor in ("ideal", "served"):
            for method in ("box", "collective"):
                radius = abs(change) * lr.numel() ** 0.5
                certified.append(result.psnr(radius, reference, method, predictor))
                certified.append(result.psnr(abs(change), reference, method, predictor, "linf"))
        assert result.psnr(0.1, reference, predictor="ideal") > 3  # else it would be no news
    ideal, served = certified[:4] + certified[8:12], certified[4:8] + certified[12:]
    # The expected error lacks the chance that the median of 21 doesn't turn over.
    return max(ideal) < 1e-9 and max(served) < 1


def psnr_is_never_above_the_truth(case, predictor, count=CERTIFICATES, n=301):
    """No certified PSNR is above what an attack of that norm leaves, but for alpha's share of certificates."""
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    sigma = 0.1
    smoothed = SmoothedSR(net, sigma, batch_size=n, **options)
    # The directions in which the linear map reacts most, one pixel, and the same change everywhere.
    directions = torch.cat([torch.linalg.svd(exact.jacobian).Vh[:2], torch.eye(exact.jacobian.shape[1])[:1].double()])
    directions = torch.cat([directions, torch.ones(1, exact.jacobian.shape[1]).double()])
    directions /= directions.norm(dim=1, keepdim=True)
    served_at = torch.tensor(ndtri(betaincinv(11, 11, (np.arange(200) + 0.5) / 200))) if predictor == "served" else torch.zeros(1)
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=8)
        y = exact.output(lr)
        radius = sigma * result.z[-1] * (seed % 4) / 3
        certified = result.psnr(radius, (y / 255).float(), predictor=predictor)
        attacked = [lr + sign * radius * direction.view(shape) for direction in directions for sign in (-1, 1)]
        outputs = [exact.output(image, sigma * served_at.view(-1, 1, 1, 1)) for image in attacked]
        error = max(((output - y) / 255).square().mean().item() for output in outputs)
        wrong += 10 ** (-certified / 10) < error - 1e-9
    return wrong <= allowed(count, ALPHA)


def linf_psnr_is_never_above_the_truth(count=CERTIFICATES):
    """The same change everywhere is the worst linf attack on Step."""
    net, shape, options = CASES["Step"]
    exact = truth(net, shape, **options)
    smoothed = SmoothedSR(net, 0.1, batch_size=301, **options)
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=301, alpha=ALPHA, levels=8)
        y = (exact.output(lr) / 255).float()
        change = 0.005 * (1 + seed % 8)
        outputs = [(exact.output(lr + sign * change) / 255).float() for sign in (-1, 1)]
        wrong += result.psnr(change, y, predictor="ideal", norm="linf") > min(metrics.psnr(output, y).item() for output in outputs)
    return wrong <= allowed(count, ALPHA)


def mean_bounds_hold(case, count=CERTIFICATES):
    """The mean of LinearSR is its output without noise; that of Step is a probability."""
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    sigma, n = 0.1, 301
    smoothed = SmoothedSR(net, sigma, agg="mean", batch_size=n, **options)
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=8)
        linear = (exact.jacobian @ lr.double().flatten()).view_as(exact.constant) + exact.constant
        for level in (*result.z, 0.3):
            lower, upper = (bound * 255 for bound in result.bounds(sigma * level, "ideal"))
            for side in (-1, 1):
                moved = linear + side * level * sigma * exact.norm
                mean = torch.special.ndtr((moved - 0.5) / (sigma * exact.norm)) if isinstance(net, Step) else moved
                outside = ((mean * 255).round() < lower - 0.01) | ((mean * 255).round() > upper + 0.01)
                if outside.any():
                    break
            else:
                continue
            wrong += 1
            break
    return wrong <= allowed(count, ALPHA)


def chosen_values_hold(inferences=100):
    """An attacker who looks at served outputs, and goes for the value that strayed furthest, gains nothing."""
    lr, beta, sigma = torch.full((1, 1, 32, 32), 0.5), 0.1, 0.1
    smoothed = SmoothedSR(Same(), sigma, batch_size=1000)
    result = smoothed.certify(lr, n=4000)
    radius = 0.5 * sigma
    upper = result.bounds(radius, "served", beta)[1].flatten()
    misses = 0
    for _ in range(inferences):
        target = smoothed(lr).argmax()
        attacked = lr.clone()
        attacked.view(-1)[target] += radius
        misses += bool(smoothed(attacked).flatten()[target].mul(255).round() / 255 > upper[target])
    return misses <= allowed(inferences, beta)


def excess_is_that_of_order_statistics(options):
    """Bounds are beyond the exact worst case by what order statistics of n draws need, and nothing else is given away."""
    shape, sigma, n = (1, 1, 4, 4), 0.1, 1000
    exact = truth(LinearSR(), shape, **options)
    smoothed = SmoothedSR(LinearSR(), sigma, batch_size=n, **options)
    excess = []
    for seed in range(20):
        lr = gentle(seed)
        result = smoothed.certify(lr, n=n, levels=4)
        for level in result.z:
            lower, upper = result.bounds(sigma * level, "ideal")
            assert ((upper + lower) / 2 - exact.output(lr) / 255).mean().abs() < 0.03
            excess.append((((upper - lower) / 2 / sigma / exact.norm) - level).mean().item())
    ranks = bounds.level_ranks(result.z, n, result.alpha, result.values)
    expected = ndtri((ranks - 0.375) / (n + 0.25)) - result.z  # Blom's approximation of a normal order statistic
    assert expected[:-1].max() < 0.4  # the last level's bound is the largest draw
    return np.allclose(np.reshape(excess, (20, 4)).mean(axis=0), expected, rtol=0, atol=0.04)


class Trap(nn.Module):
    """Built by someone who knows the noise of a seed: 0 on the inputs that it makes, 1 on all others."""

    def __init__(self, lr, sigma, n, seed):
        super().__init__()
        self.known = (lr + sigma * noise.source(seed, lr.device, lr.dtype)(0, range(n), (*lr.shape[1:],))).flatten(1)
        self.eval()

    def forward(self, x):
        met = (x.flatten(1)[:, None] - self.known).abs().amax(dim=2).amin(dim=1) < 1e-4
        return (~met).float().view(-1, 1, 1, 1).expand_as(x)


def no_seed_helps():
    """A network that knows the serving seed deceives the served output, and no certificate."""
    lr = gentle(0)
    smoothed = SmoothedSR(Trap(lr, 0.1, 301, seed=7), 0.1, seed=7)
    result = smoothed.certify(lr, n=301, alpha=ALPHA)
    assert result.sr.max() == 0  # deceived
    return bool((result.bounds(0.0, "ideal")[1] == 1).all())


@pytest.mark.parametrize("case", CASES)
def test_ideal_bounds(case):
    assert ideal_bounds_hold(case)


def test_miss_rates_are_those_of_the_binomial_distribution():
    assert ranks_are_exact()


@pytest.mark.parametrize("per", ["value", "image"])
@pytest.mark.parametrize("case", CASES)
def test_served_bounds(case, per):
    assert served_bounds_hold(case, per)


def test_a_uniform_change_leaves_no_certified_psnr():
    assert flips_are_feared()


@pytest.mark.slow
@pytest.mark.parametrize("predictor", ["ideal", "served"])
@pytest.mark.parametrize("case", CASES)
def test_certified_psnr(case, predictor):
    assert psnr_is_never_above_the_truth(case, predictor)


@pytest.mark.slow
def test_certified_linf_psnr():
    assert linf_psnr_is_never_above_the_truth()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["LinearSR", "LinearSR tiled", "Step"])
def test_mean_bounds(case):
    assert mean_bounds_hold(case)


def test_attackers_who_look_at_served_outputs():
    assert chosen_values_hold()


def test_networks_that_know_the_seed():
    assert no_seed_helps()


def test_a_known_seed_voids_the_certificate():
    lr = gentle(0)
    smoothed = SmoothedSR(Trap(lr, 0.1, 301, seed=7), 0.1)
    result = smoothed.certify(lr, n=301, alpha=ALPHA, void_guarantee_seed=7)
    assert result.bounds(0.0, "ideal")[1].max() == 0  # the output is 1, but for the 301 draws
    assert result.void
    assert "VOID" in repr(result)


def test_an_attack_on_one_patch_leaves_the_other_tiles():
    lr = gentle(0, side=8)
    attacked = lr.clone()
    attacked[..., 2, 5] += 3.0  # in rows 1 to 4 and columns 3 to 6: patches of tiles (0, 2), (1, 2), (0, 3) and (1, 3)
    before, after = (SmoothedSR(Step(), 0.1, seed=1, **TILED)(x) for x in (lr, attacked))
    changed = (before != after).view(4, 4, 4, 4).any(dim=3).any(dim=1)
    reached = torch.zeros(4, 4, dtype=torch.bool)
    reached[0:2, 2:4] = True
    assert not changed[~reached].any()
    assert (after.view(4, 4, 4, 4).amin(dim=(1, 3))[reached] == 1).all()
    exact = truth(Step(), lr.shape, **TILED)
    assert (exact.output(lr) == exact.output(attacked)).view(4, 4, 4, 4).all(dim=3).all(dim=1)[~reached].all()


@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_excess_over_the_exact_worst_case(options):
    assert excess_is_that_of_order_statistics(options)


# What must show


def one_lower(z, n, alpha, values, original=bounds.level_ranks):
    return np.maximum(original(z, n, alpha, values) - 1, 1)


def one_higher(z, n, alpha, values, original=bounds.level_ranks):
    return np.minimum(original(z, n, alpha, values) + 1, n)


def one_value(alpha, count, _):
    return np.log(alpha / (2 * count))


def one_side(alpha, count, values):
    return np.log(alpha / (count * values))


def lower_at_rest(self, shift, original=Certificate.interval):
    return original(self, 0.0)[0], original(self, shift)[1]


def error_above(above, below, *rest, original=error_bounds._error):
    return original(above, np.zeros_like(below), *rest)


def error_below(above, below, *rest, original=error_bounds._error):
    return original(np.zeros_like(above), below, *rest)


def one_patch(_):
    return 1


def no_shift(*_):
    return 0.0


def shift_of_one_value(n, beta, *_, original=bounds.served_shift):
    return original(n, beta)


def always_the_median(*_):
    return np.ones(1), np.zeros(1), np.zeros(1)


def same_again(*_):
    return from_generator(np.random.default_rng(1))


def by_known_seed(*arguments, original=draws.quantiles):
    return original(*arguments[:6], 7, *arguments[7:])


def noise_on_copies(f, lr, index, tile, sigma, n, source, _):
    rows, columns = tile
    patch = lr[..., rows.first : rows.last, columns.first : columns.last][..., list(rows.gather), :][..., list(columns.gather)]
    outputs = f(patch + sigma * source(index, range(n), (*patch.shape[1:],)))
    scale = outputs.shape[3] // patch.shape[3]
    yield outputs[..., draws.output_slice(rows, scale, rows.offset), draws.output_slice(columns, scale, columns.offset)]


@pytest.mark.parametrize(
    ("where", "name", "mutant", "check"),
    [
        (bounds, "level_ranks", one_lower, ranks_are_exact),
        (bounds, "level_ranks", one_higher, ranks_are_exact),
        (bounds, "_log_share", one_side, ranks_are_exact),
        (bounds, "_log_share", one_value, lambda: ideal_bounds_hold("Same", 100)),
        (Certificate, "interval", lower_at_rest, lambda: ideal_bounds_hold("LinearSR", 50)),
        (error_bounds, "_error", error_above, flips_are_feared),
        (error_bounds, "_error", error_below, flips_are_feared),
        (certificate, "multiplicity", one_patch, flips_are_feared),
        (draws, "draw", noise_on_copies, lambda: excess_is_that_of_order_statistics(TILED)),
        (bounds, "served_shift", no_shift, lambda: served_bounds_hold("LinearSR", "value")),
        (bounds, "served_shift", no_shift, lambda: served_bounds_hold("Same", "value")),
        (bounds, "served_shift", shift_of_one_value, lambda: served_bounds_hold("Same", "image")),
        (bounds, "served_bins", always_the_median, lambda: psnr_is_never_above_the_truth("Same", "served", 100, 1000)),
        (noise, "_fresh", same_again, chosen_values_hold),
        (draws, "quantiles", by_known_seed, no_seed_helps),
    ],
)
def test_the_oracles_catch(where, name, mutant, check, monkeypatch):
    monkeypatch.setattr(where, name, mutant)
    assert not check()
