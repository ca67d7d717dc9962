"""The leading change against the top singular vector of a linear network, which it must find."""

import torch
from oracles import LinearSR, gentle, truth
from torch import nn

from smoothsr import SmoothedSR, attacks
from smoothsr.attacks import leading_change


def test_it_is_the_top_singular_vector_of_a_linear_network():
    net, lr = LinearSR(channels=1), gentle(0, side=4)
    exact = truth(net, (1, 1, 4, 4))
    found = leading_change(SmoothedSR(net, 0.02), lr, draws=4000).flatten().double()
    singular = torch.linalg.svd(exact.jacobian)
    reached = (exact.jacobian @ found).norm() / singular.S[0]
    assert reached > 0.97


def test_it_is_of_norm_1_and_the_same_for_a_seed():
    smoothed, lr = SmoothedSR(LinearSR(channels=3), 0.02), gentle(0, channels=3, side=5)
    first, again, other = (leading_change(smoothed, lr, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(first.norm().item() - 1) < 1e-5


def test_a_constant_network_has_none():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    found = leading_change(SmoothedSR(Constant().eval(), 0.02), gentle(0))
    assert torch.equal(found, torch.zeros_like(found))


def test_attacks_take_it_as_a_start():
    net, lr, eps = LinearSR(channels=1), gentle(0, side=6), 1 / 255
    start = eps * leading_change(SmoothedSR(net, 0.02), lr).sign()
    attacked = attacks.pgd(net, lr, eps=eps, steps=1, starts=[start])
    assert (net(attacked) - net(lr)).norm() >= 0.999 * (net(lr + start) - net(lr)).norm()
