"""Attacks against networks whose exact worst case is known, and against the ways in which an attack can be wrong."""

import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smoothsr import attacks
from smoothsr.attacks import bim, cw, fgsm, l2_budget, pgd, strongest

ALL = [fgsm, bim, pgd, cw]
ITERATED = [bim, pgd, cw]
KERNELS = {"blur": [1.0, 2, 3, 2, 1], "sharp": [-1.0, -2, 9, -2, -1], "uneven": [0.1, 2, -3, 0.5, 1]}
SIDE = 10


class LinearSR(nn.Module):
    """Nearest-neighbour upscaling by 2 and a fixed separable 5x5 convolution, zero-padded."""

    def __init__(self, name: str = "uneven") -> None:
        super().__init__()
        line = torch.tensor(KERNELS[name])
        self.kernel = nn.Parameter(torch.outer(line, line.flip(0) if name == "uneven" else line)[None, None] / 9)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.interpolate(lr, scale_factor=2.0, mode="nearest"), self.kernel.to(lr.dtype), padding=2)

    def matrix(self) -> np.ndarray:
        """Return the map from SIDE*SIDE input values to 4*SIDE*SIDE output values."""
        with torch.no_grad():
            return self(torch.eye(SIDE**2).view(-1, 1, SIDE, SIDE)).flatten(1).T.double().numpy()


class Curved(nn.Module):
    """A small network that is nowhere linear."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.7 * torch.randn(6, 2, 3, 3, generator=generator))
        self.last = nn.Parameter(0.7 * torch.randn(8, 6, 3, 3, generator=generator))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        hidden = torch.sin(3 * F.conv2d(lr, self.weight.to(lr.dtype), padding=1))
        return F.pixel_shuffle(F.conv2d(hidden, self.last.to(lr.dtype), padding=1), 2)


def images(batch=2, channels=1, low=0.3, high=0.7, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return (low + (high - low) * torch.rand(batch, channels, SIDE, SIDE, generator=generator)).clamp(0, 1).to(dtype)


def changes(attacked: torch.Tensor, lr: torch.Tensor) -> np.ndarray:
    return (attacked.double() - lr.double()).flatten(1).numpy()


def size(attacked: torch.Tensor, lr: torch.Tensor, norm: str) -> np.ndarray:
    return np.linalg.norm(changes(attacked, lr), ord=2 if norm == "l2" else np.inf, axis=1)


def one_value(output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """By how much one value in the middle exceeds the reference."""
    return (output - reference)[:, 0, SIDE, SIDE]


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
    share = changes(attacked, lr) @ weights / (np.linalg.norm(weights, ord=2 if norm == "l2" else 1) * eps)
    assert (share >= 0.99).all()
    assert (share <= 1 + 1e-6).all()


def check_range(attack, norm: str, eps: float = 0.2) -> None:
    """On an image with many black and white values everything stays in [0, 1] and in the budget, which iterated attacks use up."""
    lr = images(low=-0.5, high=1.5)
    attacked = attack(LinearSR("blur"), lr, torch.full((2, 1, 2 * SIDE, 2 * SIDE), 0.5), eps=eps, norm=norm)
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
    # A positive kernel and a reference below the output: brightening every value by eps is optimal for both losses.
    model, lr = LinearSR("blur"), images()
    black = torch.zeros(2, 1, 2 * SIDE, 2 * SIDE)
    order = int(loss[1])
    deviation = (model(attack(model, lr, black, eps=0.05, loss=loss))).flatten(1).norm(order, dim=1)
    clean, optimum = (model(lr + extra).flatten(1).norm(order, dim=1) for extra in (0, 0.05))
    assert ((deviation - clean) >= 0.99 * (optimum - clean)).all()


@pytest.mark.parametrize("attack", ITERATED)
def test_a_target_is_approached_as_far_as_the_budget_allows(attack):
    # ||A delta - t u|| >= t - <u, A delta> >= t - s*eps for the largest singular value s = u.A v; reached by delta = eps*v.
    model, lr, eps, far = LinearSR(), images(), 0.1, 5.0
    left, values, _ = np.linalg.svd(model.matrix())
    target = model(lr).detach() + far * torch.from_numpy(left[:, 0]).float().view(1, 1, 2 * SIDE, 2 * SIDE)
    attacked = attack(model, lr, target=target, eps=eps, norm="l2")
    gained = far - (model(attacked) - target).flatten(1).norm(dim=1).detach().numpy()
    assert (gained >= 0.95 * values[0] * eps).all()
    assert (gained <= values[0] * eps * (1 + 1e-4)).all()


project, normalise, slope = attacks._project, attacks._normalise, attacks._slope
other = {"l2": "linf", "linf": "l2"}
keep = lambda *arguments: arguments[0]  # noqa: E731
MUTATIONS = {
    "pgd, l2, not projected": ("_project", keep, partial(check_deviation, pgd)),
    "bim, linf, not projected": ("_project", keep, partial(check_one_value, bim, "linf")),
    "cw, linf, not projected": ("_project", keep, partial(check_one_value, cw, "linf")),
    "bim, l2, projected to the cube": ("_project", lambda d, room, n: project(d, room, other[n]), partial(check_deviation, bim)),
    "pgd, linf, projected to the ball": ("_project", lambda *a: project(*a[:2], "l2"), partial(check_one_value, pgd, "linf")),
    "pgd, l2, sign steps": ("_normalise", lambda g, norm: normalise(g, other[norm]), partial(check_one_value, pgd, "l2")),
    "pgd, linf, downhill": ("_normalise", lambda g, norm: -normalise(g, norm), partial(check_one_value, pgd, "linf")),
    "cw, l2, downhill": ("_slope", lambda *a: (slope(*a)[0], -slope(*a)[1]), partial(check_one_value, cw, "l2")),
    "bim, l2, not clipped": ("_clip", lambda *a: a[1], partial(check_range, bim, "l2")),
    "cw, linf, not clipped": ("_clip", lambda *a: a[1], partial(check_range, cw, "linf")),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracles_catch(mutation, monkeypatch):
    name, wrong, check = MUTATIONS[mutation]
    check()
    monkeypatch.setattr(attacks, name, wrong)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_black_and_white_values_stay_in_range_and_the_budget_is_used(attack, norm):
    check_range(attack, norm)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_the_budget_holds_exactly_after_rounding_to_the_dtype(attack, norm, dtype):
    lr = images(batch=3, channels=2, low=-0.1, high=1.1, dtype=dtype)
    eps = l2_budget(8 / 255, lr) if norm == "l2" else 8 / 255
    attacked = attack(Curved(), lr, eps=eps, norm=norm)
    assert attacked.shape == lr.shape
    assert attacked.dtype == dtype
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert (size(attacked, lr, norm) <= eps).all()
    assert (size(attacked, lr, norm) > (0.5 if dtype in (torch.float16, torch.bfloat16) else 0.9) * eps).all()


@pytest.mark.parametrize("eps", [1e-4, 1 / 255, 0.3, 0.9, 30.0])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_budget_holds_from_tiny_to_larger_than_the_range(norm, eps):
    lr = images(low=-0.2, high=1.2)
    for attack in ALL:
        attacked = attack(LinearSR(), lr, eps=eps, norm=norm)
        assert (size(attacked, lr, norm) <= eps).all()
        assert ((attacked >= 0) & (attacked <= 1)).all()


@pytest.mark.parametrize("loss", ["l1", "l2", one_value])
@pytest.mark.parametrize("goal", ["reference", "target"])
def test_the_slope_is_that_of_finite_differences(loss, goal):
    lr = images(channels=2, dtype=torch.float64)
    model, goals = Curved().double(), {"reference": None, "target": None}
    goals[goal] = torch.rand(2, 2, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gain = attacks._gain(model, lr, goals["reference"], goals["target"], loss, 1)
    delta = 0.01 * images(channels=2, dtype=torch.float64)
    value, slope = attacks._slope(gain, delta, 1)
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        direction = torch.randn(lr.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = (gain(delta + 1e-6 * direction) - gain(delta - 1e-6 * direction)) / 2e-6
            assert torch.equal(value, gain(delta))
        expected = (slope * direction).sum(dim=(1, 2, 3), keepdim=True)
        torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-7)


def test_draws_average_the_loss_and_its_slope():
    calls = iter(range(100))
    model = lambda x: x * next(calls)  # noqa: E731
    lr = images(batch=1)
    gain = attacks._gain(model, lr, torch.zeros_like(lr), None, lambda output, _: output.sum(dim=(1, 2, 3)), 4)
    value, slope = attacks._slope(gain, torch.zeros_like(lr), 4)
    torch.testing.assert_close(value.item(), 1.5 * lr.sum().item())
    torch.testing.assert_close(slope, torch.full_like(lr, 1.5))
    assert next(calls) == 4


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_a_randomly_smoothed_model_is_attacked_through_its_noise(agg):
    # Median and mean of A(x + noise) move by A delta exactly as A x does.
    bare, lr, eps = LinearSR(), images(batch=1), 0.2
    generator = torch.Generator().manual_seed(0)

    def smoothed(x):
        outputs = bare(x + 0.05 * torch.randn(21, *x.shape[1:], generator=generator))
        return outputs.mean(0, keepdim=True) if agg == "mean" else outputs.median(0, keepdim=True).values

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
    torch.testing.assert_close(best, losses.amax(0), rtol=1e-3 if attack is cw else 1e-5, atol=0)  # cw weighs the size, too
    assert (losses[:-1].amax(0) > 1.01 * losses[-1]).any()  # so the last one wouldn't do


def test_restarts_never_lose_and_here_win():
    model, lr = Curved(), images(channels=2)

    def deviation(restarts):
        return (model(pgd(model, lr, eps=0.1, steps=5, restarts=restarts)) - model(lr)).flatten(1).norm(dim=1).detach()

    one, three, ten = deviation(1), deviation(3), deviation(10)
    assert (three >= one).all()
    assert (ten >= three).all()
    assert (ten > one).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ALL)
def test_an_image_is_attacked_as_if_it_were_alone(attack, norm):
    model, lr = Curved().double(), images(batch=3, channels=2, dtype=torch.float64)
    eps = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    together = attack(model, lr, eps=eps, norm=norm)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], attack(model, lr[i : i + 1], eps=eps[i].item(), norm=norm))


@pytest.mark.parametrize("attack", [*ALL, strongest])
def test_nothing_is_left_behind(attack):
    model, lr = Curved().train(), images(channels=2).requires_grad_()
    before, state = lr.detach().clone(), torch.random.get_rng_state()
    with torch.no_grad():
        attacked = attack(model, lr, eps=0.05)
    assert not torch.equal(attacked, lr)
    assert not attacked.requires_grad
    assert torch.equal(lr, before)
    assert lr.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_seed_fixes_the_start():
    model, lr = Curved(), images(channels=2)
    assert torch.equal(pgd(model, lr, eps=0.05, seed=1), pgd(model, lr, eps=0.05, seed=1))
    assert not torch.equal(pgd(model, lr, eps=0.05, seed=1), pgd(model, lr, eps=0.05, seed=2))


@pytest.mark.parametrize("attack", ALL)
def test_the_clean_output_as_explicit_reference_is_no_dead_point(attack):
    # The loss is 0 and flat at lr, for the first image only.
    model, lr = Curved(), images(channels=2)
    reference = model(lr).detach()
    reference[1] += 0.5
    attacked = attack(model, lr, reference, eps=0.05)
    assert (size(attacked, lr, "linf") > 0.049).all()
    assert ((model(attacked) - model(lr)).flatten(1).norm(dim=1) > 1).all()


def test_fgsm_is_one_full_step_along_the_gradient():
    model, lr = Curved(), images(channels=2)
    reference = torch.zeros(2, 2, 2 * SIDE, 2 * SIDE)
    x = lr.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(fgsm(model, lr, reference, eps=0.01), lr + 0.01 * slope.sign())
    unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(fgsm(model, lr, reference, eps=0.01, norm="l2"), lr + 0.01 * unit)


def test_cw_without_budget_weighs_the_change_against_the_loss():
    # c*0.3*tanh(10*d) - d is largest where 3*c*(1 - tanh(10*d)**2) = 1.
    model = lambda x: 0.3 * torch.tanh(10 * (x - 0.5))  # noqa: E731
    lr = torch.full((1, 1, 1, 1), 0.5)
    for c in (0.5, 2.0, 10.0):
        change = (cw(model, lr, c=c, steps=300) - lr).abs().item()
        optimum = np.arccosh(np.sqrt(3 * c)) / 10
        assert change == pytest.approx(optimum, rel=0.02)


def test_strongest_keeps_the_worst_of_each_image():
    lr = torch.full((2, 1, 4, 4), 0.5)
    shifts = {"a": [0.1, -0.02], "b": [0.05, 0.04], "c": [0.0, 0.01]}
    attack = {
        name: (lambda model, lr, reference, shift=shift, **options: lr + torch.tensor(shift).view(-1, 1, 1, 1))  # noqa: ARG005
        for name, shift in shifts.items()
    }
    worst = strongest(lambda x: x, lr, eps=0.1, attacks=tuple(attack.values()))
    torch.testing.assert_close(worst - lr, torch.tensor([0.1, 0.04]).view(-1, 1, 1, 1).expand_as(lr))
    target = lr + torch.tensor([0.0, 0.012]).view(-1, 1, 1, 1)
    nearest = strongest(lambda x: x, lr, target=target, eps=0.1, attacks=tuple(attack.values()))
    torch.testing.assert_close(nearest - lr, torch.tensor([0.0, 0.01]).view(-1, 1, 1, 1).expand_as(lr))  # lr itself is judged


def test_strongest_transfers_from_another_model_to_one_that_hides_its_gradient():
    bare, lr, eps = LinearSR("blur"), images(), 0.1
    hidden = lambda x: torch.round(255 * bare(x)) / 255  # noqa: E731  a staircase: its gradient is zero everywhere
    optimum = np.linalg.norm(bare.matrix(), 2) * eps
    for source in (bare, [LinearSR("sharp"), bare]):
        attacked = strongest(hidden, lr, eps=eps, norm="l2", transfer_from=source, evaluations=1, attacks=[bim, pgd])
        assert ((hidden(attacked) - hidden(lr)).flatten(1).norm(dim=1) >= 0.95 * optimum).all()
    alone = strongest(hidden, lr, eps=eps, norm="l2", evaluations=1)
    assert ((hidden(alone) - hidden(lr)).flatten(1).norm(dim=1) < 0.9 * optimum).all()


def test_strongest_judges_a_random_model_by_its_mean():
    calls = iter(range(1000))
    model = lambda x: x * (1.0 if next(calls) % 2 else -1.0) + x  # noqa: E731  either 0 or 2x: one call would tell nothing
    lr = torch.full((1, 1, 2, 2), 0.5)
    candidates = [lambda model, lr, reference, by=by, **options: lr + by for by in (0.1, 0.2, 0.15)]  # noqa: ARG005
    black = torch.zeros_like(lr)
    assert strongest(model, lr, black, eps=0.2, attacks=candidates, evaluations=4).mean().item() == pytest.approx(0.7)


def test_the_relative_budget():
    assert l2_budget(0.01, torch.zeros(4, 3, 20, 15)) == pytest.approx(0.3)


BAD = {
    "lr must be": {"lr": torch.full((1, 1, SIDE, SIDE), 127.0)},
    "lr must be (B,C,h,w)": {"lr": torch.zeros(1, SIDE, SIDE)},
    "lr must be (B,C,h,w), floating-point": {"lr": torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)},
    "in [0, 1]": {"lr": torch.full((1, 1, SIDE, SIDE), float("nan"))},
    "eps must be greater than 0 and finite": {"eps": 0},
    "eps must be greater than 0": {"eps": -0.1},
    "finite": {"eps": float("inf")},
    "one for each of 2 images": {"eps": torch.tensor([0.1, 0.2, 0.3])},
    "eps must be greater than what rounding": {"eps": 1e-9},
    'norm must be "l2" or "linf"': {"norm": "l3"},
    'loss must be "l1", "l2" or a function': {"loss": "lpips"},
    "loss must return one value for each of 2": {"loss": lambda output, reference: (output - reference).norm()},
    "not both": {"reference": torch.zeros(2, 1, 20, 20), "target": torch.zeros(2, 1, 20, 20)},
    "must have the output's shape (2, 1, 20, 20), got (2, 1, 10, 10)": {"reference": torch.zeros(2, 1, 10, 10)},
    "draws and evaluations must be at least 1": {"draws": 0},
    "steps must be at least 1, got 0": {"steps": 0},
    "restarts must be at least 1, got 0": {"restarts": 0},
    "step_size must be greater than 0": {"step_size": 0.0},
    "carries no gradient": {"model": lambda x: F.interpolate(x.detach(), scale_factor=2.0)},
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_named(message):
    arguments = {"model": LinearSR(), "lr": images(), "eps": 0.1} | BAD[message]
    with pytest.raises(ValueError, match=re.escape(message)):
        pgd(arguments.pop("model"), arguments.pop("lr"), **arguments)


def test_a_model_that_detaches_its_input_is_named_although_its_weights_have_gradients():
    model = LinearSR()
    with pytest.raises(ValueError, match="carries no gradient"):
        bim(lambda x: model(x.detach()), images(), eps=0.1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_same_attack_by_foolbox_reaches_the_same_loss(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of scipy
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
        eagerpy = pytest.importorskip("eagerpy")
    model, lr, eps, steps = Curved().eval(), images(batch=3, channels=2), {"l2": 0.5, "linf": 0.03}[norm], 30
    reference = torch.full((3, 2, 2 * SIDE, 2 * SIDE), 0.2)
    base = getattr(foolbox.attacks, {"l2": "L2", "linf": "Linf"}[norm] + "ProjectedGradientDescentAttack")

    class Regression(base):
        def get_loss_fn(self, model, labels):  # noqa: ARG002
            return lambda x: (model(x) - eagerpy.astensor(reference)).square().sum()

    theirs = Regression(abs_stepsize=eps / 10, steps=steps, random_start=False).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
        lr,
        foolbox.criteria.Misclassification(torch.zeros(3, dtype=torch.long)),
        epsilon=eps,
    )
    ours = bim(model, lr, reference, eps=eps, norm=norm, steps=steps, step_size=eps / 10)
    assert (size(theirs, lr, norm) <= eps * 1.001).all()
    mine, other = ((model(x) - reference).flatten(1).norm(dim=1).detach().numpy() for x in (ours, theirs))
    np.testing.assert_allclose(mine, other, rtol=0.05)
