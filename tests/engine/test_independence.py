"""What a certificate takes on trust: networks that are no fixed function of each image are
refused, and no others.
"""

import itertools

import pytest
import torch
from oracles import LinearSR
from torch import Tensor, nn
from torch.nn import functional as F

from smoothsr import SmoothedSR
from smoothsr.engine.independence import require_independence

CERTIFY = {"n": 60, "alpha": 0.5, "levels": 2, "scope": "pixel"}


def network(forward) -> nn.Module:
    net = nn.Identity().eval()
    net.forward = forward
    return net


def image() -> Tensor:
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def shared_noise(x: Tensor) -> Tensor:
    """The same for all images of a batch, so that a batch alone shows nothing."""
    return x + 0.02 * torch.randn(1, generator=GENERATOR)


def counting(x: Tensor) -> Tensor:
    return x + 0.05 * (next(CALLS) % 2)


CALLS = itertools.count()
GENERATOR = torch.Generator().manual_seed(0)
STATEFUL = {
    "noise": shared_noise,
    "dropout": lambda x: F.dropout(x, 0.1, training=True),
    "calls": counting,
}
MIXING = {
    "normalised": lambda x: torch.sigmoid(F.batch_norm(x, None, None, training=True)),
    "mean": lambda x: 0.9 * x + 0.1 * x.mean(0, keepdim=True),
    "neighbour": lambda x: 0.9 * x + 0.1 * x.roll(1, 0),
    "place": lambda x: x * (1 - 0.1 * torch.arange(len(x)).view(-1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("tile", [None, 4])
def test_networks_that_change_between_runs_are_refused(name, tile):
    with torch.random.fork_rng(), pytest.raises(ValueError, match="two runs of the model") as error:
        SmoothedSR(network(STATEFUL[name]), 0.1, tile=tile).certify(image(), **CERTIFY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MIXING)
def test_networks_whose_images_depend_on_each_other_are_refused(name):
    net = network(MIXING[name])
    with pytest.raises(ValueError, match=r"alone and in a batch.*pass batch_size=1") as error:
        SmoothedSR(net, 0.1).certify(image(), **CERTIFY)
    assert "\n" not in str(error.value)
    SmoothedSR(net, 0.1, batch_size=1).certify(image(), **CERTIFY)  # as the error says


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
def test_flat_images_hide_nothing(fill):
    with pytest.raises(ValueError, match="alone and in a batch"):
        SmoothedSR(network(MIXING["mean"]), 0.1).certify(torch.full((1, 3, 8, 8), fill), **CERTIFY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_errors_are_no_dependence(dtype):
    """As large as those of deep networks: an image alone is summed in another order."""

    def rounded(x: Tensor) -> Tensor:
        error = 1 if dtype != torch.float32 else 20
        return x + error * torch.finfo(dtype).eps * (len(x) % 2)

    require_independence(rounded, image(), dtype, None)
    with pytest.raises(ValueError, match="alone and in a batch"):
        require_independence(lambda x: x + 0.05 * (len(x) % 2), image(), dtype, None)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.BatchNorm2d(3)])
def test_norms_of_one_image_are_certified(norm):
    SmoothedSR(nn.Sequential(norm, nn.Sigmoid()).eval(), 0.1).certify(image(), **CERTIFY)


def test_the_denoiser_is_tried_too():
    with pytest.raises(ValueError, match="two runs of the model"):
        SmoothedSR(LinearSR(3), 0.1, denoiser=network(shared_noise)).certify(image(), **CERTIFY)


def test_where_memory_holds_one_image_draws_run_one_by_one():
    def small(x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    require_independence(small, image(), torch.float32, None)

    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("wrong channels")

    with pytest.raises(ValueError, match=r"fails on a patch of .* pixels.*wrong channels"):
        require_independence(broken, image(), torch.float32, None)


def test_no_more_images_at_once_are_tried_than_fit():
    sizes = []

    def forward(x):
        sizes.append(len(x))
        return x

    smoothed = SmoothedSR(network(forward), 0.1, tile=None)
    smoothed.batching.most = 1
    smoothed.certify(image(), **CERTIFY)
    assert {*sizes} == {1}


def test_the_input_is_left_alone():
    lr = image()
    require_independence(lambda x: x.mul_(0.5), lr, torch.float32, None)
    assert torch.equal(lr, image())
