"""Base losses by name: their values, their gradients, and one line where a file is missing."""

import pytest
import torch
from torch import nn

from smoothsr import metrics
from smoothsr.training.losses import base_loss


def pair(side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images (2,3,side,side) in [0, 1] that differ by a little."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, side, side, generator=generator)
    return (0.9 * hr + 0.05).requires_grad_(), hr


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("l1", lambda sr, hr: (sr - hr).abs().mean()),
        ("mse", lambda sr, hr: (sr - hr).square().mean()),
        (
            "0.5*l1 + 2e1*mse",
            lambda sr, hr: 0.5 * (sr - hr).abs().mean() + 20 * nn.MSELoss()(sr, hr),
        ),
    ],
)
def test_values(spec, expected):
    sr, hr = pair()
    torch.testing.assert_close(base_loss(spec)(sr, hr), expected(sr, hr))


def test_lpips_is_the_metric_with_a_gradient(data):
    weights = {"lpips": data / "metrics/lpips_alex.pth"}
    sr, hr = pair(64)
    loss = base_loss("l1+0.1*lpips", weights)(sr, hr)
    expected = metrics.lpips(sr, hr, weights=weights["lpips"]).mean()
    torch.testing.assert_close(loss, (sr - hr).abs().mean() + 0.1 * expected)
    perceptual = base_loss("lpips", weights)
    perceptual(sr, hr).backward()
    step = 0.01 * sr.grad / sr.grad.norm()
    with torch.no_grad():
        assert perceptual(sr - step, hr) < perceptual(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(perceptual(sr, hr), expected)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """A file of VGG19's convolutions, of random weights."""
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = models.vgg19(weights=None).features.state_dict()
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({f"features.{key}": value for key, value in features.items()}, path)
    return path


def test_vgg_compares_the_features_before_the_last_activation(vgg):
    from torchvision.models import vgg19

    sr, hr = pair()
    loss = base_loss("vgg", {"vgg": vgg})
    network = vgg19(weights=None)
    network.load_state_dict(torch.load(vgg, weights_only=True), strict=False)
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = []
    for image in (sr, hr):
        x = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
        for layer in network.features[:-2]:  # the last two are the activation and the pooling
            x = layer(x)
        found.append(x)
    value = loss(sr, hr)
    torch.testing.assert_close(value, (found[0] - found[1]).abs().mean())
    assert value > 0
    value.backward()
    assert sr.grad.abs().max() > 0
    assert all(not weight.requires_grad for weight in loss.parameters())


def test_what_is_missing_or_wrong_is_one_line(tmp_path):
    for spec in ("l3", "l1+", "-1*l1", "1-e*l1", "l1*2", ""):
        with pytest.raises(ValueError, match="a loss is l1, mse, lpips, vgg, gan or a sum"):
            base_loss(spec)
    with pytest.raises(ValueError, match="needs the file of torchvision's VGG19: --vgg-weights"):
        base_loss("vgg")
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, other)
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match="holds no weights of torchvision's VGG19"):
        base_loss("vgg", {"vgg": other})
    with pytest.raises(FileNotFoundError):
        base_loss("vgg", {"vgg": tmp_path / "none.pth"})
