"""The certificate's statements as checks against known truth: each tells whether what it observes
agrees with what is promised.

Counts are compared by the binomial distribution. test_oracles.py wants every check to pass,
test_oracles_mutations.py wants it to fail when the mathematics is mutated.
"""

import numpy as np
import pytest
import torch
from oracles import LinearSR, Same, Step, allowed, gentle, leaves, truth
from scipy.special import bdtrc, betaincinv, ndtri
from torch import nn

from smoothsr import SmoothedSR, metrics
from smoothsr.certificates import quantile_bounds
from smoothsr.engine import noise

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
    return lambda _, draws, shape: torch.from_numpy(
        generator.standard_normal((len(draws), *shape), np.float32)
    )


def image(net, shape, seed):
    """An image on which the oracle shows most: Same's on the edge of an 8-bit step, Step's close to
    its threshold.
    """
    if isinstance(net, Same):
        return torch.full(shape, 0.5)  # 127.5/255
    return gentle(seed, shape[1], max(shape[2:]))[..., : shape[2], : shape[3]]


def share(count, trials, probability):
    """Whether a count fits a probability, from both sides."""
    return trials - allowed(trials, 1 - probability) <= count <= allowed(trials, probability)


def ideal_bounds_hold(case, count=CERTIFICATES, n=101):
    """Wrong certificates of the ideal median, over all values, levels and both sides, are no more
    than alpha's share.
    """
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    # The last level moves Same by whole 8-bit steps, from edge to edge.
    sigma = 20 / 255 / quantile_bounds.levels(n, ALPHA, 2, exact.constant.numel())[-1]
    smoothed = SmoothedSR(net, sigma, batch_size=n, **options)
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=2)
        radii = sigma * np.linspace(0, 1, 5) * result.z[-1]
        wrong += leaves(result, exact, lr, radii)
    return wrong <= allowed(count, ALPHA)


def early_looks_hold(lucky=False, procedures=300, alpha=0.1):
    """No more than the share alpha of procedures ends with a wrong certificate, whatever ends them:
    the first that is wrong, the worst of all rules, or a lucky one, narrower than most of its kind.

    On one value of Same, at two levels, each look is wrong with nearly its share of alpha.
    """
    lr, sigma = torch.full((1, 1, 1, 1), 0.5), 0.2
    exact = truth(Same(), (1, 1, 1, 1))
    smoothed = SmoothedSR(Same(), sigma, batch_size=300)
    narrow = {11: 0.37, 33: 0.23, 100: 0.115}  # by about the draws of a third

    def is_wrong(certificate):
        return leaves(certificate, exact, lr, sigma * np.linspace(0, 1, 5) * certificate.z[-1])

    def is_narrow(certificate):
        lower, upper = certificate.bounds(0.0, "ideal")
        return upper - lower < narrow[certificate.n_cert]

    options = {"n": 300, "alpha": alpha, "levels": 2, "looks": 5}
    options["enough"] = is_narrow if lucky else is_wrong
    found = [smoothed.certify(lr, **options) for _ in range(procedures)]
    assert {certificate.n_cert for certificate in found} == {*narrow, 300}
    return sum(map(is_wrong, found)) <= allowed(procedures, alpha)


def ranks_are_exact():
    """On Same, a value's bound fails just as often as a binomial variable says: no less, since
    ranks aren't higher than needed.
    """
    n, a, steps, side = 101, 0.05, 20, 96
    top = ndtri(a ** (1 / n))
    # The smallest rank whose tail is at most a, at level 0; the last of the draws at the last
    # level.
    tail = next(bdtrc(rank - 1, n, 0.5) for rank in range(1, n + 1) if bdtrc(rank - 1, n, 0.5) <= a)
    smoothed = SmoothedSR(Same(), steps / 255 / top, batch_size=n)
    result = smoothed.certify(
        torch.full((1, 1, side, side), 0.5), n=n, alpha=4 * a, levels=2, scope="pixel"
    )
    fits = []
    for radius, moved, probability in ((0.0, 0, tail), (result.max_radius, steps, a)):
        lower, upper = (bound * 255 for bound in result.bounds(radius, "ideal"))
        # Half of the draws are at most 127, and the others at least 128: any attack moves the
        # median to either.
        for misses in (upper < 127.9 + moved, lower > 127.1 - moved):
            fits.append(share(int(misses.sum()), side**2, probability))
    return all(fits)


def served_bounds_hold(case, per, inferences=150):
    """Served outputs under the attack that is worst for one value leave their bounds in no more
    than beta's share.
    """
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
        attacked = (
            lr + (exact.jacobian[index] * radius / exact.norm.flatten()[index]).view(shape).float()
        )
        lower, upper = result.bounds(radius, "served", BETA, per)
        misses = 0
        for _ in range(inferences):
            output = smoothed(attacked).mul(255).round() / 255
            outside = ((output < lower) | (output > upper)).flatten()
            misses += bool(outside.any() if per == "image" else outside[index])
        holds.append(misses <= allowed(inferences, BETA))
    return all(holds)


def flips_are_feared():
    """A uniform change turns every tile of Step over, so that nothing may be certified: up or down,
    l2 or linf, box or shared.
    """
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
    """No certified PSNR is above what an attack of that norm leaves, but for alpha's share of
    certificates.
    """
    net, shape, options = CASES[case]
    exact = truth(net, shape, **options)
    sigma = 0.1
    smoothed = SmoothedSR(net, sigma, batch_size=n, **options)
    # The directions in which the linear map reacts most, one pixel, and the same change everywhere.
    directions = torch.cat(
        [torch.linalg.svd(exact.jacobian).Vh[:2], torch.eye(exact.jacobian.shape[1])[:1].double()]
    )
    directions = torch.cat([directions, torch.ones(1, exact.jacobian.shape[1]).double()])
    directions /= directions.norm(dim=1, keepdim=True)
    served_at = (
        torch.tensor(ndtri(betaincinv(11, 11, (np.arange(200) + 0.5) / 200)))
        if predictor == "served"
        else torch.zeros(1)
    )
    wrong = 0
    for seed in range(count):
        lr = image(net, shape, seed)
        result = smoothed.certify(lr, n=n, alpha=ALPHA, levels=8)
        y = exact.output(lr)
        radius = sigma * result.z[-1] * (seed % 4) / 3
        certified = result.psnr(radius, (y / 255).float(), predictor=predictor)
        attacked = [
            lr + sign * radius * direction.view(shape)
            for direction in directions
            for sign in (-1, 1)
        ]
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
        wrong += result.psnr(change, y, predictor="ideal", norm="linf") > min(
            metrics.psnr(output, y).item() for output in outputs
        )
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
                mean = (
                    torch.special.ndtr((moved - 0.5) / (sigma * exact.norm))
                    if isinstance(net, Step)
                    else moved
                )
                outside = ((mean * 255).round() < lower - 0.01) | (
                    (mean * 255).round() > upper + 0.01
                )
                if outside.any():
                    break
            else:
                continue
            wrong += 1
            break
    return wrong <= allowed(count, ALPHA)


def chosen_values_hold(inferences=100):
    """An attacker who looks at served outputs, and goes for the value that strayed furthest, gains
    nothing.
    """
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
    """Bounds are beyond the exact worst case by what order statistics of n draws need, and nothing
    else is given away.
    """
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
    ranks = quantile_bounds.level_ranks(result.z, n, result.alpha, result.values)
    expected = (
        ndtri((ranks - 0.375) / (n + 0.25)) - result.z
    )  # Blom's approximation of a normal order statistic
    assert expected[:-1].max() < 0.4  # the last level's bound is the largest draw
    return np.allclose(np.reshape(excess, (20, 4)).mean(axis=0), expected, rtol=0, atol=0.04)


class Trap(nn.Module):
    """Built by someone who knows the noise of a seed: 0 on the inputs that it makes, 1 on all
    others.
    """

    def __init__(self, lr, sigma, n, seed):
        super().__init__()
        self.known = (
            lr + sigma * noise.source(seed, lr.device, lr.dtype)(0, range(n), (*lr.shape[1:],))
        ).flatten(1)
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
