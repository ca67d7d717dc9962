"""Fitted and GrayAsRGB: padding, range and batches inside, and the network's own state_dict
outside.
"""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smoothsr.adapters import GrayAsRGB
from smoothsr.adapters.fitted import (
    Fitted,
    Found,
    extend,
    fit,
    padded_side,
    padding_advice,
    padding_share,
)


class Fussy(nn.Module):
    """Refuses what Fitted should never give it; enlarges by repeating, through one convolution."""

    def __init__(self, minimum: int = 1, multiple: int = 1, square: bool = False) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 3, 3, padding=1)  # a child of the same name as Fitted's own
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3)
        self.asks = minimum, multiple, square

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        minimum, multiple, square = self.asks
        h, w = x.shape[-2:]
        assert min(h, w) >= minimum
        assert h % multiple == w % multiple == 0
        assert h == w or not square
        return F.interpolate(self.norm(self.network(x)) * self.weight, scale_factor=2.0)


def fitted(**asks) -> Fitted:
    torch.manual_seed(0)
    network = Fussy(
        asks.get("minimum_size", 1), asks.get("multiple_of", 1), asks.get("square", False)
    )
    return fit(Found(network, "Fussy", 2, 3, **asks))


@pytest.fixture
def lr() -> torch.Tensor:
    return torch.rand(2, 3, 10, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "asks",
    [
        {"multiple_of": 8},
        {"minimum_size": 64},
        {"square": True},
        {"multiple_of": 16, "square": True, "minimum_size": 40},
    ],
)
def test_any_size_gets_through(asks, lr):
    for h, w in [(10, 7), (1, 1), (1, 9), (33, 2)]:
        assert fitted(**asks)(lr[..., :1, :1].expand(-1, -1, h, w)).shape == (2, 3, 2 * h, 2 * w)


def test_equals_the_bare_network_where_nothing_is_to_be_padded(lr):
    model = fitted(multiple_of=8)
    whole = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(whole), model.network(whole))
    # Elsewhere it is what numpy's reflection gives.
    padded = F.pad(lr, (0, 1, 0, 6), mode="reflect")
    assert torch.equal(model(lr), model.network(padded)[..., :20, :14])


def test_pads_larger_than_the_side_bounce(lr):
    seen = []
    model = fitted(minimum_size=9)
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(lr[..., :3, :2])
    assert torch.equal(seen[0][..., :, 0], lr[..., [0, 1, 2, 1, 0, 1, 2, 1, 0], 0])
    assert torch.equal(seen[0][..., 0, :], lr[..., 0, [0, 1, 0, 1, 0, 1, 0, 1, 0]])


@pytest.mark.parametrize(
    ("side", "size"), [(1, 5), (2, 9), (3, 3), (5, 4), (5, 9), (5, 10), (4, 31)]
)
def test_extend_is_numpys_reflection(side, size):
    x = torch.rand(2, side, 3, generator=torch.Generator().manual_seed(0))
    expected = np.pad(x.numpy(), ((0, 0), (0, max(size - side, 0)), (0, 0)), "reflect")
    assert np.array_equal(extend(x, 1, size).numpy(), expected)
    assert np.array_equal(extend(x, -2, size).numpy(), expected)


@pytest.mark.parametrize("multiple", [1, 7, 8, 16])
@pytest.mark.parametrize("minimum", [1, 64])
def test_the_advised_tile_needs_no_padding_and_is_no_more_work(multiple, minimum):
    for tile, halo in [(8, 2), (8, 4), (12, 2), (64, 4), (5, 0), (1, 33)]:
        padded = padded_side(tile + 2 * halo, multiple, minimum)
        share = padding_share(tile + 2 * halo, multiple, minimum)
        said = padding_advice(multiple, minimum, tile, halo)
        if padded == tile + 2 * halo:
            assert said is None
            assert share == 0
            continue
        seen = []
        model = fitted(multiple_of=multiple, minimum_size=minimum)
        model.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        model(torch.zeros(1, 3, tile + 2 * halo, tile + 2 * halo))
        assert share == pytest.approx(1 - (tile + 2 * halo) ** 2 / seen[0][0, 0].numel())
        better = int(re.search(rf"tile (\d+) and halo {halo} need no padding", said)[1])
        assert padding_advice(multiple, minimum, better, halo) is None
        assert tile < better == padded - 2 * halo
        assert f"{share:.0%} of its work is padding" in said


def test_whole_images_get_no_advice():
    assert padding_advice(16, 64, None, 2) is padding_advice(16, 64, 0, 2) is None


def test_a_network_that_asks_for_nothing_stays_bare():
    network = nn.Identity()
    assert fit(Found(network, "", 1, 3)) is network
    assert not network.training


def test_range_of_255(lr):
    model = fit(Found(nn.Threshold(127.5, 0.0), "", 1, 3, value_range=255.0))
    torch.testing.assert_close(model(lr), torch.where(lr > 0.5, lr, 0.0))


def test_the_input_is_never_written_to(lr):
    before = lr.clone()
    model = fit(Found(nn.ReLU(inplace=True), "", 1, 3, overwrites=True))
    assert torch.equal(model(lr - 0.5), (before - 0.5).relu())
    model(lr)
    assert torch.equal(lr, before)


def test_one_image_at_a_time(lr):
    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean()

    model = fit(Found(Mixing(), "", 1, 3, singly=True))
    torch.testing.assert_close(model(lr), lr - lr.mean((1, 2, 3), keepdim=True))


def test_gradients_reach_input_and_weights(lr):
    model = fitted(multiple_of=8)
    lr.requires_grad_()
    model(lr).square().sum().backward()
    assert (lr.grad.abs() > 0).all()
    assert model.network.network.weight.grad.abs().sum() > 0
    slim = fitted(multiple_of=8).double()
    assert torch.autograd.gradcheck(
        slim, torch.rand(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    )


WRAPS = [
    lambda: fitted(multiple_of=8),
    lambda: GrayAsRGB(Fussy()),
    lambda: GrayAsRGB(fitted(square=True)),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_state_dict_is_the_networks_in_both_directions(wrap):
    bare, model = Fussy(), wrap()
    assert list(model.state_dict()) == list(bare.state_dict())
    nn.init.normal_(model.get_parameter(next(name for name, _ in model.named_parameters())))
    bare.load_state_dict(model.state_dict())
    other = wrap()
    other.load_state_dict(bare.state_dict())
    for key, value in bare.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
        assert torch.equal(value, other.state_dict()[key])
    assert model.state_dict()._metadata == bare.state_dict()._metadata


def test_versions_travel_with_the_state_dict():
    assert (
        GrayAsRGB(nn.BatchNorm2d(3)).state_dict()._metadata
        == nn.BatchNorm2d(3).state_dict()._metadata
    )


def test_state_dict_when_nested():
    outer = nn.ModuleDict({"sr": fitted(multiple_of=8), "other": nn.Linear(1, 1)})
    bare = nn.ModuleDict({"sr": Fussy(), "other": nn.Linear(1, 1)})
    assert list(outer.state_dict()) == list(bare.state_dict())
    bare.load_state_dict(outer.state_dict())
    outer.load_state_dict(bare.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected"):
        outer.load_state_dict({**bare.state_dict(), "sr.odd": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing"):
        outer.load_state_dict(
            {key: value for key, value in bare.state_dict().items() if key != "sr.weight"}
        )


def test_copies_are_whole_and_apart(lr):
    model = fitted(multiple_of=8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(lr), model(lr))
        assert list(twin.state_dict()) == list(Fussy().state_dict())
        twin.load_state_dict(
            {key: torch.zeros_like(value) for key, value in twin.state_dict().items()}
        )
        assert model.network.weight.item() == 1
        assert twin.network.weight.item() == 0


def test_gray_gets_through_a_colour_network(lr):
    network = nn.Conv2d(3, 3, 1, bias=False)
    gray = lr[:, :1]
    torch.testing.assert_close(GrayAsRGB(network)(gray), gray * network.weight.sum() / 3)
    with pytest.raises(ValueError, match=r"lr must be gray, \(B,1,h,w\), got \(2, 3, 10, 7\)"):
        GrayAsRGB(network)(lr)


def test_gray_keeps_the_mode():
    assert not GrayAsRGB(nn.Identity().eval()).training
    assert GrayAsRGB(nn.Identity().train()).training
