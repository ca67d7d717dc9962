"""How strong the attacks are: against networks whose exact worst case is known, and against
foolbox.
"""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from attack_networks import (
    KERNELS,
    SIDE,
    Curved,
    LinearSR,
    blind_to_shifts,
    changes,
    images,
    one_value,
    size,
)
from torch import Tensor, nn

from smoothsr.attacks import bim, budget, cw, fgsm, objective, pgd, strongest, worst

ALL = [fgsm, bim, pgd, cw]
ITERATED = [bim, pgd, cw]


def check_deviation(attack, name: str = "uneven", eps: float = 0.1) -> None:
    """The output's l2 deviation is between .95 and 1 of the largest singular value times eps."""
    model, lr = LinearSR(name), images()
    attacked = attack(model, lr, eps=eps, norm="l2")
    assert (size(attacked, lr, "l2") <= eps).all()
    reached = np.linalg.norm(changes(attacked, lr) @ model.matrix().T, axis=1)
    share = reached / (np.linalg.norm(model.matrix(), 2) * eps)
    assert (share >= 0.95).all()
    assert (share <= 1 + 1e-6).all()


def check_one_value(attack, norm: str, eps: float = 0.1) -> None:
    """One output value w.x rises by at least .99 of the dual norm of w times eps."""
    model, lr = LinearSR(), images()
    attacked = attack(model, lr, eps=eps, norm=norm, loss=one_value)
    assert (size(attacked, lr, norm) <= eps).all()
    weights = model.matrix().reshape(2 * SIDE, 2 * SIDE, -1)[SIDE, SIDE]
    share = (
        changes(attacked, lr)
        @ weights
        / (np.linalg.norm(weights, ord=2 if norm == "l2" else 1) * eps)
    )
    assert (share >= 0.99).all()
    assert (share <= 1 + 1e-6).all()


def check_range(attack, norm: str, eps: float = 0.2) -> None:
    """On an image with many black and white values everything stays in [0, 1] and in the budget,
    which iterated attacks use up.
    """
    lr = images(low=-0.5, high=1.5)
    attacked = attack(
        LinearSR("blur"), lr, torch.full((2, 1, 2 * SIDE, 2 * SIDE), 0.5), eps=eps, norm=norm
    )
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert (size(attacked, lr, norm) <= eps).all()
    assert attack is fgsm or (size(attacked, lr, norm) >= 0.98 * eps).all()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("attack", ITERATED)
def test_iterated_l2_attacks_at_their_defaults_come_near_the_optimum(attack, name):
    check_deviation(attack, name)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_one_output_value_is_moved_to_its_optimum(attack, norm):
    check_one_value(attack, norm)


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("attack", ITERATED)
def test_linf_attacks_reach_the_optimum_away_from_a_darker_reference(attack, loss):
    # A positive kernel and a reference below the output: brightening every value by eps is optimal
    # for both losses.
    model, lr = LinearSR("blur"), images()
    black = torch.zeros(2, 1, 2 * SIDE, 2 * SIDE)
    order = int(loss[1])
    deviation = (model(attack(model, lr, black, eps=0.05, loss=loss))).flatten(1).norm(order, dim=1)
    clean, optimum = (model(lr + extra).flatten(1).norm(order, dim=1) for extra in (0, 0.05))
    assert ((deviation - clean) >= 0.99 * (optimum - clean)).all()


@pytest.mark.parametrize("attack", ITERATED)
def test_a_target_is_approached_as_far_as_the_budget_allows(attack):
    # ||A delta - t u|| >= t - <u, A delta> >= t - s*eps for the largest singular value s = u.A v;
    # reached by delta = eps*v.
    model, lr, eps, far = LinearSR(), images(), 0.1, 5.0
    left, values, _ = np.linalg.svd(model.matrix())
    target = model(lr).detach() + far * torch.from_numpy(left[:, 0]).float().view(
        1, 1, 2 * SIDE, 2 * SIDE
    )
    attacked = attack(model, lr, target=target, eps=eps, norm="l2")
    gained = far - (model(attacked) - target).flatten(1).norm(dim=1).detach().numpy()
    assert (gained >= 0.95 * values[0] * eps).all()
    assert (gained <= values[0] * eps * (1 + 1e-4)).all()


project, normalize, slope = budget.project, budget.normalize, objective.slope
other = {"l2": "linf", "linf": "l2"}
keep = lambda *arguments: arguments[0]
MUTATIONS = {
    "pgd, l2, not projected": ((budget, "project"), keep, partial(check_deviation, pgd)),
    "bim, linf, not projected": ((budget, "project"), keep, partial(check_one_value, bim, "linf")),
    "cw, linf, not projected": ((budget, "project"), keep, partial(check_one_value, cw, "linf")),
    "bim, l2, projected to the cube": (
        (budget, "project"),
        lambda d, room, n: project(d, room, other[n]),
        partial(check_deviation, bim),
    ),
    "pgd, linf, projected to the ball": (
        (budget, "project"),
        lambda *a: project(*a[:2], "l2"),
        partial(check_one_value, pgd, "linf"),
    ),
    "pgd, l2, sign steps": (
        (budget, "normalize"),
        lambda g, norm: normalize(g, other[norm]),
        partial(check_one_value, pgd, "l2"),
    ),
    "pgd, linf, downhill": (
        (budget, "normalize"),
        lambda g, norm: -normalize(g, norm),
        partial(check_one_value, pgd, "linf"),
    ),
    "cw, l2, downhill": (
        (objective, "slope"),
        lambda *a: (slope(*a)[0], -slope(*a)[1]),
        partial(check_one_value, cw, "l2"),
    ),
    "bim, l2, not clipped": ((budget, "clip"), lambda *a: a[1], partial(check_range, bim, "l2")),
    "cw, linf, not clipped": ((budget, "clip"), lambda *a: a[1], partial(check_range, cw, "linf")),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracles_catch(mutation, monkeypatch):
    place, wrong, check = MUTATIONS[mutation]
    check()
    monkeypatch.setattr(*place, wrong)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_black_and_white_values_stay_in_range_and_the_budget_is_used(attack, norm):
    check_range(attack, norm)


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_a_randomly_smoothed_model_is_attacked_through_its_noise(agg):
    # Median and mean of A(x + noise) move by A delta exactly as A x does.
    bare, lr, eps = LinearSR(), images(batch=1), 0.2
    generator = torch.Generator().manual_seed(0)

    def smoothed(x):
        outputs = bare(x + 0.05 * torch.randn(21, *x.shape[1:], generator=generator))
        return (
            outputs.mean(0, keepdim=True)
            if agg == "mean"
            else outputs.median(0, keepdim=True).values
        )

    attacked = pgd(smoothed, lr, eps=eps, norm="l2", draws=4)
    reached = np.linalg.norm(model_change := changes(attacked, lr) @ bare.matrix().T)
    assert model_change.shape == (1, 4 * SIDE**2)
    assert reached >= 0.9 * np.linalg.norm(bare.matrix(), 2) * eps


@pytest.mark.parametrize("attack", ITERATED)
def test_the_best_of_all_iterates_is_kept_for_each_image(attack):
    visited = []

    def model(x):
        visited.append(x.detach().clone())
        return torch.sin(40 * x)  # many hills, among which long steps jump about

    lr = images(batch=8)[:, :, :1, :2]
    attacked = attack(model, lr, torch.zeros_like(lr), eps=0.2, step_size=0.07)
    losses = torch.stack([torch.sin(40 * x).flatten(1).norm(dim=1) for x in visited])
    best = torch.sin(40 * attacked).flatten(1).norm(dim=1)
    torch.testing.assert_close(
        best, losses.amax(0), rtol=1e-3 if attack is cw else 1e-5, atol=0
    )  # cw weighs the size, too
    assert (losses[:-1].amax(0) > 1.01 * losses[-1]).any()  # so the last one wouldn't do


def test_restarts_never_lose_and_here_win():
    model, lr = blind_to_shifts, images(channels=2)

    def deviation(restarts):
        return (
            (model(pgd(model, lr, eps=0.1, steps=5, restarts=restarts)) - model(lr))
            .flatten(1)
            .norm(dim=1)
            .detach()
        )

    one, three, ten = deviation(1), deviation(3), deviation(10)
    assert (three >= one).all()
    assert (ten >= three).all()
    assert (ten > one).any()


class Narrow(nn.Module):
    """It passes on what all values share, under a ripple whose slope points elsewhere: gradients
    lead nowhere, as those of a smoothed network by few draws do.
    """

    def forward(self, lr: Tensor) -> Tensor:
        shared = lr.mean((1, 2, 3), keepdim=True)
        return shared + torch.sin(300 * (lr - shared)) / 30


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_pgd_is_not_weaker_than_a_uniform_shift(norm, eps, sign):
    lr, model = images(batch=3), Narrow()
    each = eps if norm == "linf" else eps / SIDE
    goal = model(lr) - sign  # so that only one of the two shifts leads away from it
    shifted = (model(lr + sign * each) - goal).flatten(1).norm(dim=1)
    for attack in (
        partial(pgd, steps=1),
        partial(pgd, steps=8),
        partial(strongest, attacks=[fgsm]),
    ):
        attacked = attack(model, lr, goal, eps=eps, norm=norm)
        assert (size(attacked, lr, norm) <= eps).all()
        assert ((model(attacked) - goal).flatten(1).norm(dim=1) >= shifted - 1e-5).all()


def test_pgd_climbs_from_starts_that_are_given():
    hill = torch.zeros(1, 1, SIDE, SIDE)
    hill[..., 3, 4] = -0.05  # a narrow peak of the loss, with no slope further away

    def peak(output, reference):
        return torch.exp(-((output - reference - hill).square().sum((1, 2, 3))) / 1e-4)

    model, lr = lambda x: x, images()
    plain = pgd(model, lr, lr, eps=0.05, loss=peak)
    near = pgd(model, lr, lr, eps=0.05, loss=peak, step_size=0.001, starts=[0.9 * hill])
    far = pgd(model, lr, lr, eps=0.02, loss=peak, starts=[30 * hill])  # projected
    assert peak(plain, lr).max() < 1e-3
    assert peak(near, lr).min() > 0.9
    assert (size(far, lr, "linf") <= 0.02).all()
    only = pgd(model, lr, lr, eps=0.05, loss=peak, random_start=False, starts=[hill])
    assert peak(only, lr).min() > 0.9


def test_cw_without_budget_weighs_the_change_against_the_loss():
    # c*0.3*tanh(10*d) - d is largest where 3*c*(1 - tanh(10*d)**2) = 1.
    model = lambda x: 0.3 * torch.tanh(10 * (x - 0.5))
    lr = torch.full((1, 1, 1, 1), 0.5)
    for c in (0.5, 2.0, 10.0):
        change = (cw(model, lr, c=c, steps=300) - lr).abs().item()
        optimum = np.arccosh(np.sqrt(3 * c)) / 10
        assert change == pytest.approx(optimum, rel=0.02)


def test_strongest_keeps_the_worst_of_each_image():
    lr = torch.full((2, 1, 4, 4), 0.5)
    shifts = {"a": [0.1, -0.02], "b": [0.05, 0.04], "c": [0.0, 0.01]}
    attack = {
        name: (
            lambda model, lr, reference, shift=shift, **options: (
                lr + torch.tensor(shift).view(-1, 1, 1, 1)
            )
        )
        for name, shift in shifts.items()
    }
    most = strongest(lambda x: x, lr, eps=0.001, attacks=tuple(attack.values()))
    torch.testing.assert_close(most - lr, torch.tensor([0.1, 0.04]).view(-1, 1, 1, 1).expand_as(lr))
    target = lr + torch.tensor([0.0, 0.012]).view(-1, 1, 1, 1)
    nearest = strongest(lambda x: x, lr, target=target, eps=0.001, attacks=tuple(attack.values()))
    torch.testing.assert_close(
        nearest - lr, torch.tensor([0.0, 0.01]).view(-1, 1, 1, 1).expand_as(lr)
    )  # lr itself is judged


def test_strongest_transfers_from_another_model_to_one_that_hides_its_gradient():
    bare, lr, eps = LinearSR("sharp"), images(), 0.1  # which uniform shifts do little to
    hidden = lambda x: torch.round(255 * bare(x)) / 255
    optimum = np.linalg.norm(bare.matrix(), 2) * eps
    for source in (bare, [LinearSR("blur"), bare]):
        attacked = strongest(
            hidden, lr, eps=eps, norm="l2", transfer_from=source, evaluations=1, attacks=[bim, pgd]
        )
        assert ((hidden(attacked) - hidden(lr)).flatten(1).norm(dim=1) >= 0.95 * optimum).all()
    alone = strongest(hidden, lr, eps=eps, norm="l2", evaluations=1)
    assert ((hidden(alone) - hidden(lr)).flatten(1).norm(dim=1) < 0.9 * optimum).all()


def test_strongest_judges_a_random_model_by_its_mean():
    calls = iter(range(1000))
    model = lambda x: x * (1.0 if next(calls) % 2 else -1.0) + x
    lr = torch.full((1, 1, 2, 2), 0.5)
    candidates = [lambda model, lr, reference, by=by, **options: lr + by for by in (0.1, 0.2, 0.15)]
    black = torch.zeros_like(lr)
    assert strongest(
        model, lr, black, eps=0.2, attacks=candidates, evaluations=4
    ).mean().item() == pytest.approx(0.7)


def test_the_worst_is_chosen_for_each_image_by_loss_reference_and_target():
    model, lr = LinearSR("sharp"), images(batch=3)
    results = [
        *(
            lr + 0.1 * torch.randn(lr.shape, generator=torch.Generator().manual_seed(i))
            for i in range(4)
        ),
        lr,
    ]
    reference = torch.linspace(0, 1, 400).view(1, 1, 20, 20).expand(3, 1, 20, 20)
    outputs = np.stack([model(result).detach().double().flatten(1).numpy() for result in results])
    clean, ramp = outputs[4], reference.double().flatten(1).numpy()
    chosen = dict[str, Tensor]()
    for loss, order in (("l1", 1), ("l2", 2)):
        away, towards = (
            (ramp, {"reference": reference}, np.argmax),
            (ramp, {"target": reference}, np.argmin),
        )
        for goal, given, best in (away, towards, (clean, {}, np.argmax)):
            expected = best(np.linalg.norm(outputs - goal, order, axis=2), axis=0)
            found = worst(model, lr, results, loss=loss, evaluations=1, **given)
            assert torch.equal(found, torch.stack([results[k][i] for i, k in enumerate(expected)]))
            assert not found.requires_grad
            chosen[f"{loss} {[*given]}"] = found
    assert (
        len({found.numpy().tobytes() for found in chosen.values()}) >= 4
    )  # so the arguments matter
    first = worst(model, lr, results, loss=one_value, evaluations=1)
    assert torch.equal(
        first,
        torch.stack(
            [results[k][i] for i, k in enumerate(outputs[:, :, 20 * SIDE + SIDE].argmax(0))]
        ),
    )


def test_the_worst_for_a_random_model_is_judged_by_as_many_evaluations_as_asked_for():
    calls = iter(
        [1.0, 9.0, 0.0, 2.0, 2.0, 2.0, 9.0, 0.0, 0.0]
    )  # means 10/3, 2 and 3: single evaluations would mislead
    lr = torch.full((1, 1, 2, 2), 0.5)
    results = [lr + by for by in (0.1, 0.2, 0.3)]
    model = lambda x: torch.full_like(x, next(calls))
    assert torch.equal(worst(model, lr, results, torch.zeros_like(lr), evaluations=3), results[0])
    assert next(calls, None) is None
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        worst(model, lr, results, evaluations=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_same_attack_by_foolbox_reaches_the_same_loss(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of scipy
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
        eagerpy = pytest.importorskip("eagerpy")
    model, lr, eps, steps = (
        Curved().eval(),
        images(batch=3, channels=2),
        {"l2": 0.5, "linf": 0.03}[norm],
        30,
    )
    reference = torch.full((3, 2, 2 * SIDE, 2 * SIDE), 0.2)
    base = getattr(
        foolbox.attacks, {"l2": "L2", "linf": "Linf"}[norm] + "ProjectedGradientDescentAttack"
    )

    class Regression(base):
        def get_loss_fn(self, model, labels):
            return lambda x: (model(x) - eagerpy.astensor(reference)).square().sum()

    theirs = Regression(abs_stepsize=eps / 10, steps=steps, random_start=False).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
        lr,
        foolbox.criteria.Misclassification(torch.zeros(3, dtype=torch.long)),
        epsilon=eps,
    )
    ours = bim(model, lr, reference, eps=eps, norm=norm, steps=steps, step_size=eps / 10)
    assert (size(theirs, lr, norm) <= eps * 1.001).all()
    mine, other = (
        (model(x) - reference).flatten(1).norm(dim=1).detach().numpy() for x in (ours, theirs)
    )
    np.testing.assert_allclose(mine, other, rtol=0.05)
