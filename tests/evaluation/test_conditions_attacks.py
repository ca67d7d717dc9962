"""Attacks as conditions: their budgets, aims and options; that they repeat; and the strongest of
them.
"""

from functools import partial

import numpy as np
import pytest
import torch
from attack_networks import LinearSR, images
from recording_network import Net, harm, photo, smoother, truth
from torch import Tensor, nn

from smoothsr import attacks
from smoothsr.attacks import selection
from smoothsr.attacks.views import seed_of, serve
from smoothsr.engine.lattice import snapped
from smoothsr.evaluation import degradations, steps
from smoothsr.evaluation.conditions import parse

EPS = 0.02
ATTACKS = ["fgsm", "bim", "pgd", "cw"]


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 0.3), ("rms", 0.02)])
@pytest.mark.parametrize("name", [*ATTACKS, "strongest"])
def test_budgets_hold_and_are_used(name, norm, eps):
    lr = images(batch=1, channels=2, low=-0.1, high=1.1)
    steps = "" if name == "fgsm" else ":steps=3"
    attacked = parse(f"{name}:{norm}:{eps}{steps}").apply(lr, truth(), smoother(), 3)
    change = (attacked - lr).double().numpy()
    used = {
        "linf": np.abs(change).max(),
        "l2": np.sqrt((change**2).sum()),
        "rms": np.sqrt((change**2).mean()),
    }[norm]
    assert 0.85 * eps < used <= eps
    assert ((attacked >= 0) & (attacked <= 1)).all()


def steps_between(first: Tensor, second: Tensor) -> np.ndarray:
    """The difference of two inputs, in 8-bit steps, which must be whole."""
    found = 255 * (second.double() - first.double()).numpy()
    assert np.abs(found - found.round()).max() < 1e-3
    return found.round()


@pytest.mark.parametrize(
    ("attack", "most"), [("pgd:2/255:steps=3@bare", 2), ("pgd:l2:0.02:steps=2@bare", 99)]
)
@pytest.mark.parametrize("before", ["", "blur:1+", "noise:0.03+"])
def test_in_whole_steps_each_attack_of_a_chain_keeps_its_own_budget(attack, most, before):
    lr, net = snapped(photo()), Net().eval()
    met = parse(before[:-1] or "none").apply(lr, truth(), net, 3, whole_steps=True)
    attacked = parse(before + attack).apply(lr, truth(), net, 3, whole_steps=True)
    change = steps_between(met, attacked)
    assert 0 < np.abs(change).max() <= most
    if most > 2:
        assert np.square(change).sum() <= (0.02 * 255) ** 2


@pytest.mark.parametrize("attack", ["fgsm:2/255@bare", "pgd:l2:0.1:steps=2@bare"])
def test_in_whole_steps_an_attack_keeps_its_direction(attack):
    lr, net = snapped(photo()), Net().eval()
    exact, whole = (
        (parse(attack).apply(lr, truth(), net, 3, whole_steps=rounded) - lr).double()
        for rounded in (False, True)
    )
    assert (exact * whole).sum() > 0.8 * exact.norm() * whole.norm()
    if attack.startswith("fgsm"):  # whose changes are whole steps already
        assert (255 * (exact - whole)).abs().max() < 1e-2


def test_in_whole_steps_noise_after_an_attack_is_as_strong_as_before_it():
    lr, net = snapped(photo()), Net().eval()
    attack = parse("fgsm:2/255@bare")
    attacked = attack.apply(lr, truth(), net, 3, whole_steps=True)
    both = parse("fgsm:2/255@bare+noise:0.02").apply(lr, truth(), net, 3, whole_steps=True)
    exact = degradations.noise(attacked, 0.02, seed=4)  # the second step's seed
    assert np.array_equal(steps_between(lr, both), steps_between(lr, snapped(exact)))


@pytest.mark.parametrize("name", [*ATTACKS, "strongest"])
def test_aimed_at_the_bare_network_it_is_the_same_for_every_smoother(name):
    lr, net = photo(), Net().eval()
    condition = parse(f"blur:1+{name}:{EPS}{'' if name == 'fgsm' else ':steps=3'}@bare")
    results = [
        condition.apply(lr, truth(), model, 3)
        for model in (net, smoother(net), smoother(net, 0.1, 9, agg="mean"))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not condition.adaptive
    if name != "strongest":
        attack = (
            getattr(attacks, name) if name == "fgsm" else partial(getattr(attacks, name), steps=3)
        )
        assert torch.equal(
            results[0], attack(net, degradations.blur(lr, 1), truth(), eps=EPS, seed=4)
        )


def test_adaptive_is_what_depends_on_the_smoother():
    lr, net = photo(), Net().eval()
    for text, adaptive in {
        "none": False,
        "noise:0.1": False,
        f"pgd:{EPS}@bare": False,
        f"jpeg:9+pgd:{EPS}": True,
    }.items():
        assert parse(text).adaptive == adaptive
    aimed = parse(f"pgd:{EPS}:steps=3")
    assert aimed.adaptive
    assert not torch.equal(
        aimed.apply(lr, truth(), net, 3), aimed.apply(lr, truth(), smoother(net), 3)
    )


OPTIONS = {
    "pgd:0.02:steps=7:restarts=3": ({"steps": 7, "restarts": 3, "draws": 1}, 5),
    "pgd:0.02:via=served": ({"draws": 1}, 5),
    "bim:0.02:steps=6:via=mean:draws=3": ({"steps": 6, "draws": 1}, 3),
    "pgd:0.02:via=mean": ({"draws": 1}, 5),
    "pgd:0.02:draws=3": ({"draws": 1}, 3),
    "fgsm:0.02:via=draw:draws=4": ({"draws": 4}, 1),
    "cw:0.02:via=draw:c=2.5:steps=9": ({"c": 2.5, "steps": 9, "draws": 5}, 1),
    "cw:0.02:c=2.5:via=draw@bare": ({"c": 2.5, "draws": 1}, 1),
}


@pytest.mark.parametrize("text", OPTIONS)
def test_options_reach_the_attack(text, monkeypatch):
    expected, rows = OPTIONS[text]

    def attack(model, lr, reference, **options):
        calls.append(options)
        smoothed.model.seen.clear()
        model(lr)
        return lr + 0 * reference.mean()

    calls, smoothed = [], smoother()
    monkeypatch.setitem(steps.ATTACKS, parse(text).steps[0].name, attack)
    parse(text).apply(photo(), truth(), smoothed, 11)
    fixed = {"eps": 0.02, "norm": "linf", "seed": 11}
    assert calls == [expected | fixed]
    assert sum(map(len, smoothed.model.seen)) == rows  # evaluations of the network a step


def test_without_reference_the_output_leaves_the_clean_one():
    lr, net = photo(), Net().eval()
    for model in (net, smoother(net)):
        clean = serve(model, lr, 5).detach()
        for text in (f"pgd:{EPS}:steps=5", f"strongest:{EPS}:steps=5"):
            attacked = parse(text).apply(lr, None, model, 3)
            attacked, noisy, still = (
                harm(model, image, clean) for image in (attacked, degradations.noise(lr, EPS), lr)
            )
            assert attacked - still > 1.5 * (noisy - still)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "text",
    [
        "pgd:{}:steps=3",
        "cw:{}:via=mean:steps=3",
        "noise:0.1+pgd:{}:via=draw:steps=3",
        "strongest:{}:steps=2",
    ],
)
def test_an_attack_repeats_bit_by_bit_whatever_was_served_before(text):
    lr, condition = photo(), parse(text.format(EPS))

    def attacked(seed, smoother_seed, served):
        smoothed = smoother(seed=smoother_seed)
        for other in served:
            serve(smoothed, lr, other)
        return condition.apply(lr, truth(), smoothed, seed)

    first = attacked(3, None, [])
    assert torch.equal(first, attacked(3, None, [1, 2, 3]))
    assert torch.equal(
        first, attacked(3, 8, [3])
    )  # a seed of the smoother's own is none of the attacker's business
    assert not torch.equal(first, attacked(4, None, []))


def test_nothing_is_left_behind():
    smoothed, lr, state = (
        smoother(seed=5).train(),
        photo().requires_grad_(),
        torch.random.get_rng_state(),
    )
    smoothed.eval()
    attacked = parse(f"noise:0.1+strongest:{EPS}:steps=1").apply(lr, truth(), smoothed, 3)
    assert not attacked.requires_grad
    assert lr.grad is None
    assert all(weight.grad is None for weight in smoothed.parameters())
    assert (smoothed.seed, smoothed.n, smoothed.agg, smoothed.training) == (5, 5, "median", False)
    assert torch.equal(torch.random.get_rng_state(), state)


class Mirror(nn.Module):
    """A denoiser without which the network's gradient is of no use."""

    def forward(self, lr: Tensor) -> Tensor:
        return lr.flip(3)


class Steps(nn.Module):
    """A denoiser whose gradient is zero everywhere: whoever attacks through it learns nothing."""

    def forward(self, lr: Tensor) -> Tensor:
        return torch.round(100 * lr) / 100


@pytest.fixture
def judged(monkeypatch):
    """The arguments by which the strongest attack chose."""

    def spy(model, lr, results, reference, **options):
        calls.append((model, results, options))
        return judge(model, lr, results, reference, **options)

    calls, judge = list[tuple](), selection.worst
    monkeypatch.setattr(selection, "worst", spy)
    return calls


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("make", "winner"),
    [
        (smoother, None),
        (lambda: smoother(denoiser=Mirror()), slice(7, None)),
        (lambda: smoother(LinearSR("sharp"), 0.005, denoiser=Steps()), slice(3, 7)),
        (lambda: Net().eval(), None),
    ],
    ids=["curved", "adaptive wins", "transfer wins", "bare"],
)
def test_the_strongest_is_as_harmful_as_each_of_its_set(make, winner, judged):
    model = make()
    lr = photo() if isinstance(getattr(model, "model", model), Net) else photo()[:, :1]
    reference = serve(model, lr, 1).detach() * 0.8 + 0.1
    strongest = parse(f"strongest:{EPS}:steps=6:evaluations=16").apply(lr, reference, model, 3)
    each = [harm(model, result, reference) for result in judged[0][1]]
    reached = harm(model, strongest, reference)
    assert reached >= 0.98 * max(each)  # by other noise than it was chosen by
    assert reached > 1.05 * each[0]
    if winner:
        gains = [value - each[0] for value in each]
        assert max(gains[winner]) > 1.25 * max(gain for gain in gains if gain not in gains[winner])


@pytest.mark.usefixtures("deterministic")
def test_the_strongest_tries_the_whole_set_and_judges_by_the_served_output(judged):
    smoothed, lr = smoother(), photo()
    chosen = parse(f"strongest:{EPS}:steps=2:evaluations=3").apply(lr, truth(), smoothed, 3)
    ((model, results, options),) = judged
    assert options["evaluations"] == 3
    output = model(lr)
    assert any(
        torch.equal(output, serve(smoothed, lr, seed_of(3, "attacker") + i)) for i in range(600)
    )
    assert torch.equal(results[0], lr)
    assert (
        len({result.numpy().tobytes() for result in results}) == 10
    )  # lr, two uniform shifts, four that transfer, and PGD in three ways
    assert [(result - lr).std().item() < 1e-6 for result in results] == 3 * [True] + 7 * [False]
    assert any(torch.equal(chosen, result) for result in results[1:])
    parse(f"strongest:{EPS}:steps=1").apply(lr, truth(), smoothed, 3)
    assert judged[1][2]["evaluations"] >= 4  # fewer would choose by luck
    for text in (f"fgsm:{EPS}@bare", f"bim:{EPS}:steps=2@bare"):  # whose results no seed changes
        assert any(
            torch.equal(parse(text).apply(lr, truth(), smoothed, 0), result)
            for result in results[3:7]
        )


def test_each_way_of_the_strongest_has_a_start_of_its_own(monkeypatch):
    def attack(name):
        return lambda view, lr, reference, **options: seeds.append((name, options["seed"])) or lr

    seeds = []
    for name in ATTACKS:
        monkeypatch.setitem(steps.ATTACKS, name, attack(name))
    parse(f"strongest:{EPS}").apply(photo(), truth(), smoother(), 3)
    assert seeds[:4] == [
        (name, 3) for name in ATTACKS
    ]  # those that transfer, as they are by themselves
    assert len({seed for name, seed in seeds if name == "pgd"}) == 4


def test_the_options_of_the_strongest_reach_whom_they_concern(monkeypatch):
    def attack(name, model, lr, reference, **options):
        calls.append(
            (
                name,
                {
                    key: options[key]
                    for key in ("draws", "steps", "restarts", "c")
                    if key in options
                },
            )
        )
        return lr

    calls = list[tuple]()
    for name in ATTACKS:
        monkeypatch.setitem(steps.ATTACKS, name, partial(attack, name))
    parse("strongest:0.02:draws=3:steps=7:restarts=2:c=9:evaluations=1").apply(
        photo(), truth(), smoother(), 3
    )
    assert calls == [
        ("fgsm", {"draws": 1}),
        ("bim", {"draws": 1, "steps": 7}),
        ("pgd", {"draws": 1, "steps": 7, "restarts": 2}),
        ("cw", {"draws": 1, "steps": 7, "c": 9.0}),
        ("pgd", {"draws": 1, "steps": 7, "restarts": 2}),
        ("pgd", {"draws": 1, "steps": 7, "restarts": 2}),
        ("pgd", {"draws": 3, "steps": 7, "restarts": 2}),
    ]


@torch.no_grad()
def test_an_attacker_who_knew_the_noise_would_be_stronger():
    """Why the seeds are kept apart: an attack on the noise of serving harms more than one on noise
    of its own.
    """
    lr, smoothed = photo(), smoother(sigma=0.1, n=3)
    known = attacks.pgd(lambda x: serve(smoothed, x, 1), lr, truth(), eps=EPS, steps=20)
    honest = parse(f"pgd:{EPS}:steps=20").apply(lr, truth(), smoothed, 1)
    on_known, on_served = (
        (serve(smoothed, attacked, 1) - truth()).norm().item() for attacked in (known, honest)
    )
    assert on_known > 1.1 * on_served
