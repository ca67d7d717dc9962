"""Conditions: what a text means, and who knows which noise."""

import re

import numpy as np
import pytest
import torch
from attack_networks import LinearSR
from recording_network import Net, photo, smoother

from smoothsr.attacks.views import seed_of, serve, views
from smoothsr.evaluation import degradations
from smoothsr.evaluation.conditions import Attack, Degradation, parse

MEANINGS = {
    "none": (),
    "clean": (),
    "noise:0.03": (Degradation("noise", 0.03),),
    "blur:1+jpeg:60": (Degradation("blur", 1), Degradation("jpeg", 60)),
    "fgsm:1/255": (Attack("fgsm", 1 / 255, "linf", False),),
    "pgd:linf:.1@bare": (Attack("pgd", 0.1, "linf", True),),
    "cw:l2:2.5:c=0.5:steps=7": (Attack("cw", 2.5, "l2", False, {"c": 0.5, "steps": 7}),),
    "pgd:rms:1e-2:via=mean:draws=3:restarts=2": (
        Attack("pgd", 0.01, "rms", False, {"via": "mean", "draws": 3, "restarts": 2}),
    ),
    "resize:1/2+strongest:4/255:evaluations=9": (
        Degradation("resize", 0.5),
        Attack("strongest", 4 / 255, "linf", False, {"evaluations": 9}),
    ),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_text_means(text):
    assert parse(text).text == text
    assert parse(text).steps == MEANINGS[text]


WRONG = {
    "": "unknown condition ''",
    "pdg:4/255": (
        "unknown condition 'pdg' in 'pdg:4/255': use \"none\" alone, or of noise, jpeg, blur, "
        "resize, fgsm"
    ),
    "none+noise:0.1": "unknown condition 'none'",
    "noise:0.1+": "unknown condition ''",
    "noise": "'noise' must be noise:STRENGTH",
    "noise:0.1:0.2": "must be noise:STRENGTH",
    "noise:l2:0.1": "must be noise:STRENGTH",
    "noise:0.1:seed=3": "no options",
    "noise:0.1@bare": 'no "@"',
    "noise:25": "got 25: write 25/255, not 25",
    "jpeg:0.5": "JPEG quality must be an integer",
    "jpeg:200": "JPEG quality must be an integer",
    "blur:0": "'0' must be a number greater than 0",
    "blur:-1": "'-1' must be a number greater than 0",
    "blur:nan": "'nan' must be a number",
    "resize:inf": "'inf' must be a number",
    "pgd": "must be NAME:EPS or NAME:NORM:EPS",
    "pgd:l2": "'l2' must be a number",
    "pgd:l3:0.5": "NORM being linf, l2 or rms",
    "pgd:1:2:3": "must be NAME:EPS",
    "pgd:4/0": "'4/0' must be a number",
    "pgd:4": "eps must be at most 1, as values are; got 4: write 4/255, not 4",
    "pgd:rms:4": "at most 1",
    "pgd:4/255@": "what follows \"@\" must be bare, got ''",
    "pgd:4/255@smoothed": "must be bare, got 'smoothed'",
    "pgd:4/255:stps=9": "pgd takes via, draws, steps, restarts, each once, got stps=9",
    "pgd:4/255:c=9": "got c=9",
    "fgsm:4/255:steps=9": "got steps=9",
    "strongest:4/255:via=mean": "got via=mean",
    "pgd:4/255:steps=9:steps=8": "each once, got steps=8",
    "pgd:4/255:steps=": "'' must be a number",
    "pgd:4/255:steps=many": "'many' must be a number",
    "pgd:4/255:steps=0": "'0' must be a number greater than 0",
    "pgd:4/255:steps=2.5": "steps must be a whole number, got '2.5'",
    "pgd:4/255:via=median": "via must be served, mean or draw, got 'median'",
    "pgd:4/255:via=served:draws=9": "draws goes with via=mean or via=draw",
    "cw:4/255:c=-1": "'-1' must be a number greater than 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_named_in_one_line(text):
    with pytest.raises(ValueError, match=re.escape(WRONG[text])) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_a_chain_applies_from_left_to_right():
    lr, net = photo()[:, :1], LinearSR("sharp")
    blurred_first = degradations.jpeg(degradations.blur(lr, 1), 20)
    assert torch.equal(parse("blur:1+jpeg:20").apply(lr, None, net, 0), blurred_first)
    assert not torch.equal(parse("jpeg:20+blur:1").apply(lr, None, net, 0), blurred_first)
    assert torch.equal(parse("none").apply(lr, None, net, 0), lr)
    attacked = parse("blur:1+pgd:4/255").apply(
        lr, None, net, 0
    )  # what is attacked is the blurred image
    assert 0 < (attacked - degradations.blur(lr, 1)).abs().max() <= 4 / 255 + 1e-7


def test_a_seed_fixes_the_noise_for_every_model():
    lr, condition = photo(), parse("blur:1+noise:0.1")
    seeds = [seed_of(0, "baby"), seed_of(0, "bird"), seed_of(1, "baby"), -3]
    results = [condition.apply(lr, None, Net(), seed) for seed in seeds]
    assert len({result.numpy().tobytes() for result in results}) == len(seeds)
    for model in (smoother(), LinearSR()):
        assert torch.equal(condition.apply(lr, None, model, seeds[0]), results[0])
    assert not torch.equal(
        condition.apply(photo().flip(3), None, Net(), seeds[0]).flip(3), results[0]
    )


def test_noise_that_is_added_twice_is_not_the_same():
    grey = torch.full((1, 3, 100, 100), 0.5)
    twice = parse("noise:0.03+noise:0.03").apply(grey, None, Net(), 0) - 0.5
    assert twice.std().item() == pytest.approx(0.03 * np.sqrt(2), rel=0.02)


def test_seeds_from_words_are_the_same_everywhere():
    assert (
        seed_of(0, "baby") == 1571275225747858593
    )  # not Python's hash, which differs from process to process
    seeds = {
        seed_of(*words)
        for words in [
            (0, "a"),
            (0, "b"),
            (1, "a"),
            ("0", "a"),
            (0,),
            ("a", 0),
            (seed_of(0, "a"), "serving"),
        ]
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_serving_is_the_smoother_with_that_seed_or_the_bare_network_in_range():
    lr, smoothed = photo(), smoother(seed=5)
    assert torch.equal(serve(smoothed, lr, 9), smoother(smoothed.model, seed=9)(lr))
    assert not torch.equal(serve(smoothed, lr, 9), serve(smoothed, lr, 10))
    assert smoothed.seed == 5
    wild = LinearSR("blur")  # its output is nine times its input
    assert torch.equal(serve(wild, lr[:, :1], 9), wild(lr[:, :1]).clamp(0, 1))


@pytest.mark.parametrize("seed", [None, 5])
def test_serving_leaves_the_seed_alone_also_if_it_fails(seed):
    smoothed = smoother(seed=seed)
    smoothed.model.register_forward_hook(lambda *_: pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception, match="stop"):
        serve(smoothed, photo(), 9)
    assert smoothed.seed == seed


def test_serving_has_a_gradient():
    for model in (Net(), smoother()):
        lr = photo().requires_grad_()
        (slope,) = torch.autograd.grad(serve(model, lr, 0).sum(), lr)
        assert slope.abs().max() > 0.01


def test_an_attacker_never_meets_noise_twice_nor_that_of_serving():
    lr, seed = photo(), 7
    smoothed = smoother(seed=seed)
    for i in range(12):  # as many as the attacker's calls below
        serve(smoothed, lr, seed + i)
        serve(smoothed, lr, seed_of(seed, "serving") + i)
    counts = []
    for view in views(smoothed, lr, 3, seed).values():
        for _ in range(3):
            before = sum(map(len, smoothed.model.seen))
            view(lr)
            counts.append(sum(map(len, smoothed.model.seen)) - before)
    assert counts == 3 * [1] + 3 * [5] + 3 * [3] + 3 * [1]
    seen = torch.cat(smoothed.model.seen)
    noisy = seen[~(seen == lr).flatten(1).all(1)] - lr
    assert len(noisy) == 24 * 5 + 3 * (5 + 3 + 1)
    assert noisy.std().item() == pytest.approx(smoothed.sigma, rel=0.03)
    alike = torch.corrcoef(noisy.flatten(1)).fill_diagonal_(0)
    assert alike.abs().max() < 0.45  # 200 values each: more than six standard errors


def test_views_are_what_they_say():
    lr, smoothed = photo(), smoother(agg="p30", tile=4, halo=1)
    seen = views(smoothed, lr, 8, 0)
    assert list(seen) == ["bare", "served", "mean", "draw"]
    assert torch.equal(seen["bare"](lr), smoothed.model(lr))
    options = {"tile": 4, "halo": 1, "antithetic": False}
    for way, n, agg in (("served", 5, "p30"), ("mean", 8, "mean"), ("draw", 1, "median")):
        seeds = [seed_of(0, "attacker") + i for i in range(5)]
        expected = [
            smoother(smoothed.model, n=n, agg=agg, seed=seed, **options)(lr) for seed in seeds
        ]
        output = seen[way](lr)
        assert min((output - one).abs().max() for one in expected) < 1e-5, way
    assert list(views(Net(), lr, 8, 0)) == ["bare", "served"]
    assert (smoothed.n, smoothed.agg, smoothed.seed) == (5, "p30", None)
