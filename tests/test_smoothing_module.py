"""SmoothedSR as a module: contexts and copies, its checkpoint, what it leaves alone, and what it
refuses.
"""

import copy
import pickle
import types

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smoothsr import SmoothedSR

SIGMA = 0.2


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid(), nn.Upsample(scale_factor=2)
        ).eval()


def image(*shape: int) -> Tensor:
    return torch.rand(shape or (1, 3, 6, 5), generator=torch.Generator().manual_seed(1))


def test_works_in_every_context():
    net, lr = network(), image(1, 3, 7, 5)
    smoothed = SmoothedSR(net, SIGMA, 5, tile=4, halo=1, seed=0, denoiser=nn.Identity())
    expected = smoothed(lr).detach()
    copies = [
        copy.deepcopy(smoothed),
        pickle.loads(pickle.dumps(smoothed)),
        smoothed._replicate_for_data_parallel(),
    ]
    assert all(torch.allclose(one(lr), expected, atol=1e-6) for one in copies)
    assert all(one.model is not net for one in copies[:2])
    with torch.no_grad():
        assert torch.allclose(smoothed(lr), expected, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(smoothed(lr.clone()), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = smoothed(lr)
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.1


def test_input_and_mode_are_left_as_they_were():
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(0).add_(0.5)

    lr = image()
    for net in (InPlace(), nn.BatchNorm2d(3)):
        smoothed, before = SmoothedSR(net.eval(), SIGMA, 3), copy.deepcopy(net.state_dict())
        smoothed(lr)
        smoothed.certify(lr, n=60, alpha=0.5, levels=2, scope="pixel")
        assert torch.equal(lr, image())
        assert not net.training
        assert not smoothed.training
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_train_mode_warns_in_forward_and_is_refused_by_certify():
    net = network().train()
    smoothed = SmoothedSR(net, SIGMA, 3)
    with pytest.warns(UserWarning, match=r"train mode.*eval"):
        smoothed(image())
    assert net.training
    assert smoothed.training
    smoothed.eval()(image())
    net[0].train()  # a part of it is enough
    for other in (
        smoothed,
        SmoothedSR(network(), SIGMA, 3, denoiser=nn.Sequential(nn.BatchNorm2d(3)).train()),
    ):
        with pytest.raises(ValueError, match=r"train mode.*eval"):
            other.certify(image())
    with pytest.raises(ValueError, match="batch norm without running statistics"):
        SmoothedSR(nn.BatchNorm2d(3, track_running_stats=False).eval(), SIGMA, 3).certify(image())


def named(*keys: str) -> nn.Module:
    """A network with the given parameters."""
    top = nn.Module()
    for index, key in enumerate(keys):
        *path, name = key.split(".")
        inner = top
        for part in path:
            if part not in inner._modules:
                inner.add_module(part, nn.Module())
            inner = inner.get_submodule(part)
        inner.register_parameter(name, nn.Parameter(torch.full((2,), float(index))))
    return top.eval()


KEYS = [
    ("0.weight",),
    ("model.0.weight", "model.model.weight"),
    ("model.0.weight", "0.weight"),
    ("denoiser.0.weight", "weight"),
]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("denoised", [False, True])
def test_state_dict_is_the_bare_networks(keys, denoised):
    bare = named(*keys)
    denoiser = nn.Conv2d(3, 3, 1) if denoised else None
    smoothed = SmoothedSR(copy.deepcopy(bare), SIGMA, denoiser=denoiser)
    holder = nn.ModuleDict(
        {
            "a": nn.Linear(1, 1),
            "sr": nn.ModuleList([smoothed, nn.Linear(1, 1)]),
            "model": nn.Linear(1, 1),
        }
    )
    assert [*smoothed.state_dict()] == [*bare.state_dict()]
    linear = {f"{place}.{name}" for place in ("a", "sr.1", "model") for name in ("weight", "bias")}
    assert {*holder.state_dict()} == linear | {f"sr.0.{key}" for key in keys}

    kept = copy.deepcopy(denoiser)
    other = {key: value + 10 for key, value in bare.state_dict().items()}
    for wrapped, prefix in [(smoothed, ""), (copy.deepcopy(holder), "sr.0.")]:
        state = wrapped.state_dict() | {prefix + key: value for key, value in other.items()}
        given = [*state]
        wrapped.load_state_dict(state, strict=True)
        assert [*state] == given  # the caller's is not changed
        inner = wrapped.get_submodule(prefix.rstrip("."))
        assert all(
            torch.equal(value, other[key]) for key, value in inner.model.state_dict().items()
        )
        assert denoiser is None or all(
            map(torch.equal, inner.denoiser.parameters(), kept.parameters())
        )
    bare.load_state_dict(smoothed.state_dict(), strict=True)
    assert all(torch.equal(value, other[key]) for key, value in bare.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        smoothed.load_state_dict({}, strict=True)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        smoothed.load_state_dict(other | {"surplus.weight": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "sigma must be greater than 0"),
        ({"sigma": -1}, "sigma must be greater than 0 and finite, got -1"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": 2.5}, "n must be an integer"),
        ({"n": 20}, "n must be odd for the median"),
        ({"agg": "mode"}, "agg must be"),
        ({"agg": "p0"}, "agg must be"),
        ({"agg": "p100"}, "agg must be"),
        ({"agg": "px"}, "agg must be"),
        ({"agg": None}, "agg must be"),
        ({"antithetic": True}, 'antithetic pairs are for agg="mean".* got .median'),
        ({"antithetic": True, "agg": "p10"}, 'antithetic pairs are for agg="mean"'),
        ({"antithetic": "no", "agg": "mean"}, "antithetic must be True, False or None, got 'no'"),
        ({"n": 0, "agg": "mean"}, "n must be an integer of at least 1, got 0"),
        ({"tile": 0}, "tile must be"),
        ({"tile": 1.5}, "tile must be"),
        ({"halo": -1}, "halo must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothedSR(network(), **{"sigma": SIGMA, **options})


def test_options_are_those_of_the_moment():
    smoothed = SmoothedSR(nn.Identity().eval(), SIGMA, np.int64(3), tile=np.int64(2), halo=2.0)
    assert [type(option) for option in (smoothed.n, smoothed.tile, smoothed.halo)] == [int] * 3
    smoothed(image())
    smoothed.n = 201  # the median's rank goes with it
    assert smoothed(torch.full((1, 3, 8, 8), 0.5)).mean() == pytest.approx(0.5, abs=0.02)
    assert "n=201" in repr(smoothed)


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (image(3, 6, 5), r"lr must be a tensor \(B,C,h,w\), got \(3, 6, 5\)"),
        (np.zeros((1, 3, 6, 5)), "lr must be a tensor"),
        (torch.zeros(1, 3, 6, 5, dtype=torch.uint8), r"floating.*divide 8-bit values by 255"),
        (torch.zeros(1, 3, 0, 5), "empty"),
        (torch.full((1, 3, 6, 5), torch.nan), "NaN or infinite"),
        (torch.full((1, 3, 6, 5), -torch.inf), "NaN or infinite"),
        (image() * 255, r"\[0, 1\].*divide 8-bit values by 255"),
    ],
)
def test_bad_input_is_refused(lr, message):
    smoothed = SmoothedSR(network(), SIGMA, 3)
    for call in (smoothed, smoothed.certify):
        with pytest.raises(ValueError, match=message):
            call(lr)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x * torch.nan, "output has NaN or infinite"),
        (
            lambda x: x * torch.inf,
            "output has NaN or infinite",
        ),  # which the clamp alone would turn into 1
        (lambda x: x.where(x > x.min(), -torch.inf), "output has NaN or infinite"),
        (lambda x: x[..., 1:], "integer multiple"),
        (lambda x: x[0], r"must return \(B,C,H,W\)"),
        (lambda x: x.mean(0, keepdim=True).repeat(2, 1, 1, 1), r"must return \(B,C,H,W\)"),
        (lambda x: (x, x), r"must return \(B,C,H,W\)"),
    ],
)
def test_bad_output_is_refused(output, message):
    net = nn.Identity().eval()
    net.forward = output
    for call in (SmoothedSR(net, SIGMA, 3, batch_size=3), SmoothedSR(net, SIGMA, 1).certify):
        with pytest.raises(ValueError, match=message):
            call(image())


def test_a_descriptor_of_another_library_gets_a_hint():
    with pytest.raises(
        TypeError,
        match=r"got SimpleNamespace: pass its \.model, or smoothsr\.adapters\.load\(path\)\.model",
    ):
        SmoothedSR(types.SimpleNamespace(model=network(), scale=4), SIGMA)
    with pytest.raises(TypeError, match=r"got function: pass a torch\.nn\.Module"):
        SmoothedSR(image, SIGMA)


class Versioned(nn.Module):
    """Its weight was stored negative before version 3, as some old checkpoints are."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 3:
            state[f"{prefix}weight"] = -state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("denoised", [False, True])
def test_state_dict_has_the_bare_networks_versions(denoised):
    bare = nn.Sequential(Versioned(), nn.Sequential(nn.BatchNorm2d(3), Versioned())).eval()
    denoiser = nn.Sequential(nn.BatchNorm2d(3)).eval() if denoised else None
    smoothed = SmoothedSR(copy.deepcopy(bare), SIGMA, denoiser=denoiser)
    state, wanted = smoothed.state_dict(), bare.state_dict()
    assert state._metadata == wanted._metadata
    assert [*state] == [*wanted]
    for holder, inside in (
        (nn.ModuleDict({"a": nn.BatchNorm2d(1), "sr": smoothed, "z": nn.BatchNorm2d(1)}), bare),
        (nn.DataParallel(smoothed), bare),
        (SmoothedSR(nn.Sequential(smoothed), SIGMA), bare),
    ):
        like = copy.deepcopy(holder)
        for _, child in [*like.named_modules()]:
            for key, each in child.named_children():
                if isinstance(each, SmoothedSR):
                    setattr(child, key, inside)
        assert holder.state_dict()._metadata == like.state_dict()._metadata
        assert [*holder.state_dict()] == [*like.state_dict()]
    for one in (smoothed, pickle.loads(pickle.dumps(smoothed)), copy.deepcopy(smoothed)):
        one.load_state_dict(wanted)
        assert one.state_dict()._metadata == wanted._metadata
        assert all(torch.equal(value, wanted[key]) for key, value in one.state_dict().items())
    bare.load_state_dict(smoothed.state_dict())
    assert (bare[0].weight == 1).all()
