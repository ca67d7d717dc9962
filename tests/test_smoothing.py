"""SmoothedSR: what forward computes and certify stores, against a stack of draws as a user would
write it.
"""

import random

import numpy as np
import pytest
import torch
from oracles import LinearSR
from torch import Tensor, nn

from smoothsr import SmoothedSR
from smoothsr.engine import noise
from smoothsr.files.digests import digest, fingerprint

SIGMA = 0.2
MODES = {"median": 0.5, "mean": None, "p10": 0.1, "p50": 0.5, "p97.5": 0.975}


class Net(nn.Module):
    """Two convolutions (receptive radius 2), then each pixel twice; its outputs leave [0, 1] on
    both sides.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.second = nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + 2 * self.second(torch.tanh(self.first(x)))
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2)


def network(channels: int = 3) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(channels).eval()


def image(*shape: int) -> Tensor:
    return torch.rand(shape or (1, 3, 6, 5), generator=torch.Generator().manual_seed(1))


def stack(net: nn.Module, lr: Tensor, n: int, seed: int = 0, pairs: bool = False) -> Tensor:
    """All n outputs for the noise that a smoother of one tile uses, as a user would write it."""
    noises = noise.source(seed, lr.device, lr.dtype, pairs)(0, range(n), (*lr.shape[1:],))
    return torch.stack([net(lr + SIGMA * one).clamp(0, 1) for one in noises])


@pytest.mark.parametrize(
    ("n", "agg"), [(n, agg) for n in (1, 4, 5, 21) for agg in MODES if n % 2 or agg != "median"]
)
def test_output_is_the_statistic_of_the_draws(n, agg):
    net, lr = network(), image()
    with torch.no_grad():
        draws = stack(net, lr, n, pairs=agg == "mean").double().numpy()
        found = SmoothedSR(net, SIGMA, n, agg, seed=0)(lr)
    expected = (
        draws.mean(0)
        if agg == "mean"
        else np.quantile(draws, MODES[agg], axis=0, method="inverted_cdf")
    )
    assert np.allclose(found.numpy(), expected, atol=1e-6)
    assert {draws.min(), draws.max()} == {0, 1}  # the clamp is part of it


def test_noise_is_the_same_for_any_batch_size_and_the_global_state_untouched():
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    net, lr, before = network(), image(), states()
    outputs = [
        SmoothedSR(net, SIGMA, 21, seed=4, tile=3, batch_size=size)(lr)
        for size in (None, 1, 2, 5, 20, 21, 50)
    ]
    assert all(torch.allclose(one, outputs[0], atol=1e-6) for one in outputs)
    SmoothedSR(net, SIGMA, 3)(lr)
    assert states() == before


def test_noise_is_fresh_unless_there_is_a_seed():
    lr = image()
    fresh, seeded = (
        SmoothedSR(network(), SIGMA, 3),
        SmoothedSR(network(), SIGMA, 3, seed=0, batch_size=3),
    )
    assert not torch.equal(fresh(lr), fresh(lr))
    assert torch.equal(seeded(lr), seeded(lr))
    torch.manual_seed(0)
    first = fresh(lr)
    torch.manual_seed(0)
    assert not torch.equal(fresh(lr), first)


@pytest.mark.parametrize(("tile", "halo"), [(4, 2), (3, 5), (5, 2), (1, 2)])
def test_tiles_equal_the_whole_away_from_the_border(tile, halo):
    net, lr = network(), image(1, 3, 11, 9)
    whole = SmoothedSR(net, 1e-6, 1)(lr)[..., 4:-4, 4:-4]
    assert torch.allclose(
        SmoothedSR(net, 1e-6, 1, tile=tile, halo=halo)(lr)[..., 4:-4, 4:-4], whole, atol=1e-4
    )
    # With a halo smaller than the receptive field they differ.
    assert not torch.allclose(
        SmoothedSR(net, 1e-6, 1, tile=tile, halo=0)(lr)[..., 4:-4, 4:-4], whole, atol=1e-2
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("height", "width", "tile", "halo"),
    [(7, 5, 4, 1), (3, 2, 8, 4), (2, 11, 4, 9), (1, 1, None, 4)],
)
def test_any_size_channels_and_batch(channels, height, width, tile, halo):
    lr = image(3, channels, height, width)
    net = nn.Upsample(scale_factor=3)
    found = SmoothedSR(net.eval(), 1e-4, 3, tile=tile, halo=halo)(lr)
    assert found.shape == (3, channels, 3 * height, 3 * width)
    assert torch.allclose(found, net(lr), atol=1e-3)


def test_images_of_a_batch_are_smoothed_one_by_one():
    lr, smoothed = image(3, 3, 5, 4), SmoothedSR(network(), SIGMA, 3, tile=3, seed=0)
    assert torch.allclose(
        smoothed(lr), torch.cat([smoothed(one) for one in lr.split(1)]), atol=1e-6
    )


@pytest.mark.parametrize(("agg", "recompute"), [("median", False), ("mean", False), ("mean", True)])
def test_gradients_reach_input_and_weights(agg, recompute):
    nets = network(), network()
    inputs = [image().requires_grad_() for _ in nets]
    weights = image(1, 3, 12, 10)
    draws = stack(nets[0], inputs[0], 5, pairs=agg == "mean")
    outputs = [
        draws.median(0).values if agg == "median" else draws.mean(0),
        SmoothedSR(nets[1], SIGMA, 5, agg, seed=0, recompute=recompute)(inputs[1]),
    ]
    for output in outputs:
        (output * weights).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    assert inputs[0].grad.abs().max() > 0.1
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)


def gray() -> Tensor:
    """An image from which LinearSR with little noise never leaves [0, 1]."""
    return 0.4 + 0.2 * image()


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"tile": 3, "halo": 1}, {"seed": 3}])
@torch.no_grad()
def test_noise_of_a_pair_cancels_in_a_linear_network(batch_size, options):
    net, lr = LinearSR(channels=3), gray().repeat(1, 1, 4, 4)
    clean = SmoothedSR(net, 1e-9, 1, **{**options, "seed": None})(lr)
    paired, odd = (
        SmoothedSR(net, 0.05, n, "mean", batch_size=batch_size, **options)(lr) for n in (6, 7)
    )
    apart = SmoothedSR(net, 0.05, 6, "mean", antithetic=False, **options)(lr)
    assert torch.allclose(paired, clean, atol=1e-6)
    # Of seven, three pairs cancel and one draw stays: its noise is .5 * .05 / 7.
    assert (odd - clean).std().item() == pytest.approx(0.025 / 7, rel=0.5)
    assert (apart - clean).std() > 0.005


def test_pairs_stay_pairs_where_memory_runs_out():
    class Small(LinearSR):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    net, lr = Small(channels=3), gray()
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="going on with 3"):
        found = SmoothedSR(net, 0.05, 8, "mean", batch_size=7)(lr)
    assert torch.allclose(found, net(lr), atol=1e-6)


def test_certification_draws_are_never_in_pairs():
    seen, lr = [], gray()
    net = LinearSR(channels=3)
    net.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0] - lr))
    SmoothedSR(net, 0.05, 6, "mean", batch_size=1).certify(lr, n=40)
    moved = [one for one in seen if one.any()]  # without those that look at the network itself
    served = [i for i in range(len(moved) - 1) if (moved[i] + moved[i + 1]).abs().max() < 1e-6]
    assert len(served) == 3
    assert len(moved) >= served[-1] + 2 + 40


@pytest.mark.parametrize(
    ("options", "n", "antithetic"),
    [
        ({}, 21, False),
        ({"agg": "p10"}, 21, False),
        ({"agg": "mean"}, 6, True),
        ({"agg": "mean", "antithetic": False}, 21, False),
        ({"agg": "mean", "n": 21}, 21, True),
        ({"antithetic": False}, 21, False),
    ],
)
def test_means_are_of_pairs_and_of_fewer_draws(options, n, antithetic):
    smoothed = SmoothedSR(network(), SIGMA, **options)
    assert (smoothed.n, smoothed.antithetic) == (n, antithetic)
    assert (f"antithetic={antithetic}" in repr(smoothed)) == (smoothed.agg == "mean")


def test_gradients_reach_every_pixel_through_tiles():
    lr = image(1, 3, 7, 5).requires_grad_()
    SmoothedSR(nn.Upsample(scale_factor=2).eval(), 1e-4, 3, tile=3, halo=2)(
        lr * 0.8 + 0.1
    ).sum().backward()
    assert torch.allclose(lr.grad, torch.full_like(lr, 0.8 * 4), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02)])
def test_output_has_the_inputs_precision(dtype, tolerance):
    net, lr = network().to(dtype), image().to(dtype)
    with torch.no_grad():
        found = SmoothedSR(network(), SIGMA, 5, seed=0).to(dtype)(lr)
        noises = noise.source(0, lr.device, dtype)(0, range(5), (3, 6, 5))
        expected = (
            torch.stack([net((lr + SIGMA * one).to(dtype)).clamp(0, 1) for one in noises])
            .median(0)
            .values
        )
    assert found.dtype == dtype
    assert torch.allclose(found, expected, rtol=0, atol=tolerance)


def test_a_network_that_fails_in_channels_last_or_runs_out_of_memory_works():
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.convolution(x).view(len(x), -1).view(x.shape)

    net, lr = Shuffle().eval(), image()
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="going on with 4") as caught:
        found = SmoothedSR(net, SIGMA, 21, seed=0, batch_size=8)(lr)
    assert len(caught) == 1
    net.forward = net.convolution.forward
    assert torch.allclose(found, stack(net, lr, 21).median(0).values, atol=1e-6)


def test_the_denoiser_comes_first_and_sees_patches():
    denoiser = nn.AvgPool2d(3, 1, 1).eval()
    shapes = []
    denoiser.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1:]))
    net, lr = network(), image(1, 3, 7, 5)
    found = SmoothedSR(net, SIGMA, 3, tile=4, halo=1, seed=0, denoiser=denoiser)(lr)
    both = nn.Sequential(nn.AvgPool2d(3, 1, 1), net).eval()
    assert torch.allclose(found, SmoothedSR(both, SIGMA, 3, tile=4, halo=1, seed=0)(lr), atol=1e-6)
    assert {*shapes} == {(3, 6, 6)}


CERTIFY = {"n": 60, "alpha": 0.5, "levels": 2, "scope": "pixel"}


def test_certify_stores_order_statistics_of_the_same_predictor():
    net, lr, calls = network(), image(), []
    smoothed = SmoothedSR(net, SIGMA, 5, tile=8, seed=1)  # one tile, as the stack has
    found = smoothed.certify(
        lr, **CERTIFY, void_guarantee_seed=0, progress=lambda *call: calls.append(call)
    )
    with torch.no_grad():
        draws = np.sort(stack(net, lr, 60).mul(255).round().byte().numpy(), axis=0)[:, 0]
        assert np.abs(found.sr_bytes - smoothed(lr).mul(255).round().numpy()).max() <= 1
    assert found.upper.shape == found.lower.shape == (2, 3, 12, 10)
    # Symmetric ranks: the last level's are the extremes. A draw may round to the neighbour, since
    # batches change its last bit.
    assert np.abs(found.upper[1].astype(int) - draws[-1]).max() <= 1
    assert np.abs(found.lower[1].astype(int) - draws[0]).max() <= 1
    assert calls[-1] == (60, 60)
    assert (found.void, found.seeded, found.n_serve, found.n_cert) == (True, True, 5, 60)


def test_certification_draws_are_fresh_even_if_serving_is_not():
    lr, smoothed = image(), SmoothedSR(network(), SIGMA, 3, seed=0, batch_size=60)
    first, second = smoothed.certify(lr, **CERTIFY), smoothed.certify(lr, **CERTIFY)
    assert (first.sr_bytes == second.sr_bytes).all()
    assert (first.upper != second.upper).any()
    assert first.input_digest == second.input_digest == digest([lr])


@pytest.mark.parametrize("widen", [False, True])
def test_low_precision_is_rounded_as_served(widen):
    """bfloat16 can't hold 255 times its values, nor a float32 network's output: draws must be
    rounded as the output is.
    """
    net = nn.Identity().eval()
    net.forward = lambda x: x.float() * 0.97 if widen else x
    lr = torch.arange(256).div(256).bfloat16().expand(1, 1, 4, 256)
    certificate = SmoothedSR(net, 1e-9, 1).certify(lr, **CERTIFY)
    assert certificate.dtype == "bfloat16"
    assert (certificate.lower <= certificate.sr_bytes).all()
    assert (certificate.sr_bytes <= certificate.upper).all()


def test_weights_digest_covers_network_and_denoiser():
    def certified(net, denoiser=None):
        smoothed = SmoothedSR(net, SIGMA, 1, denoiser=denoiser)
        return smoothed.certify(image(), **CERTIFY).weights_digest

    net, filters = network(), [nn.Conv2d(3, 3, 1).eval() for _ in "ab"]
    assert certified(net) == certified(network()) == fingerprint(net)
    assert len({certified(net), *(certified(net, one) for one in filters)}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"levels": 1}, "levels must be an integer of at least 2"),
        ({"alpha": 0}, "alpha must be between 0 and 1"),
        ({"alpha": 1}, "alpha must be between 0 and 1"),
        ({"scope": "row"}, "scope must be"),
        ({"lr": image(2, 3, 6, 5)}, "one image"),
    ],
)
def test_certify_refuses_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothedSR(network(), SIGMA, 3).certify(**{"lr": image(), **options})
    with pytest.raises(ValueError, match="median or the mean"):
        SmoothedSR(network(), SIGMA, 3, "p10").certify(image())


def test_certify_says_how_many_draws_would_do():
    smoothed = SmoothedSR(network(), SIGMA, 3)
    with pytest.warns(
        UserWarning,
        match=r"21 draws can't bound 360 values at alpha=0\.001.*At least n=25 would do",
    ) as caught:
        assert smoothed.certify(image(), n=21).z.size == 0
    assert len(caught) == 1
    assert smoothed.certify(image(), n=25).z.size == 32


def test_weights_digest_covers_structure():
    """The same weights with another activation are another network."""

    def certified(activation):
        layers = nn.Sequential(nn.Conv2d(3, 3, 1), activation).eval()
        layers[0].load_state_dict({"weight": torch.ones(3, 3, 1, 1) / 9, "bias": torch.zeros(3)})
        return SmoothedSR(layers, SIGMA, 1).certify(image(), **CERTIFY).weights_digest

    assert certified(nn.ReLU()) == certified(nn.ReLU())
    activations = (nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2))
    assert len({certified(activation) for activation in activations}) == 3


@pytest.mark.parametrize("sigma", [8 / 255, 0.03, 0.1, 1 / 3, 2**-40, 1.0, 0.2, 12.5 / 255])
def test_sigma_is_shown_so_that_it_can_be_typed_again(sigma):
    smoothed = SmoothedSR(network(), sigma, 1)
    certificate = smoothed.certify(image(), **CERTIFY)
    for text in (repr(smoothed), repr(certificate)):
        shown = text.split("sigma=")[1].split(",")[0]
        top, _, bottom = shown.partition("/")
        assert float(top) / float(bottom or 1) == sigma
    assert "sigma=8/255," in repr(SmoothedSR(network(), 8 / 255))
