"""Random networks of many architectures, saved in every style, load to the same output."""

import copy
import itertools
import json
import pickle
import warnings
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

from smoothsr.adapters import CheckpointError, basicsr_archs, load
from smoothsr.adapters.checkpoint import PREFIXES, WRAPPERS
from smoothsr.adapters.edsr import EDSR, MSRResNet

STYLES = itertools.cycle(itertools.product([None, *WRAPPERS], ["", *PREFIXES]))


@pytest.fixture
def lr() -> torch.Tensor:
    return torch.rand(2, 3, 21, 18, generator=torch.Generator().manual_seed(1))


def build(module: str, name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(import_module(module), name)(**options).eval()


def save(network, path, style=(None, "")):
    wrapper, prefix = style
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save({wrapper: state} if wrapper else state, path)
    return path


def check(network, path, lr, expected, **options):
    """Load the network's state dict in two styles, and compare; return the last one."""
    for style in itertools.islice(STYLES, 2):
        sr = load(save(network, path, style), value_range=1, **options)
        torch.testing.assert_close(
            sr.model(lr), expected, msg=lambda text, style=style: f"{style}: {text}"
        )
    before = lr.clone()
    leaf = lr.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sr.model(leaf).square().sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert torch.equal(leaf.detach(), before)
    assert not sr.model.training
    assert sr.scale == expected.shape[-1] // lr.shape[-1]
    for twin in (copy.deepcopy(sr.model), pickle.loads(pickle.dumps(sr.model))):
        torch.testing.assert_close(twin(lr), expected)
        twin.load_state_dict(sr.model.state_dict())
    return sr


# Small cousins of the architectures in common use.
SWIN = {
    "img_size": 16,
    "embed_dim": 12,
    "depths": [1],
    "num_heads": [2],
    "window_size": 8,
    "mlp_ratio": 2,
}
LIGHT = {**SWIN, "upsampler": "pixelshuffledirect", "upscale": 2}
SPANDREL = {
    "ESRGAN": {"num_filters": 4, "num_blocks": 2, "scale": 4},
    "SwinIR": LIGHT,
    "Swin2SR": LIGHT,
    "HAT": {
        **SWIN,
        "upsampler": "pixelshuffle",
        "overlap_ratio": 0.5,
        "compress_ratio": 3,
        "squeeze_factor": 3,
        "upscale": 2,
    },
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    "SAFMN": {"dim": 8, "n_blocks": 2, "ffn_scale": 2.0, "upscaling_factor": 2},
    "DITN": {
        "dim": 8,
        "ITL_blocks": 1,
        "SAL_blocks": 1,
        "UFONE_blocks": 1,
        "patch_size": 8,
        "upscale": 2,
    },
    "OmniSR": {"num_feat": 8, "res_num": 1, "block_num": 1, "up_scale": 2, "window_size": 8},
    "PLKSR": {"dim": 8, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 9},
    "MoSR": {"n_block": 2, "dim": 16, "upscale": 2},
    "CRAFT": {
        "embed_dim": 12,
        "depths": [1],
        "num_heads": [2],
        "split_size_0": 4,
        "split_size_1": 8,
        "upscale": 2,
    },
    "SeemoRe": {
        "scale": 2,
        "in_chans": 3,
        "num_experts": 3,
        "num_layers": 2,
        "embedding_dim": 12,
        "recursive": 1,
    },
    "SwiftSRGAN": {"num_channels": 8, "num_blocks": 2, "upscale_factor": 2},
    "NAFNet": {
        "img_channel": 3,
        "width": 8,
        "middle_blk_num": 1,
        "enc_blk_nums": [1, 1],
        "dec_blk_nums": [1, 1],
    },
    "FDAT": {
        "embed_dim": 16,
        "num_groups": 1,
        "depth_per_group": 2,
        "num_heads": 2,
        "scale": 2,
        "mid_dim": 16,
    },
}


@pytest.mark.parametrize("name", SPANDREL)
def test_spandrel(name, tmp_path, lr):
    spandrel = pytest.importorskip("spandrel")
    network = build(f"spandrel.architectures.{name}", name, **SPANDREL[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        descriptor = (
            spandrel.ModelLoader().load_from_state_dict(copy.deepcopy(network.state_dict())).eval()
        )
        # Its own way to run a network: one image, padded, clamped, without gradients.
        model = load(save(network, tmp_path / "net.pth"), value_range=1).model
        for size in (lr, lr[..., :12, :11]):
            expected = torch.cat([descriptor(image.clone()) for image in size.split(1)]).clone()
            torch.testing.assert_close(model(size).clamp(0, 1), expected)
        check(network, tmp_path / "net.pth", lr, model(lr))


RESSELT = {
    # Its default upsampler pins memory, which fails without a GPU.
    "spanplus.arch.SpanPlus": {"blocks": [1], "feature_channels": 8, "upsampler": "ps"},
    "rtmosr.arch.RTMoSR": {"scale": 2, "dim": 16, "n_blocks": 1},
    "eimn.arch.eimn": {"embed_dims": 16, "scale": 3, "num_stages": 2},
}


@pytest.mark.parametrize("name", RESSELT)
def test_resselt(name, tmp_path, lr):
    pytest.importorskip("resselt", reason="needs the package resselt")
    module, _, kind = name.rpartition(".")
    network = build(f"resselt.archs.{module}", kind, **RESSELT[name])
    with torch.no_grad():
        expected = network(lr.clone())
    sr = check(network, tmp_path / "net.pth", lr, expected)
    assert sr.name.lower() == f"resselt {kind}".lower()


def test_odd_shapes_under_resselts_keys(tmp_path):
    pytest.importorskip("resselt", reason="needs the package resselt")
    network = build("resselt.archs.eimn.arch", "eimn", embed_dims=16, scale=2, num_stages=1)
    state = {**network.state_dict(), "norm1.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"resselt knows its keys but can't .*norm1.weight"):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net_g.", "module.model."])
def test_old_esrgan_keys_under_every_prefix(prefix, tmp_path, lr):
    pytest.importorskip("spandrel")
    network = build("spandrel.architectures.ESRGAN", "ESRGAN", num_filters=4, num_blocks=1, scale=1)
    assert all(key.startswith("model.") for key in network.state_dict())
    sr = load(save(network, tmp_path / "net.pth", (None, prefix)), value_range=1)
    torch.testing.assert_close(sr.model(lr), network(lr))
    assert list(sr.model.state_dict()) == list(network.state_dict())


def test_spandrel_real_plksr_is_differentiable(tmp_path, lr):
    pytest.importorskip("spandrel")
    network = build(
        "spandrel.architectures.PLKSR",
        "RealPLKSR",
        dim=8,
        n_blocks=1,
        upscaling_factor=2,
        kernel_size=9,
    )
    with torch.no_grad():
        expected = network(lr.clone())
    assert list(check(network, tmp_path / "net.pth", lr, expected).model.state_dict()) == list(
        network.state_dict()
    )


def test_networks_that_are_no_image_to_image_networks_say_so(tmp_path):
    pytest.importorskip("spandrel")
    network = build(
        "spandrel.architectures.ESRGAN", "ESRGAN", in_nc=4, out_nc=3, num_filters=4, num_blocks=1
    )
    with pytest.raises(CheckpointError, match="ESRGAN from 4 channels to 3"):
        load(save(network, tmp_path / "net.pth"))


def test_odd_shapes_under_spandrels_keys(tmp_path):
    pytest.importorskip("spandrel")
    network = build("spandrel.architectures.SPAN", "SPAN", **SPANDREL["SPAN"])
    state = {**network.state_dict(), "conv_cat.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(
        CheckpointError, match=r"its keys are of SPAN, but it can't be built: .*conv_cat.weight"
    ):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", [EDSR, MSRResNet])
def test_own_networks(kind, scale, tmp_path, lr):
    torch.manual_seed(0)
    network = kind(features=8, blocks=3, scale=scale)
    sr = check(network, tmp_path / "net.pth", lr, network(lr))
    assert type(sr.model) is kind
    assert sr.name == f"{kind.__name__} (8 features, 3 blocks)"
    with pytest.raises(CheckpointError, match=f"blocks\\) x{scale}, not x8"):
        load(tmp_path / "net.pth", scale=8)


def test_the_large_edsr_scales_its_residuals(tmp_path):
    torch.manual_seed(0)
    save(EDSR(256, 1, 2), tmp_path / "net.pth")
    assert load(tmp_path / "net.pth").model.body[0].weight == 0.1


BASICSR = [  # the last column: also found without naming it
    ("EDSR", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 4}, True),
    ("MSRResNet", {"num_feat": 8, "num_block": 2, "upscale": 3}, True),
    ("MSRResNet", {"num_feat": 8, "num_block": 2, "upscale": 4}, True),
    ("SRVGGNetCompact", {"num_feat": 8, "num_conv": 2, "upscale": 3}, True),
    (
        "SRVGGNetCompact",
        {"num_feat": 8, "num_conv": 2, "upscale": 2, "act_type": "leakyrelu"},
        False,
    ),
    (
        "RRDBNet",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 8,
            "num_block": 1,
            "num_grow_ch": 32,
            "scale": 2,
        },
        True,
    ),
    (
        "RCAN",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 16,
            "num_group": 1,
            "num_block": 1,
            "upscale": 2,
        },
        False,
    ),
    (
        "SwinIR",
        {
            "img_size": 16,
            "embed_dim": 12,
            "depths": [1],
            "num_heads": [2],
            "window_size": 4,
            "upscale": 2,
        },
        False,
    ),
]


@pytest.mark.parametrize(("name", "options", "detected"), BASICSR)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of BasicSR's imports
def test_basicsr(name, options, detected, tmp_path, lr):
    registry = basicsr_registry()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = registry.get(f"{name}_basicsr" if name == "SRVGGNetCompact" else name)(
            **options
        ).eval()
    small = lr[
        ..., :16, :16
    ]  # sides that need no padding, so that the bare network can be compared
    expected = network(small)
    sr = check(
        network, tmp_path / "net.pth", small, expected, arch=f"basicsr:{name}{json.dumps(options)}"
    )
    assert sr.model(lr).shape == (2, 3, 21 * sr.scale, 18 * sr.scale)
    if detected:
        if name == "RRDBNet":
            pytest.importorskip("spandrel")
        torch.testing.assert_close(load(tmp_path / "net.pth", value_range=1).model(small), expected)


def basicsr_registry():
    pytest.importorskip("torchvision")
    basicsr_archs.mend_torchvision()
    pytest.importorskip("basicsr.archs")
    return import_module("basicsr.utils.registry").ARCH_REGISTRY


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_basicsr_errors(tmp_path):
    path = save(EDSR(8, 1, 2), tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match="basicsr:EDSR names an architecture without weights; pass a file"
    ):
        load("basicsr:EDSR")
    with pytest.raises(ValueError, match=r"must be as in .* or JSON"):
        load(path, arch="basicsr:EDSR{upscale: 2}")
    basicsr_registry()
    with pytest.raises(ValueError, match=r"no architecture Nothing; it has .*EDSR"):
        load(path, arch="basicsr:Nothing")
    with pytest.raises(ValueError, match=r"can't be built with .*scale 5 is not supported"):
        load(path, arch='basicsr:EDSR{"num_in_ch": 3, "num_out_ch": 3, "upscale": 5}')
    with pytest.raises(ValueError, match="can't be built with"):
        load(path, arch='basicsr:EDSR{"upscael": 2}')
    with pytest.raises(CheckpointError, match=r"it is no basicsr:MSRResNet: .* missing"):
        load(path, arch="basicsr:MSRResNet")
    with pytest.raises(CheckpointError, match="enlarges x2, not x4"):
        load(
            path,
            scale=4,
            arch=(
                'basicsr:EDSR{"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, '
                '"upscale": 2}'
            ),
        )


class Flooring(torch.nn.Module):
    """Quarters the sides and makes eight of each: shorter than promised, without an error, where 4
    doesn't divide them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.avg_pool2d(self.conv(x), 4), scale_factor=8.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_basicsr_finds_out_the_sides_that_a_network_wants(tmp_path, lr, monkeypatch):
    network, narrowing = Flooring(), torch.nn.Conv2d(3, 3, 3)
    monkeypatch.setitem(basicsr_registry()._obj_map, "Flooring", Flooring)
    monkeypatch.setitem(basicsr_registry()._obj_map, "Narrowing", lambda: narrowing)
    sr = load(save(network, tmp_path / "net.pth"), arch="basicsr:Flooring", value_range=1)
    assert (sr.scale, sr.multiple_of) == (2, 4)
    assert sr.model(lr).shape == (2, 3, 42, 36)
    torch.testing.assert_close(
        sr.model(lr[..., :16]), network(F.pad(lr[..., :16], (0, 0, 0, 3), "reflect"))[:, :, :42]
    )
    with pytest.raises(
        CheckpointError,
        match=r"no image of 3 channels to an enlarged one \(it makes \(1, 3, 62, 62\) of",
    ):
        load(save(narrowing, tmp_path / "net.pth"), arch="basicsr:Narrowing")


TORCHSR = [
    ("edsr", "EDSR", {"n_resblocks": 2, "n_feats": 8, "scale": 3, "res_scale": 1.0}),
    ("ninasr", "NinaSR", {"n_resblocks": 2, "n_feats": 8, "scale": 2, "expansion": 1.5}),
    (
        "rcan",
        "RCAN",
        {"n_resgroups": 2, "n_resblocks": 2, "n_feats": 8, "reduction": 4, "scale": 4},
    ),
    ("rdn", "RDN", {"scale": 2, "G0": 8, "D": 2, "C": 3, "G": 4}),
    ("rdn", "RDN", {"scale": 4, "G0": 8, "D": 2, "C": 3, "G": 4}),
    ("vdsr", "VDSR", {"n_resblocks": 4, "n_feats": 8, "scale": 3, "pretrained": False}),
    ("carn", "CARN", {"scale": 3}),
    ("carn", "CARNM", {"scale": 4}),
]


@pytest.mark.parametrize(("module", "kind", "options"), TORCHSR)
def test_torchsr(module, kind, options, tmp_path, lr):
    pytest.importorskip("torchsr")
    network = build(f"torchsr.models.{module}", kind, **options)
    scale = {"scale": options["scale"]} if kind in ("CARN", "CARNM", "VDSR") else {}
    check(network, tmp_path / "net.pth", lr, network(lr), **scale)
    if scale:
        with pytest.raises(CheckpointError, match="pass scale=2, 3 or 4"):
            load(tmp_path / "net.pth")
