"""NoiseAugmentation: the noise's strength, when it acts, and that it leaves no trace."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smoothsr.training import NoiseAugmentation, StepSeed
from smoothsr.training.noise import NoisyLoss, PlainLoss


def attached(sigma, seed=0) -> nn.Module:
    """An identity network with noise in front of it."""
    net = nn.Identity().train()
    NoiseAugmentation(sigma, seed=seed).attach(net)
    return net


def test_noise_has_the_given_strength_and_is_normal():
    noise = attached(0.1)(torch.zeros(1, 3, 200, 200))
    # 120000 values: standard errors of the moments are .0003, .0002 and, of the kurtosis, .014.
    assert noise.mean().abs() < 0.0015
    assert noise.std() == pytest.approx(0.1, abs=0.001)
    assert (noise / noise.std()).pow(4).mean() == pytest.approx(3, abs=0.07)


def test_noise_is_added_and_not_clamped():
    lr = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noisy, noise = attached(1.0)(lr), attached(1.0)(torch.zeros_like(lr))
    assert torch.allclose(noisy, lr + noise, atol=1e-6)
    assert noisy.min() < -1
    assert noisy.max() > 2


def test_a_pair_draws_one_strength_for_each_image():
    noise = attached((0.1, 0.5))(torch.zeros(400, 1, 16, 16))
    found = noise.std(dim=(1, 2, 3))
    # Uniform on [.1, .5]: mean .3 and standard deviation .115; each estimate is off by 4% or so.
    assert 0.08 < found.min() < 0.15
    assert 0.45 < found.max() < 0.6
    assert found.mean() == pytest.approx(0.3, abs=0.03)
    assert found.std() == pytest.approx(0.4 / 12**0.5, abs=0.015)
    assert attached((0.0, 0.0))(torch.zeros(1, 1, 2, 2)).abs().max() == 0


def test_it_acts_in_train_mode_only():
    net, lr = attached(0.1), torch.zeros(1, 3, 4, 4)
    assert not torch.equal(net(lr), lr)
    assert torch.equal(net.eval()(lr), lr)
    assert not torch.equal(net.train()(lr), lr)
    assert torch.equal(lr, torch.zeros(1, 3, 4, 4))


def test_other_arguments_pass_through():
    class Two(nn.Module):
        def forward(self, lr: Tensor, factor: float, *, offset: float = 0.0) -> Tensor:
            return lr * factor + offset

    net = Two().train()
    NoiseAugmentation(0.1, seed=0).attach(net)
    assert torch.allclose(
        net(torch.zeros(1, 1, 3, 3), 2.0, offset=1.0),
        attached(0.1)(torch.zeros(1, 1, 3, 3)) * 2 + 1,
    )


def test_remove_leaves_no_trace():
    net = nn.Conv2d(3, 3, 1).train()
    before, keys = {key: copy.copy(value) for key, value in vars(net).items()}, [*net.state_dict()]
    handle = NoiseAugmentation(0.1).attach(net)
    assert vars(net) != before
    assert [*net.state_dict()] == keys
    handle.remove()
    assert vars(net) == before
    assert torch.equal(net(torch.ones(1, 3, 2, 2)), net(torch.ones(1, 3, 2, 2)))


def test_a_seed_makes_it_reproducible_and_none_does_not():
    lr = torch.zeros(2, 3, 4, 4)
    one, same, other, fresh, fresher = (attached((0, 0.1), seed) for seed in (3, 3, 4, None, None))
    first = [one(lr), one(lr)]
    assert not torch.equal(*first)  # it goes on
    assert torch.equal(torch.cat(first), torch.cat([same(lr), same(lr)]))
    outputs = [first[0], other(lr), fresh(lr), fresher(lr)]
    assert len({output.numpy().tobytes() for output in outputs}) == 4


def test_the_global_random_state_is_neither_read_nor_changed():
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = states()
    noise = attached(0.1)(torch.zeros(1, 3, 4, 4))
    attached(0.1, seed=None)(torch.zeros(1, 3, 4, 4))
    assert states() == before
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(attached(0.1)(torch.zeros(1, 3, 4, 4)), noise)


def test_copies_work_and_begin_their_noise_anew():
    net, lr = attached(0.1, seed=None), torch.zeros(1, 3, 4, 4)
    first = net(lr)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(lr), first)
        assert torch.equal(twin.eval()(lr), lr)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_the_inputs(dtype):
    noisy = attached((0.1, 0.2))(torch.zeros(1, 3, 32, 32, dtype=dtype))
    assert noisy.dtype == dtype
    assert 0.09 < noisy.float().std() < 0.22


def test_gradients_pass():
    lr = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attached((0.1, 0.2))(lr).sum().backward()
    assert torch.equal(lr.grad, torch.ones_like(lr))


@pytest.mark.parametrize(
    "sigma", [-0.1, float("nan"), float("inf"), (0.2, 0.1), (-0.1, 0.1), (0.1, float("inf"))]
)
def test_bad_strengths_are_refused(sigma):
    with pytest.raises(ValueError, match=r"sigma must be a finite number >= 0 or a pair lo <= hi"):
        NoiseAugmentation(sigma)


def test_the_noisy_loss_draws_a_strength_for_each_image():
    found = []
    loss = NoisyLoss(lambda sr, _: found.append(sr.std((1, 2, 3))) or sr.mean(), (0.1, 0.5))
    lr = torch.zeros(400, 1, 16, 16)
    loss(nn.Identity(), lr, lr, StepSeed(0))
    assert 0.08 < found[0].min() < 0.15
    assert 0.45 < found[0].max() < 0.6
    assert found[0].mean() == pytest.approx(0.3, abs=0.03)
    assert found[0].std() == pytest.approx(0.4 / 12**0.5, abs=0.015)


def test_the_noisy_losss_strengths_are_independent_of_its_noise():
    seen = []
    loss = NoisyLoss(lambda sr, _: seen.append(sr) or sr.mean(), (0.1, 0.5))
    lr = torch.zeros(2000, 1, 4, 4)
    loss(nn.Identity(), lr, lr, StepSeed(0))
    sizes, first = seen[0].std((1, 2, 3)), seen[0][:, 0, 0, 0].sign()
    # The standard error of a correlation of 2000 pairs is .022.
    assert abs(np.corrcoef(sizes, first)[0, 1]) < 0.1


def test_the_noisy_loss_is_that_of_noisy_input_and_the_plain_one_of_clean():
    lr = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = NoisyLoss(nn.MSELoss(), (0.1, 0.1))
    # 128 squared normals: the standard error of their mean is .00125.
    assert loss(nn.Identity(), lr, lr, StepSeed(0)) == pytest.approx(0.01, abs=0.004)
    assert loss(nn.Identity(), lr, lr, StepSeed(0)) == loss(nn.Identity(), lr, lr, StepSeed(0))
    assert PlainLoss(nn.MSELoss())(nn.Identity(), lr, lr + 0.5) == 0.25
