"""The metrics against scikit-image, the lpips package, and values worked out by hand."""

import builtins
import math
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from smoothsr import metrics
from smoothsr.adapters.basicsr_archs import mend_torchvision
from smoothsr.metrics import lpips, luma, mse, psnr, ssim

SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def pair(channels=3, batch=2, height=40, width=52):
    """Return smooth images and noisy ones, which leave [0, 1] here and there."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, height // 4, width // 4, generator=generator)
    reference = torch.nn.functional.interpolate(
        coarse, scale_factor=4.0, mode="bicubic", align_corners=False
    )
    noise = torch.randn(reference.shape, generator=generator) * torch.linspace(
        0.02, 0.2, batch
    ).view(-1, 1, 1, 1)
    return reference + noise, reference.clamp(0, 1)


def as_numpy(image, border, y):
    """Return one (C,H,W) as an array (H,W,C) on the 0..255 scale, by the textbook: clamp, round,
    crop, and then luma.
    """
    image = np.round(np.clip(image.numpy().astype(np.float64), 0, 1) * 255).transpose(1, 2, 0)
    image = image[border : image.shape[0] - border, border : image.shape[1] - border]
    return (image @ [65.481, 128.553, 24.966])[..., None] / 255 + 16 if y else image


@pytest.mark.parametrize(
    ("border", "y", "channels"),
    [(0, False, 3), (4, False, 3), (4, True, 3), (3, False, 1), (2, False, 4)],
)
def test_psnr_mse_and_ssim_equal_scikit_image(border, y, channels):
    output, reference = pair(channels)
    results = [metric(output, reference, border=border, y=y) for metric in (psnr, mse, ssim)]
    assert all(result.shape == (2,) and result.dtype == torch.float64 for result in results)
    for i in range(2):
        first, second = (as_numpy(images[i], border, y) for images in (output, reference))
        assert results[0][i].item() == pytest.approx(
            peak_signal_noise_ratio(second, first, data_range=255), abs=1e-4
        )
        assert results[1][i].item() == pytest.approx(
            np.mean((first - second) ** 2) / 255**2, rel=1e-9
        )
        # scikit-image leaves out the border that its window doesn't fit into, which is the valid
        # region
        assert results[2][i].item() == pytest.approx(
            structural_similarity(first, second, channel_axis=2, **SSIM), abs=1e-4
        )


@pytest.mark.parametrize(("border", "y"), [(0, False), (4, False), (4, True)])
def test_psnr_and_ssim_equal_basicsr(border, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about BasicSR's own code
        mend_torchvision()
        theirs = pytest.importorskip("basicsr.metrics", reason="needs the package basicsr")
    output, reference = pair()
    for i in range(2):
        arrays = [as_numpy(images[i], 0, y=False) for images in (output, reference)]
        options = {"crop_border": border, "test_y_channel": y}
        assert psnr(output, reference, border=border, y=y)[i].item() == pytest.approx(
            theirs.calculate_psnr(*(array[..., ::-1] for array in arrays), **options),
            abs=1e-4,  # its channels are B, G, R
        )
        assert ssim(output, reference, border=border, y=y)[i].item() == pytest.approx(
            theirs.calculate_ssim(*(array[..., ::-1] for array in arrays), **options), abs=1e-4
        )


def test_ssim_is_the_mean_over_the_valid_region_of_scikit_images_map():
    output, reference = pair(channels=1, batch=1)
    first, second = (as_numpy(images[0], 0, y=False)[..., 0] for images in (output, reference))
    _, similarity = structural_similarity(first, second, full=True, **SSIM)
    assert ssim(output, reference).item() == pytest.approx(similarity[5:-5, 5:-5].mean(), abs=1e-9)


def test_equal_images():
    _, image = pair()
    assert psnr(image, image).tolist() == [math.inf] * 2
    assert mse(image, image).tolist() == [0] * 2
    assert ssim(image, image).tolist() == pytest.approx([1] * 2, abs=1e-12)


def test_known_values():
    grey = torch.full((1, 3, 12, 12), 100 / 255)
    assert psnr(grey, grey + 10 / 255).item() == pytest.approx(20 * math.log10(25.5))
    a, b, c = 100, 150, (0.01 * 255) ** 2
    assert ssim(grey, grey + 50 / 255).item() == pytest.approx(
        (2 * a * b + c) / (a * a + b * b + c)
    )
    assert psnr(grey, grey + 0.4 / 255).item() == math.inf  # the same 8-bit image
    assert psnr(grey - 2, grey + 2).item() == 0  # clamped to black and white
    assert (luma(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)) * 255).item() == pytest.approx(
        16 + 65.481
    )


@pytest.mark.parametrize("metric", [psnr, mse, ssim])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_input_dtype_changes_its_own_rounding_only(metric, dtype):
    output, reference = (images.to(dtype) for images in pair())
    result = metric(output, reference)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, metric(output.double(), reference.double()))


@pytest.mark.parametrize("metric", [psnr, mse, ssim])
def test_wrong_shapes_are_named(metric):
    image = torch.zeros(1, 3, 20, 20)
    with pytest.raises(ValueError, match=re.escape("got (1, 3, 20, 20) and (1, 3, 20, 24)")):
        metric(image, torch.zeros(1, 3, 20, 24))
    with pytest.raises(ValueError, match=re.escape("must both be (B,C,H,W)")):
        metric(image[0], image[0])
    with pytest.raises(ValueError, match="leave some of 20x20 pixels, got 10"):
        metric(image, image, border=10)
    with pytest.raises(ValueError, match="border must be at least 0"):
        metric(image, image, border=-1)
    with pytest.raises(ValueError, match="y=True needs three channels, got 1"):
        metric(image[:, :1], image[:, :1], y=True)


def test_ssim_needs_its_window():
    image = torch.zeros(1, 3, 18, 30)
    assert ssim(image, image, border=3).shape == (1,)
    with pytest.raises(ValueError, match="at least 11x11 pixels within the border, got 10x22"):
        ssim(image, image, border=4)


@pytest.fixture
def weights(data):
    pytest.importorskip("lpips", reason="the lpips package is not installed")
    return data / "metrics" / "lpips_alex.pth"


def by_hand(state, first, second):
    """Return LPIPS written out: AlexNet's five layers, unit-length features, weighted squared
    differences, spatial means.
    """
    distance = 0.0
    shift, scale = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    pair = [(2 * image - 1 - shift) / scale for image in (first, second)]
    layers = {
        "slice1.0": (4, 2),
        "slice2.3": (1, 2),
        "slice3.6": (1, 1),
        "slice4.8": (1, 1),
        "slice5.10": (1, 1),
    }
    for i, (name, (stride, padding)) in enumerate(layers.items()):
        if i in (1, 2):
            pair = [torch.nn.functional.max_pool2d(features, 3, 2) for features in pair]
        weight, bias = state[f"net.{name}.weight"], state[f"net.{name}.bias"]
        pair = [
            torch.nn.functional.conv2d(features, weight, bias, stride, padding).relu()
            for features in pair
        ]
        one, two = (features / (features.norm(dim=1, keepdim=True) + 1e-10) for features in pair)
        distance = distance + ((one - two) ** 2 * state[f"lin{i}.model.1.weight"]).sum(1).mean(
            dim=(1, 2)
        )
    return distance


def test_lpips_is_what_the_paper_says(weights):
    output, reference = pair(height=64, width=48)
    result = lpips(output, reference, weights=weights)
    state = torch.load(weights, weights_only=True)
    assert result.shape == (2,)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result, by_hand(state, output.clamp(0, 1), reference), rtol=1e-4, atol=1e-6
    )
    assert result[1] > result[0] > 0.001
    assert lpips(reference, reference, weights=weights).tolist() == [0, 0]


def test_lpips_of_gray_half_and_double_images(weights):
    output, reference = (images[:, :1] for images in pair(height=32, width=32))
    gray = lpips(output, reference, weights=weights)
    torch.testing.assert_close(
        gray, lpips(output.expand(-1, 3, -1, -1), reference.expand(-1, 3, -1, -1), weights=weights)
    )
    torch.testing.assert_close(gray, lpips(output.double(), reference.double(), weights=weights))
    torch.testing.assert_close(
        gray, lpips(output.half(), reference.half(), weights=weights), rtol=0.01, atol=1e-4
    )


def test_lpips_on_the_examples_of_its_own_package(weights):
    # github.com/richzhang/PerceptualSimilarity, imgs/: neither the wheel nor the source archive of
    # the package holds them.
    folder = weights.parent / "lpips_examples"
    if not folder.exists():
        pytest.skip(
            "needs ex_ref.png, ex_p0.png and ex_p1.png of the lpips repository in "
            f"{folder.name}/ beside the weights"
        )
    from PIL import Image

    reference, *outputs = (
        torch.from_numpy(np.array(Image.open(folder / f"ex_{name}.png").convert("RGB"))).permute(
            2, 0, 1
        )[None]
        / 255
        for name in ("ref", "p0", "p1")
    )
    distances = [lpips(output, reference, weights=weights).item() for output in outputs]
    assert distances == pytest.approx([0.7219, 0.1376], abs=1e-4)


def test_lpips_can_be_attacked_and_leaves_nothing_behind(weights, capfd):
    metrics._perceptual_network.cache_clear()
    output, reference = pair(batch=1, height=32, width=32)
    output.requires_grad_()
    state = torch.random.get_rng_state()
    with torch.inference_mode():  # what is cached here must serve the gradient below
        lpips(reference, reference, weights=weights)
    (gradient,) = torch.autograd.grad(lpips(output, reference, weights=weights).sum(), output)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "".join(capfd.readouterr()) == ""
    inside = (output > 0.001) & (output < 0.999)
    direction = gradient.sign() * inside
    with torch.no_grad():
        ends = [
            lpips(output + step * direction, reference, weights=weights).item()
            for step in (1e-3, -1e-3)
        ]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(
        (gradient * direction).sum().item(), rel=0.05
    )
    network = metrics._perceptual_network(str(weights), output.device)
    assert network is metrics._perceptual_network(str(weights), output.device)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_lpips_names_what_is_wrong(weights, tmp_path):
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        lpips(image, image, weights=tmp_path / "nowhere.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "hello.pth").write_text("hello")  # which pickle takes for something
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("page.pth", "hello.pth", "other.pth", "list.pth", "empty.pth"):
        with pytest.raises(ValueError, match=rf"{name} holds no complete state dict"):
            lpips(image, image, weights=tmp_path / name)
    for shape in ((1, 4, 32, 32), (1, 3, 31, 40), (3, 32, 32)):
        with pytest.raises(ValueError, match=re.escape(f"of at least 32x32 pixels, got {shape}")):
            lpips(torch.zeros(shape), torch.zeros(shape), weights=weights)


def test_lpips_without_weights_or_network_says_so(weights, monkeypatch, capfd):
    def refused(*args, **kwargs):
        print("Downloading", file=sys.stderr)
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)
    metrics._perceptual_network.cache_clear()
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(
        OSError,
        match=r"could not download AlexNet \(no route to host\): pass a file of LPIPS weights",
    ):
        lpips(image, image)
    assert "".join(capfd.readouterr()) == ""


def test_lpips_without_its_package_names_the_extra(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: missing(name) if name == "lpips" else real(name, *rest),
    )
    metrics._perceptual_network.cache_clear()
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ImportError, match=re.escape("pip install lpips torchvision")):
        lpips(image, image)


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_one_rounding_for_every_precision_and_layout():
    middle = ((torch.arange(255) + 0.5).double() / 255).float()
    assert torch.equal(metrics.to_8bit(middle), metrics.to_8bit(middle.double()))
    assert torch.equal(metrics.to_8bit(middle), (middle * 255).round())
    assert metrics.to_8bit(torch.tensor([0.5, torch.nan, -3, 7])).nan_to_num(99).tolist() == [
        128,
        99,
        0,
        255,
    ]
    steps = torch.arange(256)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(metrics.to_8bit(steps.to(dtype) / 255), steps.float())
    other = middle.clone()
    metrics.to_8bit(other)
    assert torch.equal(other, middle)  # not in place
