"""The discriminator: its values, what it learns and what is learned from it, and its state."""

import copy
import io

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, leaky_relu
from training_networks import Smooth, batch, in_two_processes, slopes_are_right

from smoothsr.training import GradientPenalty, SmoothedLoss, StepSeed
from smoothsr.training.fine_tuning import FineTuning, Schedule
from smoothsr.training.gan import GANLoss, hinge
from smoothsr.training.losses import base_loss
from smoothsr.training.noise import PlainLoss
from smoothsr.training.patches import Pair, Patches


def tiny(**options) -> GANLoss:
    return GANLoss(1, features=4, **options)


def images(seed: int, count: int = 2, side: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, side, side, generator=generator)


def values(gan: GANLoss) -> list[torch.Tensor]:
    """All that a step changes: weights, norms and Adam's state."""
    state = gan.optimizer.state_dict()["state"]
    return [
        *(value.clone() for value in gan.discriminator.state_dict().values()),
        *(value.clone() for kept in state.values() for value in kept.values()),
    ]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def frozen(gan: GANLoss) -> GANLoss:
    """The same loss with a discriminator that stands still."""
    gan._learn = lambda sr, hr: None
    return gan


def judged(gan: GANLoss, image: torch.Tensor) -> torch.Tensor:
    """What the discriminator says of images in [0, 1], from its weights alone."""
    maps = 2 * image - 1
    for layer, stride in zip(gan.discriminator[::2], (2, 2, 1, 1), strict=True):
        weight = layer.parametrizations.weight.original
        weight = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
        maps = conv2d(maps, weight, layer.bias, stride, padding=1)
        maps = maps if layer is gan.discriminator[-1] else leaky_relu(maps, 0.2)
    return maps


def test_the_loss_is_minus_the_mean_judgement():
    gan, sr, hr = tiny(rate=0.0).double(), images(0).double(), images(1).double()
    for _ in range(200):  # the norms' power iterations converge
        gan(sr, hr)
    with torch.no_grad():
        assert gan(sr, hr).item() == pytest.approx(-judged(gan, sr).mean().item(), rel=1e-6)
    assert judged(gan, sr).shape == (2, 1, 3, 3)


def test_the_hinge_is_that_of_the_formula():
    fake, real = torch.tensor([-2.0, -0.5, 3.0]), torch.tensor([2.0, 0.5, -3.0])
    assert hinge(fake, real).item() == pytest.approx((0 + 0.5 + 4) / 3 + (0 + 0.5 + 4) / 3)
    assert hinge(torch.tensor([-1.0]), torch.tensor([1.0])).item() == 0


def test_a_step_is_adams_on_the_hinge_of_outputs_and_truths():
    gan, sr, hr = tiny(), images(0), images(1)
    by_hand = copy.deepcopy(gan.discriminator).train().requires_grad_(True)
    adam = torch.optim.Adam(by_hand.parameters(), 4e-4, (0.0, 0.9))
    hinge(*by_hand(torch.cat([2 * sr - 1, 2 * hr - 1])).chunk(2)).backward()
    adam.step()
    gan(sr, hr)
    found, expected = gan.discriminator.state_dict(), by_hand.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_discriminator_learns_to_tell_two_distributions_apart():
    gan = tiny(rate=4e-3)
    for step in range(60):  # fine noise and smooth patches of the same mean and deviation
        gan(*two_kinds(step))
    fake, real = (judged(gan, kind).mean((1, 2, 3)) for kind in two_kinds(1000))
    assert fake.max() < 0 < real.min()


def two_kinds(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    fine, coarse = images(2 * seed, 8), images(2 * seed + 1, 8, 3)
    return fine, coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_the_network_learns_to_mislead_the_discriminator():
    gan, hr = tiny(rate=4e-3), images(1)
    for step in range(60):
        gan(*two_kinds(step))
    sr = two_kinds(1000)[0].requires_grad_()
    loss = frozen(gan)(sr, hr.repeat(4, 1, 1, 1))
    loss.backward()
    with torch.no_grad():
        assert gan(sr - 0.1 * sr.grad / sr.grad.norm(), hr) < loss
    assert all(
        not weight.requires_grad and weight.grad is None
        for weight in gan.discriminator.parameters()
    )


@pytest.mark.parametrize("make", [PlainLoss, GradientPenalty])
def test_gradients_are_those_of_finite_differences(make):
    gan = frozen(tiny().double())
    lr, hr = batch(dtype=torch.float64)
    assert slopes_are_right(make(gan), Smooth(torch.float64), lr, hr, StepSeed(1))


@pytest.mark.parametrize("agg", ["mean", "single"])
def test_each_call_is_a_step_and_one_backward_pass_serves_all(agg):
    gan, network = tiny(), Smooth()
    loss = SmoothedLoss(gan, [0.05, 0.1], draws=3, agg=agg)(network, *batch(), StepSeed(1))
    loss.backward()
    steps = [kept["step"].item() for kept in gan.optimizer.state_dict()["state"].values()]
    assert set(steps) == {6 if agg == "single" else 2}
    assert all(weight.grad.abs().max() > 0 for weight in network.parameters())


def test_without_gradients_a_call_only_measures():
    gan, sr, hr = tiny(), images(0), images(1)
    gan.train()
    gan(sr, hr)
    before = values(gan)
    with torch.no_grad():
        assert gan(sr, hr) == gan(sr, hr)
    assert same(before, values(gan))
    gan(sr, hr)
    assert not same(before, values(gan))


def test_autocast_has_no_part_in_it():
    one, two, sr, hr = tiny(), tiny(), images(0), images(1)
    expected = one(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        found = two(sr, hr)
    assert torch.equal(found, expected)
    assert same(values(one), values(two))
    assert two(sr.half(), hr).dtype == torch.float32


def test_initial_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    one, other = tiny(seed=1), tiny(seed=2)
    one(images(0), images(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    again = tiny(seed=1)
    again(images(0), images(1))
    assert same(values(one), values(again))
    assert not same(values(tiny(seed=1)), values(other))


def test_the_state_is_whole_and_a_safe_file():
    whole, sr, hr = tiny(), images(0), images(1)
    whole(sr, hr)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = tiny(seed=9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        assert torch.equal(whole(sr, hr), resumed(sr, hr))
    assert same(values(whole), values(resumed))


def test_a_copy_learns_without_the_original():
    original, sr, hr = tiny(), images(0), images(1)
    original(sr, hr)
    before = values(original)
    copied = copy.deepcopy(original)
    copied(sr, hr)
    assert same(before, values(original))
    assert not same(before, values(copied))
    original(sr, hr)  # the copy's step was the one that the original takes
    assert same(values(original), values(copied))


def test_the_weighted_sum_has_as_many_channels_as_the_network():
    for channels in (1, 3):
        loss = base_loss("l1+0.5*gan", channels=channels, seed=3)
        sr, hr = (images(seed).expand(-1, channels, -1, -1) for seed in (0, 1))
        with torch.no_grad():
            expected = (sr - hr).abs().mean() + 0.5 * GANLoss(channels, seed=3)(sr, hr)
            torch.testing.assert_close(loss(sr, hr), expected)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 8, 3)])
def test_images_that_do_not_fit_are_one_line(shape):
    with pytest.raises(ValueError, match="images of 1 channels and at least 4 pixels a side, got"):
        tiny()(torch.zeros(shape), torch.zeros(shape))


def run_of(seed: int = 0) -> FineTuning:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32), np.uint8)
    patches = Patches([Pair(np.ascontiguousarray(pixels[:, ::2, ::2]), pixels)], 8, seed)
    objective = PlainLoss(base_loss("l1+0.5*gan", channels=1, seed=seed))
    return FineTuning(Smooth(), objective, patches, Schedule(6, 4, 1e-2))


def ended(run: FineTuning) -> torch.Tensor:
    """The losses of all steps, and what is left: weights, the discriminator's, its norms."""
    losses = torch.tensor([run.learn() for _ in range(run.schedule.steps - run.step)])
    gan = run.objective.base.losses[1]
    kept = [*run.network.state_dict().values(), *values(gan)]
    return torch.cat([losses, *(value.flatten().float() for value in kept)])


def test_a_run_that_is_cut_off_ends_with_the_same_network_and_discriminator():
    whole, cut = run_of(), run_of()
    for _ in range(3):
        assert whole.learn() == cut.learn()
        file = io.BytesIO()
        torch.save(cut.state(), file)
        file.seek(0)
        cut = run_of()
        cut.load_state(torch.load(file, weights_only=True))
    assert torch.equal(ended(whole), ended(cut))


def test_the_networks_optimizer_has_the_networks_weights_alone():
    run = run_of()
    taken = {id(weight) for group in run.optimizer.param_groups for weight in group["params"]}
    assert taken == {id(weight) for weight in run.model.parameters()}
    assert not any(weight.requires_grad for weight in run.objective.parameters())


def learned(_rank: int) -> torch.Tensor:
    return ended(run_of())


def test_two_processes_learn_as_one():
    one, two = in_two_processes(learned)
    assert torch.equal(one, two)
    torch.testing.assert_close(one, learned(0), rtol=1e-3, atol=1e-4)
