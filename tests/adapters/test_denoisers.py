"""Denoisers: files of each family, one interface for all, and what bad files are told."""

import itertools
import pickle
import warnings
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from smoothsr.adapters import CheckpointError, LoadedDenoiser, load, load_denoiser
from smoothsr.adapters.checkpoint import PREFIXES, WRAPPERS
from smoothsr.adapters.denoisers import BUILTIN, Denoiser, as_denoiser
from smoothsr.adapters.dncnn import DnCNN, FDnCNN
from smoothsr.adapters.drunet import DRUNet
from smoothsr.adapters.ffdnet import FFDNet, ResidualFFDNet
from smoothsr.files import images
from smoothsr.metrics import psnr

STYLES = itertools.cycle(itertools.product([None, *WRAPPERS], ["", *PREFIXES]))
SMALL = (8, 12, 16, 20)
NETWORKS = {
    "FFDNet (8 features, 4 convolutions)": lambda channels: FFDNet(channels, 8, 4),
    "ResidualFFDNet (8 features, 3 convolutions)": lambda c: ResidualFFDNet(c, 8, 3),
    "DnCNN (8 features, 5 convolutions)": lambda channels: DnCNN(channels, 8, 5),
    "DnCNN (6 features, 4 convolutions)": lambda channels: DnCNN(channels, 6, 4, batch_norm=True),
    "FDnCNN (8 features, 5 convolutions)": lambda channels: FDnCNN(channels, 8, 5),
    "DRUNet (8 to 20 features, 2 blocks)": lambda channels: DRUNet(channels, SMALL, 2),
}


def uniform(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def network(make, channels=3):
    torch.manual_seed(0)
    return make(channels).eval()


def stored(net, path, wrapper=None, prefix=""):
    state = {prefix + key: value for key, value in net.state_dict().items()}
    torch.save({wrapper: state} if wrapper else state, path)
    return path


@pytest.fixture
def photograph():
    """A crop of the cat (1,3,64,64), and noise of standard deviation 1 for it."""
    cat = images.read("examples/cat_hr.png").pixels[..., 100:164, 80:144]
    return cat, torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "make"), NETWORKS.items(), ids=[*NETWORKS])
def test_files_load_to_the_same_output(tmp_path, name, make, channels):
    net, noisy, sigma = network(make, channels), uniform(2, channels, 9, 14), uniform(2, 1, 9, 14)
    told = not isinstance(net, DnCNN) or isinstance(net, FDnCNN)
    expected = net(noisy, sigma) if told else net(noisy)
    assert expected.shape == noisy.shape
    for wrapper, prefix in itertools.islice(STYLES, 3):
        found = load_denoiser(stored(net, tmp_path / "net.pth", wrapper, prefix))
        assert found.name == name
        torch.testing.assert_close(found.model(noisy, sigma), expected)
    assert found.model.told == told
    assert not found.model.training
    assert not any(weight.requires_grad for weight in found.model.parameters())
    twin = pickle.loads(pickle.dumps(found.model))
    torch.testing.assert_close(twin(noisy, sigma), expected)
    assert found.model.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dncnn_is_the_published_one(tmp_path, batch_norm):
    """Against spandrel's copy of the authors' code, to which the authors' order of layers is
    loaded.
    """
    theirs = pytest.importorskip("spandrel.architectures.DnCNN").DnCNN
    mode = "BR" if batch_norm else "R"
    net = theirs(in_nc=3, out_nc=3, nc=6, nb=9, act_mode=mode, mode="DnCNN").eval()
    noisy = uniform(1, 3, 9, 8)
    found = load_denoiser(stored(net, tmp_path / "net.pth"))
    torch.testing.assert_close(found.model(noisy, torch.tensor(0.1)), net(noisy))


def test_drunet_is_the_published_one(tmp_path):
    """Against spandrel's copy of the authors' code, which takes the strength as a channel."""
    theirs = pytest.importorskip("spandrel.architectures.DRUNet").DRUNet
    net = theirs(in_nc=4, out_nc=3, nc=[*SMALL], nb=4).eval()
    noisy, sigma = uniform(2, 3, 16, 24), uniform(2, 1, 16, 24)
    found = load_denoiser(stored(net, tmp_path / "net.pth"))
    torch.testing.assert_close(
        found.model(noisy, sigma), net(torch.cat([noisy, sigma], dim=1)), rtol=1e-4, atol=1e-5
    )


def test_ffdnet_folds_the_image_and_its_strength():
    """One 1x1 layer that passes on: the order of the folded channels, and the place of the map."""
    net = network(lambda channels: FFDNet(channels, 5, 2), 1)
    with torch.no_grad():
        for layer in (net.model[0], net.model[2]):
            layer.weight.zero_()
            layer.bias.zero_()
            for i in range(min(layer.weight.shape[:2])):
                layer.weight[i, i, 1, 1] = 1
        net.model[2].weight[:, 4, 1, 1] = 1  # each pixel and the strength
    noisy, sigma = uniform(1, 1, 4, 6), uniform(1, 1, 4, 6)
    mean = nn.functional.avg_pool2d(sigma, 2)
    expected = noisy + mean.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(net(noisy, sigma), expected)


def test_the_published_ffdnet_denoises(data, photograph):
    """Told another strength than there is, or in other units, it does worse."""
    clean, noise = photograph
    model = load_denoiser(data / "denoisers/ffdnet_color.pth").model
    found = {
        told: psnr(model(clean + 0.05 * noise, torch.tensor(told)), clean).item()
        for told in (0.005, 0.02, 0.05, 0.15)
    }
    assert max(found, key=found.__getitem__) == 0.05
    assert found[0.05] > psnr(clean + 0.05 * noise, clean) + 4


def cut(image, side):
    """All tiles (n,3,side,side) of an image."""
    columns = nn.functional.unfold(image, side, stride=side)
    return columns.transpose(1, 2).reshape(-1, 3, side, side)


def mean_psnr(output, clean):
    return psnr(output, clean).mean().item()


@pytest.mark.parametrize("side", [64, 6])
@pytest.mark.parametrize("sigma", [0.03, 0.05, 0.1])
def test_builtin_denoises(photograph, sigma, side):
    """On a whole crop, and on tiles as certificates cut them."""
    clean, noise = (cut(each, side) for each in photograph)
    model, noisy = load_denoiser("builtin").model, clean + sigma * noise
    found = {
        told: mean_psnr(model(noisy, torch.tensor(told)), clean)
        for told in (sigma / 3, sigma, 3 * sigma)
    }
    assert max(found, key=found.__getitem__) == sigma
    assert found[sigma] > mean_psnr(noisy, clean) + (1 if side == 6 else 2)


def test_builtin_believes_each_pixel_of_its_map(photograph):
    """Told that the noise is larger in the halo, it does better than told either for all pixels."""
    clean, noise = (cut(each, 6) for each in photograph)
    sigma = torch.full((len(clean), 1, 6, 6), 0.1)
    sigma[..., 1:5, 1:5] = 0.03
    model, noisy = load_denoiser("builtin").model, clean + sigma * noise
    maps = {"true": sigma, "inner": torch.tensor(0.03), "outer": torch.tensor(0.1)}
    found = {name: mean_psnr(model(noisy, each), clean) for name, each in maps.items()}
    assert found["true"] > max(found["inner"], found["outer"]) + 0.2


def test_builtin_is_small():
    assert BUILTIN.stat().st_size <= 2**20
    found = load_denoiser("builtin")
    assert (found.source, found.model.channels) == ("builtin", 3)
    folded = sum(
        layer.weight[0, :, 0, 0].numel() * layer.weight[:, 0].numel() / 4
        for layer in found.model.modules()
        if isinstance(layer, nn.Conv2d)
    )
    upscaler = sum(p.numel() for p in load("builtin").model.parameters())
    assert folded < upscaler / 2  # products for each pixel


def test_gray_goes_through_colour_and_colour_through_gray():
    net = network(NETWORKS["FDnCNN (8 features, 5 convolutions)"])
    gray, sigma = uniform(2, 1, 5, 6), uniform(2, 1, 5, 6)
    expected = net(gray.repeat(1, 3, 1, 1), sigma).mean(1, keepdim=True)
    torch.testing.assert_close(Denoiser(net, 3)(gray, sigma), expected)
    net = network(NETWORKS["FDnCNN (8 features, 5 convolutions)"], 1)
    colour = uniform(2, 3, 5, 6)
    expected = torch.cat([net(channel, sigma) for channel in colour.split(1, dim=1)], dim=1)
    torch.testing.assert_close(Denoiser(net, 1)(colour, sigma), expected)


class One(nn.Module):
    def forward(self, x):
        return x + 1


class Optional(nn.Module):
    def forward(self, x, scale=2, *rest, **options):
        return x * scale


class Two(nn.Module):
    def forward(self, x, sigma):
        return x * sigma


@pytest.mark.parametrize(("net", "value"), [(One(), 2.0), (Optional(), 2.0), (Two(), 0.25)])
def test_a_network_that_wants_the_strength_gets_it(net, value):
    found = as_denoiser(net)(torch.ones(2, 3, 4, 5), torch.tensor(0.25))
    assert torch.equal(found, torch.full((2, 3, 4, 5), value))


def test_networks_keep_their_mode_and_what_is_none_stays_none():
    assert as_denoiser(None) is None
    assert as_denoiser(One().train()).training
    assert not as_denoiser(One().eval()).training
    made = as_denoiser(One())
    assert as_denoiser(made) is made
    for wrong, hint in ((load_denoiser("builtin"), r"pass its \.model"), (3, "got int")):
        with pytest.raises(TypeError, match=hint):
            as_denoiser(wrong)
    assert isinstance(load_denoiser("builtin"), LoadedDenoiser)


def test_a_denoiser_must_keep_the_shape():
    with pytest.raises(ValueError, match="must keep the shape"):
        Denoiser(nn.Conv2d(3, 3, 3))(torch.ones(1, 3, 5, 5), torch.tensor(0.1))


@pytest.mark.parametrize(("name", "options"), [("NAFNet", {"img_channel": 3, "width": 8})])
def test_restoration_networks_of_spandrel_are_taken(tmp_path, name, options):
    pytest.importorskip("spandrel")
    module = import_module(f"spandrel.architectures.{name}")
    options |= {"middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = network(lambda _: getattr(module, name)(**options))
    found = load_denoiser(stored(net, tmp_path / "net.pth"))
    assert found.name.startswith(name)
    assert not found.model.told
    noisy = uniform(1, 3, 16, 24)
    torch.testing.assert_close(found.model(noisy, torch.tensor(0.1)), net(noisy))


def nan_weights(path):
    net = network(NETWORKS["FFDNet (8 features, 4 convolutions)"])
    net.model[0].bias.data[0] = torch.nan
    return stored(net, path)


def of_odd_shapes(path):
    state = network(NETWORKS["FFDNet (8 features, 4 convolutions)"]).state_dict()
    return torch.save({**state, "model.2.weight": state["model.2.weight"][:, :3]}, path)


def halved_by_means(path):
    state = network(NETWORKS["DRUNet (8 to 20 features, 2 blocks)"]).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("m_down1.2")}
    return torch.save(state, path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: stored(load("builtin").model, path), "which enlarges x4"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "truncated or damaged"),
        (lambda path: torch.save({"a.weight": torch.zeros(2)}, path), "or give the network to"),
        (nan_weights, "weights are damaged"),
        (of_odd_shapes, r"it is no FFDNet \(8 features, 4 convolutions\): model.2.weight is"),
        (halved_by_means, "it is no DRUNet"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, make, told):
    path = tmp_path / "bad.pth"
    make(path)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_denoiser(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no file .*gone\.pth; pass one, or "builtin"'):
        load_denoiser(tmp_path / "gone.pth")


def test_safetensors_and_device(tmp_path):
    net = network(NETWORKS["FFDNet (8 features, 4 convolutions)"]).half()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = load_denoiser(tmp_path / "net.safetensors", device="cpu")
    assert {weight.dtype for weight in found.model.parameters()} == {torch.float32}
    double = as_denoiser(str(tmp_path / "net.safetensors"), torch.zeros((), dtype=torch.float64))
    assert {weight.dtype for weight in double.parameters()} == {torch.float64}
