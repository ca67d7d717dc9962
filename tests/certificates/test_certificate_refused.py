"""What a Certificate refuses to say, and in which words."""

import pytest
import torch
from oracles import LinearSR, gentle
from synthetic_certificates import SIGMA, made

from smoothsr import SmoothedSR


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
        (
            lambda c: c.radius_map(0.1, center=torch.zeros(1, 1, 1, 1)),
            r"center must be \(1, 3, 8, 10\), got \(1, 1, 1, 1\)",
        ),
        (
            lambda c: c.psnr(0.1, torch.zeros(1, 3, 8, 8)),
            r"reference must be \(1, 3, 8, 10\), got \(1, 3, 8, 8\)",
        ),
        (lambda c: c.psnr(0.1, torch.zeros(3, 8, 10)), "reference must be"),
        (lambda c: c.psnr(0.1, torch.full((1, 3, 8, 10), torch.nan)), "reference has NaN"),
        (lambda c: c.psnr(0.1, method="sum"), "method must be one of"),
        (lambda c: c.psnr(0.1, norm="l1"), "norm must be one of"),
        (lambda c: c.psnr(0.1, border=4), "leave some of 8x10 pixels, got 4"),
        (lambda c: c.psnr(0.1, border=-1), "border must be at least 0"),
        (lambda _: made(channels=1).psnr(0.1, y=True), "y=True needs three channels, got 1"),
    ],
)
def test_questions_out_of_range(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(made())


def test_the_network_is_tried_on_patches_as_it_will_get_them():
    class Seen(LinearSR):
        def forward(self, x):
            shapes.add((*x.shape[2:],))
            return super().forward(x)

    shapes = set()
    SmoothedSR(Seen(), 0.05, 3, tile=2, halo=1).certify(torch.full((1, 1, 4, 4), 0.5), n=40)
    assert shapes == {(4, 4)}
