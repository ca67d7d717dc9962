"""No attack leaves a certificate of the same smoother: the benchmark of 200 attacks, with fewer,
and that it can fail.
"""

import runpy
from pathlib import Path

import pytest
import torch
from synthetic_certificates import made

from smoothsr import SmoothedSR, attacks
from smoothsr.attacks.views import serve
from smoothsr.certificates.check import bounds_under, judge
from smoothsr.certificates.levels import Levels

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/certified_attacks.py"))
confront, prepare, attack = (BENCHMARK[name] for name in ("confront", "prepare", "attack"))


def one_value(output, reference):
    """By how much a value in the middle of a tile exceeds the reference."""
    return (output - reference)[:, 0, 5, 5]


def strong(case):
    """The strongest attack on one value, of 1.25 sigma."""
    radius = 1.25 * case.smoothed.sigma
    return attacks.pgd(
        case.smoothed.model, case.lr, eps=radius, norm="l2", loss=one_value, steps=20
    )


def run(name, count):
    cases = [prepare(name, index) for index in range(2)]
    seen = []
    for number in range(count):
        case = cases[number % 2]
        seen.append(confront(case, attack(case.smoothed, case.lr, number, steps=5), count))
    return seen


@pytest.mark.parametrize(
    ("name", "count"), [("LinearSR", 20), pytest.param("builtin", 12, marks=pytest.mark.slow)]
)
def test_no_attack_leaves_a_certificate(name, count, capsys):
    seen = run(name, count)
    assert not BENCHMARK["print_rows"](name, seen)
    assert f"| {name} | ideal | 100% | {count} | 0 | 0 |" in capsys.readouterr().out
    assert max(one.used for one in seen) > 0.25  # they were no straws


def test_the_strongest_attack_nearly_reaches_its_bound_and_leaves_that_of_half_the_radius():
    case = prepare("LinearSR", 0)
    attacked = strong(case)
    assert (attacked - case.lr).norm() > 0.99 * 1.25 * case.smoothed.sigma
    exact = case.exact.output(attacked)[0, 0, 5, 5]
    assert (
        exact - case.exact.output(case.lr)[0, 0, 5, 5]
        > 0.95 * 255 * 0.5 * 1.25 * case.smoothed.sigma
    )  # gain .5
    held, shrunk = confront(case, attacked, 1), confront(case, attacked, 1, shrink=0.5)
    assert (held.ideal, shrunk.ideal) == (False, True)
    assert 0.5 < held.used < 1 < shrunk.used


def test_half_the_radius_is_caught_by_the_count():
    case = prepare("LinearSR", 0)
    assert BENCHMARK["print_rows"]("LinearSR", [confront(case, strong(case), 1, shrink=0.5)])


@torch.no_grad()
def test_an_interval_check_of_the_median_catches_half_the_radius_too():
    """As the built-in network is judged, whose truth nobody knows."""
    case = prepare("LinearSR", 0)._replace(exact=None)
    attacked = strong(case)
    assert not confront(case, attacked, 1).ideal
    assert confront(case, attacked, 1, shrink=0.2).ideal


def test_served_values_leave_bounds_that_lack_the_radius():
    case = prepare("LinearSR", 0)
    attacked = strong(case)
    left = [
        sum(confront(case, attacked, 1, shrink).value) for shrink in (1.0, 0.0) for _ in range(10)
    ]
    assert sum(left[:10]) <= 6  # of 30, with probability .05 each at most
    assert sum(left[10:]) >= 15


def test_bounds_under_are_those_of_each_patch():
    """A change on one pixel widens the bounds of the tiles that read it and of no others."""
    case = prepare("LinearSR", 0)
    certificate, change = case.certificate, torch.zeros(1, 1, 8, 8)
    change[..., 1, 1] = -0.08  # the first of four tiles alone: tile 4, halo 1
    for predictor, per in (("ideal", "value"), ("served", "image")):
        found = bounds_under(certificate, change, predictor, 0.01, per)
        wide, narrow = (certificate.bounds(radius, predictor, 0.01, per) for radius in (0.08, 0.0))
        for bound, inside, elsewhere in zip(found, wide, narrow, strict=True):
            assert torch.equal(bound[..., :8, :8], inside[..., :8, :8])
            assert torch.equal(bound[..., 8:, :], elsewhere[..., 8:, :])
            assert torch.equal(bound[..., :8, 8:], elsewhere[..., :8, 8:])
    change = torch.zeros(1, 1, 8, 8)
    change[..., 3:5, 3:5] = 0.02  # four pixels that all tiles read
    assert torch.equal(
        bounds_under(certificate, change, "ideal")[1], certificate.bounds(0.04, "ideal")[1]
    )


@torch.no_grad()
def test_verdicts_count_and_say():
    case = prepare("LinearSR", 0)
    change = (strong(case) - case.lr).double()
    served = serve(case.smoothed, (case.lr + change).float(), 7)
    good = judge(case.certificate, change, served, 0.05)
    assert good.holds(0.05)
    assert "stayed inside" in good.text(case.certificate, 0.05)
    assert good.radius == pytest.approx(change.norm().item())
    assert good.bounded == 256
    # A change of nothing that moves the output all the same: an output that isn't the certified
    # smoother's.
    bad = judge(case.certificate, 0 * change, 1 - served, 0.05)
    lower, upper = case.certificate.bounds(0.0, beta=0.05)
    value = (1 - served).mul(255).round() / 255
    assert int(bad.outside.sum()) == int(((value < lower) | (value > upper)).sum()) > 100
    assert bad.outside_at_once > 0
    assert not bad.holds(0.05)
    assert "DID NOT HOLD" in bad.text(case.certificate, 0.05)
    # Most values outside of the single bounds, where the common ones say nothing.
    assert not bad._replace(outside_at_once=0, bounded_at_once=0).holds(0.001)
    for count, holds in (
        (25, True),
        (26, False),
    ):  # of 256 values, .256 may be outside on average, and 25.6 with 1%
        some = torch.zeros_like(bad.outside)
        some.view(-1)[:count] = True
        assert good._replace(outside=some).holds(0.001) == holds
    far = judge(case.certificate, 100 * change, 1 - served, 0.05)
    assert (far.bounded, int(far.outside.sum()), far.holds(0.05)) == (0, 0, True)
    assert "claims nothing of so large a change" in far.text(case.certificate, 0.05)


@torch.no_grad()
def test_verdicts_on_ideal_predictors_break_no_promise():
    case = prepare("LinearSR", 0)
    mean = SmoothedSR(case.smoothed.model, 0.1, agg="mean").certify(case.lr, n=400, levels=4)
    verdict = judge(mean, torch.zeros_like(case.lr), torch.zeros_like(mean.sr), 0.05)
    assert verdict.predictor == "ideal"
    assert int(verdict.outside.sum()) > 0
    assert verdict.holds(0.05)
    assert "ideal mean only" in verdict.text(mean, 0.05)


def test_bounds_under_look_up_every_value_once(monkeypatch):
    case = prepare("LinearSR", 0)
    looked_up = []

    def counted(self, *arguments, original=Levels.interval):
        found = original(self, *arguments)
        looked_up.append(found[0].size)
        return found

    monkeypatch.setattr(Levels, "interval", counted)
    bounds_under(case.certificate, torch.full((1, 1, 8, 8), 0.01))
    assert sum(looked_up) == case.certificate.sr_bytes.size


def test_judge_refuses_another_shape():
    case = prepare("LinearSR", 0)
    with pytest.raises(ValueError, match="output must be"):
        judge(case.certificate, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


def test_values_at_once_are_held_against_the_bounds_of_the_whole_image():
    certificate = made()
    output = (certificate.sr + 0.03).clamp(0, 1)
    verdict = judge(certificate, torch.zeros(1, *certificate.lr_shape), output, beta=0.05)
    expected = {}
    for per in ("value", "image"):
        lower, upper = certificate.bounds(0.0, beta=0.05, per=per)
        value = (output * 255).round() / 255
        bounded = (lower > 0) | (upper < 1)
        expected[per] = int(bounded.sum()), int(((value < lower) | (value > upper)).sum())
    assert (verdict.bounded, int(verdict.outside.sum())) == expected["value"]
    assert (verdict.bounded_at_once, verdict.outside_at_once) == expected["image"]
    assert expected["value"] != expected["image"]
