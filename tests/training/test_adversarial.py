"""Adversarial training: what an attack may change, what it costs, and that it leaves no trace."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from training_networks import (
    Smooth,
    batch,
    gradients,
    in_two_processes,
    normalized,
    slopes_are_right,
    state_of,
)

from smoothsr.attacks import bim, cw, fgsm, pgd
from smoothsr.training import AdversarialAugmentation, AdversarialLoss, StepSeed

ATTACKS = ["fgsm", "bim", "pgd", "cw"]
AT = StepSeed(5)


def size(change: torch.Tensor, norm: str) -> torch.Tensor:
    """Of each image."""
    values = change.double().flatten(1)
    if norm == "linf":
        return values.abs().amax(1)
    return values.square().sum(1).sqrt() / (values.shape[1] ** 0.5 if norm == "rms" else 1)


def loss_of(model, lr, hr) -> float:
    with torch.no_grad():
        return (model(lr) - hr).square().mean().item()


@pytest.mark.parametrize("reference", ["hr", "clean"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.2), ("rms", 0.02)])
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_image_is_changed_by_the_budget(attack, norm, eps, reference):
    model, (lr, hr) = Smooth(), batch(3)
    augmentation = AdversarialAugmentation(attack, eps, norm)
    changed = augmentation.attacked(model, lr, hr if reference == "hr" else None, AT)
    assert (size(changed - lr, norm) <= eps * (1 + 1e-6)).all()
    assert (size(changed - lr, norm) > 0.7 * eps).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    if reference == "hr":
        noise = torch.empty_like(lr).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        noise = noise * (eps / size(noise, norm)).view(-1, 1, 1, 1).to(lr)
        assert loss_of(model, changed, hr) > loss_of(model, lr + noise, hr)


def test_the_second_studys_attack_is_plain_projected_ascent():
    model, (lr, hr) = Smooth(torch.float64), batch(2, dtype=torch.float64)
    lr = 0.3 + 0.4 * lr
    eps = 0.02 * 6
    found = AdversarialAugmentation("pgd", 0.02, "rms", steps=5, step_size=0.005).attacked(
        model, lr, hr, AT
    )
    noise = torch.randn(
        1, 1, 6, 6, generator=torch.Generator().manual_seed(AT.seed), dtype=torch.float64
    )
    change = (eps * noise / noise.norm()).expand_as(lr)
    for _ in range(5):
        x = (lr + change).requires_grad_()
        errors = (model(x) - hr).flatten(1).norm(dim=1)
        (slope,) = torch.autograd.grad(errors.sum(), x)
        change = change + eps / 4 * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = change * (eps / change.flatten(1).norm(dim=1).clamp_min(eps)).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, lr + change, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("attack", "steps"), [("fgsm", None), ("bim", 3), ("pgd", 3), ("pgd", 5), ("cw", 3)]
)
def test_an_attack_costs_as_many_gradients_as_it_has_steps(attack, steps):
    model, (lr, hr), calls = Smooth(), batch(), []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    augmentation = AdversarialAugmentation(attack, 0.03, steps=steps)
    augmentation.attacked(model, lr, hr, AT)
    assert calls == [True] * (steps or 1)
    calls.clear()
    augmentation.attacked(model, lr)  # and here one output, from which it is driven away
    assert calls == [False] + [True] * (steps or 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_start_depends_on_the_step_alone(attack):
    """In float64: CW's path follows every rounding, which batches of other lengths do otherwise."""
    model, (lr, hr) = normalized().double(), batch(3, dtype=torch.float64)
    attacked = AdversarialAugmentation(attack, 0.03).attacked
    whole = attacked(model, lr, hr, AT)
    parts = [attacked(model, lr[:1], hr[:1], AT), attacked(model, lr[1:], hr[1:], StepSeed(5, 1))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)
    others = [attacked(model, lr, None, at) for at in (AT, AT, StepSeed(6), None, None)]
    assert torch.equal(others[0], others[1])
    assert len({other.numpy().tobytes() for other in others}) == 4


def test_what_lies_outside_is_clipped_first():
    lr, hr = batch()
    lr[0, 0, 0, 0], lr[0, 0, 0, 1] = -0.01, 1.01
    changed = AdversarialAugmentation("fgsm", 0.03).attacked(Smooth(), lr, hr, AT)
    assert (size(changed - lr.clamp(0, 1), "linf") <= 0.03).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert lr[0, 0, 0, 0] == -0.01


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_network_is_left_as_it_was(attack):
    model, (lr, hr) = normalized().train(), batch()
    model[1].eval()  # BatchNorm frozen, as fine-tuning often has it
    model[0].bias.requires_grad_(False)
    model(lr).sum().backward()
    before, slope = state_of(model), model[4].weight.grad.clone()
    random = torch.get_rng_state()
    AdversarialAugmentation(attack, 0.03).attacked(model, lr, hr, AT)
    assert state_of(model) == before
    assert torch.equal(model[4].weight.grad, slope)
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ValueError, match="must have the output's shape"):
        AdversarialAugmentation(attack, 0.03).attacked(model, lr, hr[..., 1:])
    assert state_of(model) == before


def test_running_statistics_are_those_of_the_training_step_alone():
    model, (lr, hr) = normalized().train(), batch()
    twin = copy.deepcopy(model)
    augmentation = AdversarialAugmentation("pgd", 0.03, steps=2)
    with torch.random.fork_rng():
        AdversarialLoss(nn.L1Loss(), augmentation)(model, lr, hr, AT)
    twin(augmentation.attacked(twin, lr, hr, AT))
    assert model[1].num_batches_tracked == twin[1].num_batches_tracked == 1
    assert torch.equal(model[1].running_var, twin[1].running_var)


def test_gradients_are_those_of_finite_differences():
    """The signs of FGSM don't move with the weights, so its objective is smooth in them."""
    lr, hr = batch(dtype=torch.float64)
    objective = AdversarialLoss(nn.MSELoss(), AdversarialAugmentation("fgsm", 0.03))
    assert slopes_are_right(objective, Smooth(torch.float64), lr, hr, AT)


def stepped(model, lr, hr, at=AT):
    """The objective's value after one backward pass."""
    objective = AdversarialLoss(nn.MSELoss(), AdversarialAugmentation("pgd", 0.03, steps=2))
    value = objective(model, lr, hr, at)
    value.backward()
    return value.detach()


def as_member(rank: int) -> torch.Tensor:
    model, (lr, hr) = Smooth(), batch(4)
    half = slice(2 * rank, 2 * rank + 2)
    stepped(DistributedDataParallel(model), lr[half], hr[half], StepSeed(5, 2 * rank))
    return torch.cat([each.flatten() for each in gradients(model)])


def test_two_processes_train_as_one():
    model = Smooth()
    stepped(model, *batch(4))
    whole = torch.cat([each.flatten() for each in gradients(model)])
    for member in in_two_processes(as_member):
        torch.testing.assert_close(member, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "wrap", [DataParallel, lambda model: torch.compile(model, backend="aot_eager")]
)
def test_wrapped_networks_train_as_bare_ones(wrap):
    model, wrapped = Smooth(), Smooth()
    value = stepped(model, *batch())
    torch.testing.assert_close(stepped(wrap(wrapped), *batch()), value)
    torch.testing.assert_close(gradients(wrapped), gradients(model))


def test_under_autocast_all_weights_get_their_gradients():
    """Autocast stores the weights that it converted; those of an attack carry no gradient."""
    model, wide = Smooth(), Smooth()
    exact = stepped(wide, *batch())
    with torch.autocast("cpu", torch.bfloat16):
        value = stepped(model, *batch())
        assert torch.is_autocast_cache_enabled()
    torch.testing.assert_close(value.float(), exact, rtol=0.05, atol=0)
    for found, wanted in zip(gradients(model), gradients(wide), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_hook_acts_in_train_mode_only(attack, compiled):
    model, (lr, _) = Smooth(), batch()
    before, clean = state_of(model.train()), model(lr)
    handle = AdversarialAugmentation(attack, 0.03, seed=0).attach(model)
    run = torch.compile(model, backend="eager") if compiled else model
    torch.testing.assert_close(run.eval()(lr), clean)
    first, second = run.train()(lr), run(lr)
    twin = AdversarialAugmentation(attack, 0.03, seed=0)
    expected = twin.attacked(model, lr, at=StepSeed(1))
    assert (size(expected - lr, "linf") <= 0.03).all()
    handle.remove()
    torch.compiler.reset()
    torch.testing.assert_close(first, model(expected))
    assert (first - clean).abs().max() > 0.01
    assert not torch.equal(first, second)  # the next step has the next start
    assert state_of(model) == before
    assert torch.equal(model(lr), clean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": "apgd"}, "attack must be one of fgsm, bim, pgd, cw, got 'apgd'"),
        ({"norm": "l1"}, "norm must be linf, l2 or rms, got 'l1'"),
        ({"eps": None}, "pgd needs a budget eps"),
        ({"eps": 0}, "eps must be finite and greater than 0, got 0"),
        ({"step_size": -1}, "step_size must be finite and greater than 0"),
        ({"attack": "cw", "c": float("nan")}, "c must be finite and greater than 0"),
        ({"c": 1}, "c belongs to \"cw\", got it for 'pgd'"),
        ({"steps": 0}, "others take at least one, got pgd with steps=0"),
        ({"attack": "fgsm", "steps": 2}, "fgsm is one step of size eps"),
        ({"attack": "fgsm", "step_size": 0.1}, "fgsm is one step of size eps"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdversarialAugmentation(**arguments)


def test_one_path_is_one_of_two_ways_to_attack():
    model, (lr, hr) = Smooth(), batch()
    for attack in (fgsm, bim, pgd, cw):
        with pytest.raises(ValueError, match='keep must be "best" or "last", got \'first\''):
            attack(model, lr, hr, eps=0.03, keep="first")
    for options in ({"restarts": 2}, {"starts": [torch.zeros_like(lr)]}):
        with pytest.raises(ValueError, match="follows one path"):
            pgd(model, lr, hr, eps=0.03, keep="last", **options)
