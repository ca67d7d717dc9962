"""The fine-tune loop: its schedule, its average, and that a run goes on to the same weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from training_networks import in_two_processes

from smoothsr.training import ConsistencyPenalty, SmoothedLoss, fine_tuning
from smoothsr.training.fine_tuning import DivergedError, FineTuning, Schedule
from smoothsr.training.noise import NoisyLoss, PlainLoss
from smoothsr.training.patches import Pair, Patches


def patches_of(seed=0):
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (1, 32, 32), np.uint8)
    return Patches([Pair(np.ascontiguousarray(hr[:, ::2, ::2]), hr)], 8, seed)


def network_of(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.PReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )


def objectives():
    penalty = ConsistencyPenalty(0.1, "top", tile=8)
    return {
        "noise": NoisyLoss(nn.L1Loss(), (0.0, 0.1)),
        "smoothed": SmoothedLoss(nn.MSELoss(), [0.05], agg="expectation", penalty=penalty),
        "plain": PlainLoss(nn.L1Loss()),
    }


def run_of(objective, steps=8, **options):
    return FineTuning(network_of(0.2), objective, patches_of(), Schedule(steps, 4, 1e-2, **options))


def same(one: FineTuning, two: FineTuning) -> bool:
    states = [each.network.state_dict() for each in (one, two)]
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", objectives())
def test_a_run_that_is_cut_off_ends_with_the_same_weights(name):
    whole = run_of(objectives()[name])
    while not whole.done:
        whole.learn()
    cut = run_of(objectives()[name])
    for step in range(8):  # cut off after each
        cut.learn()
        state = copy.deepcopy(cut.state())
        torch.manual_seed(step)  # whatever else goes on in the process
        cut = run_of(objectives()[name])
        cut.load_state(state)
    assert same(whole, cut)
    assert whole.curves == cut.curves
    assert not same(whole, run_of(objectives()[name]))


def test_a_point_of_the_curve_is_a_mean_across_a_cut():
    whole, cut = (run_of(PlainLoss(nn.L1Loss()), steps=600) for _ in range(2))
    losses = [whole.learn() for _ in range(6)]  # a point is the mean of three
    assert [value for _, value in whole.curves.loss] == pytest.approx(
        [np.mean(losses[:3]), np.mean(losses[3:])]
    )
    for _ in range(6):
        cut.learn()
        state = copy.deepcopy(cut.state())
        cut = run_of(PlainLoss(nn.L1Loss()), steps=600)
        cut.load_state(state)
    assert cut.curves == whole.curves


def test_the_global_random_state_is_put_back():
    run, before = run_of(PlainLoss(nn.L1Loss())), torch.get_rng_state()
    run.learn()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_learns():
    run = run_of(PlainLoss(nn.L1Loss()), steps=60)
    losses = [run.learn() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert run.curves.loss[-1][0] == 60


def test_where_another_process_overflows_none_takes_its_step(monkeypatch):
    """In float16; else the others' weights would become NaN."""

    def with_another(tensor):
        return tensor.fill_(torch.inf) if tensor.ndim else tensor

    run = run_of(PlainLoss(nn.L1Loss()), precision=torch.float16)
    before = copy.deepcopy(run.model.state_dict())
    with monkeypatch.context() as patched:
        patched.setattr(fine_tuning, "averaged", with_another)
        run.learn()
    after = run.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name, _ in run.model.named_parameters())
    run.learn()
    assert not torch.equal(run.model[0].weight, before["0.weight"])


def test_what_is_served_is_the_average_of_the_weights():
    run = run_of(PlainLoss(nn.L1Loss()), decay=0.5)
    expected = None
    for count in range(4):
        run.learn()
        weight = run.model[0].weight.detach().clone()
        if expected is None:
            expected = weight
        else:  # a short memory at first: 2/11, 3/12, 4/13
            expected = expected.lerp(weight, 1 - min(0.5, (1 + count) / (10 + count)))
    assert torch.allclose(run.network[0].weight, expected, atol=1e-7)
    assert not run.network.training
    assert run.model.training
    assert run.network[1].num_batches_tracked == 4


def test_the_rate_rises_and_falls():
    schedule = Schedule(steps=1000, rate=2.0)
    rates = [schedule.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(2, abs=0.01)
    assert rates.index(max(rates)) == 19
    assert rates[500] == pytest.approx(1)
    assert rates[-1] < 1e-4
    run = run_of(PlainLoss(nn.L1Loss()), steps=4)
    run.learn()
    run.learn()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(Schedule(4, rate=1e-2).rate_at(1))


def test_a_loss_that_is_no_number_ends_the_run():
    class Broken(nn.Module):
        def forward(self, model, lr, hr, _at):
            return (model(lr) - hr).mean() * float("inf")

    run = run_of(Broken())
    before = run.model[0].weight.detach().clone()
    with pytest.raises(DivergedError, match="at step 1: it has diverged"):
        run.learn()
    assert torch.equal(run.model[0].weight, before)


def plain_network():
    """One without BatchNorm, whose statistics are each process's own, and dropout."""
    return nn.Sequential(network_of()[0], nn.Tanh(), *network_of()[4:])


def learned(_rank: int, name: str) -> torch.Tensor:
    """The losses of six steps, and the weights that are served after them."""
    run = FineTuning(plain_network(), objectives()[name], patches_of(), Schedule(6, 4, 1e-2))
    losses = torch.tensor([run.learn() for _ in range(6)])
    return torch.cat([losses, *(weight.detach().flatten() for weight in run.network.parameters())])


@pytest.mark.parametrize("name", ["noise", "smoothed"])
def test_two_processes_learn_as_one(name):
    alone = learned(0, name)
    for each in in_two_processes(learned, name):
        torch.testing.assert_close(each, alone, rtol=1e-4, atol=1e-5)
