"""Degradations against Pillow, dense matrices and the statistics of noise."""

import random
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from smoothsr.engine import noise as serving
from smoothsr.evaluation.degradations import blur, jpeg, noise, resize

ALL = [(noise, 0.1), (jpeg, 40), (blur, 1.3), (resize, 0.5), (resize, 1.6)]
IDS = [f"{function.__name__}:{strength:g}" for function, strength in ALL]


def photo(batch=2, channels=3, height=20, width=33, dtype=torch.float32) -> torch.Tensor:
    """Smooth shapes with black, white and all between."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    phase = torch.arange(batch * channels).view(batch, channels, 1, 1)
    return (
        (0.5 + 0.7 * torch.sin(2 * x + phase) * torch.cos(3 * y + 2 * phase)).clamp(0, 1).to(dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("function", "strength"), ALL, ids=IDS)
def test_shape_dtype_and_range_stay_and_the_input_is_left_alone(function, strength, dtype):
    image = photo(dtype=dtype)
    before = image.clone()
    result = function(image, strength)
    assert (result.shape, result.dtype, result.device) == (image.shape, dtype, image.device)
    assert ((result >= 0) & (result <= 1)).all()
    assert torch.equal(image, before)
    assert torch.equal(result, function(image, strength))  # each repeats
    exact = function(before.double(), strength)
    torch.testing.assert_close(
        result.double(),
        exact,
        rtol=0,
        atol=0.05 if function is jpeg else 4 * torch.finfo(dtype).eps + 1e-7,
    )
    assert (exact - before).abs().max() > 0.02  # and each does something


@pytest.mark.parametrize(("function", "strength"), ALL[1:], ids=IDS[1:])
def test_images_and_channels_of_a_batch_are_treated_alone(function, strength):
    image = photo(batch=3)
    together = function(image, strength)
    for i in range(3):
        torch.testing.assert_close(function(image[i : i + 1], strength), together[i : i + 1])
        if function is not jpeg:
            torch.testing.assert_close(
                function(image[:, i : i + 1], strength), together[:, i : i + 1]
            )


@pytest.mark.cuda
@pytest.mark.parametrize(("function", "strength"), ALL, ids=IDS)
def test_every_device_gives_the_same(function, strength):
    image = photo().cuda()
    result = function(image, strength)
    assert result.device == image.device
    torch.testing.assert_close(result.cpu(), function(photo(), strength), rtol=0, atol=1e-5)


def added(seed, sigma=0.05, shape=(1, 3, 60, 50), dtype=torch.float32) -> np.ndarray:
    grey = torch.full(shape, 0.5, dtype=dtype)
    return (noise(grey, sigma, seed) - grey).double().numpy() / sigma


def test_noise_is_normal_and_independent_of_position():
    values = added(3)[0].reshape(3 * 60, 50)
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    for axis in (
        0,
        1,
    ):  # sums of independent terms have the sum of their variances; 6 standard errors
        sums = values.sum(axis) / np.sqrt(values.shape[axis])
        assert abs(sums.var() - 1) < 6 * np.sqrt(2 / len(sums))


def test_noise_is_cut_to_the_range():
    black = noise(torch.zeros(1, 1, 200, 200), 0.1)
    assert black.min() == 0
    assert black.mean().item() == pytest.approx(
        0.1 / np.sqrt(2 * np.pi), rel=0.03
    )  # of half a normal distribution


def test_a_seed_fixes_the_noise_and_every_seed_has_its_own():
    found = [added(seed).tobytes() for seed in (0, 1, -1, 2**32, 2**32 + 1, 2**62, -(2**62))]
    assert len({*found}) == len(found)
    assert added(2**62).tobytes() == found[5]
    assert added(1, sigma=0.01) == pytest.approx(added(1, sigma=0.05), abs=2e-5)
    assert added(1, dtype=torch.float64) == pytest.approx(added(1), abs=2e-5)


def test_an_image_has_the_same_noise_alone_and_first_in_a_batch_but_the_second_another():
    batch = added(5, shape=(2, 3, 10, 10))
    assert np.array_equal(batch[:1], added(5, shape=(1, 3, 10, 10)))
    assert abs(np.corrcoef(batch[0].ravel(), batch[1].ravel())[0, 1]) < 0.25


@pytest.mark.parametrize("seed", [0, 5, -5, 2**40])
def test_noise_is_not_that_of_a_smoother_with_the_same_seed(seed):
    draws = (
        serving.source(seed, torch.device("cpu"), torch.float32)(0, range(5), (3, 60, 50))
        .flatten(1)
        .numpy()
    )
    assert np.abs(np.corrcoef(added(seed).ravel(), draws)[0, 1:]).max() < 0.05


def test_global_random_states_are_neither_read_nor_changed():
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = states()
    first = added(0)
    assert states() == before
    torch.manual_seed(1)
    assert np.array_equal(first, added(0))


@pytest.mark.parametrize("quality", [1, 37, 95, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels, quality):
    image = photo(channels=channels)
    result = jpeg(image, quality)
    for one, other in zip(image, result, strict=True):
        samples = np.rint(one.permute(1, 2, 0).numpy() * 255).astype(np.uint8).squeeze()
        stream = BytesIO()
        Image.fromarray(samples).save(stream, format="jpeg", quality=quality, subsampling="4:2:0")
        decoded = np.asarray(Image.open(BytesIO(stream.getvalue()))).reshape(
            *samples.shape[:2], channels
        )
        assert np.array_equal(np.rint(other.permute(1, 2, 0).numpy() * 255), decoded)
        assert other.numpy() * 255 == pytest.approx(np.rint(other.numpy() * 255), abs=1e-4)


def gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    """Row i holds the weights of output i: a Gaussian cut at 4 sigma; what lies beyond the border
    counts for the border.
    """
    reach = int(4 * sigma + 0.5)
    matrix = np.zeros((size, size))
    for i in range(size):
        for offset in range(-reach, reach + 1):
            matrix[i, min(max(i + offset, 0), size - 1)] += np.exp(-0.5 * (offset / sigma) ** 2)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.7, 12.0])
def test_blur_is_a_dense_convolution(sigma):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        image = photo(dtype=dtype)
        dense = gaussian_matrix(20, sigma) @ image.double().numpy() @ gaussian_matrix(33, sigma).T
        assert blur(image, sigma).numpy() == pytest.approx(dense, abs=tolerance)


def test_a_blurred_dot_has_unit_mass_and_the_width_asked_for():
    dot = torch.zeros(1, 2, 61, 61, dtype=torch.float64)
    dot[0, 0, 30, 30] = 1
    spread = blur(dot, 2.5).numpy()
    places = np.arange(61) - 30
    assert spread[0, 0].sum() == pytest.approx(1, abs=1e-12)
    for axis in (0, 1):
        assert (spread[0, 0].sum(axis) * places**2).sum() == pytest.approx(2.5**2, rel=0.01)
    assert not spread[0, 1].any()


@pytest.mark.parametrize("factor", [0.26, 0.5, 0.75, 1.0, 1.9])
def test_resize_is_that_of_pillow(factor):
    image = photo()
    result = resize(image, factor)
    for one, other in zip(image.flatten(0, 1).numpy(), result.flatten(0, 1).numpy(), strict=True):
        small = Image.fromarray(one).resize(
            (round(33 * factor), round(20 * factor)), Image.Resampling.BICUBIC
        )
        expected = np.asarray(small.resize((33, 20), Image.Resampling.BICUBIC)).clip(0, 1)
        assert other == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("factor", [0.2, 1 / 3, 0.5, 1.7])
def test_resize_keeps_a_constant(factor):
    flat = torch.full((1, 3, 17, 23), 0.3)
    torch.testing.assert_close(resize(flat, factor), flat, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.2, 1 / 3, 0.5])
def test_resize_removes_the_finest_stripes_and_keeps_broad_ones(factor):
    fine = torch.arange(60).remainder(2).float().expand(1, 1, 60, 60)
    for stripes in (fine, fine.mT):
        assert (
            resize(stripes, factor)[..., 6:-6, 6:-6] - 0.5
        ).abs().max() < 0.05  # without antialiasing 1/3 would keep them
    broad = (0.5 + 0.4 * torch.cos(torch.arange(60) * 2 * torch.pi / 60)).expand(1, 1, 60, 60)
    assert (resize(broad, factor) - broad)[..., 6:-6, 6:-6].abs().max() < 0.03


BAD = [
    (noise, 0, "the noise must be greater than 0 and at most 1"),
    (noise, -0.1, "got -0.1"),
    (noise, 25, "got 25: write 25/255, not 25"),
    (noise, float("nan"), "the noise must be"),
    (jpeg, 0, "the JPEG quality must be an integer from 1 to 100, got 0"),
    (jpeg, 101, "got 101"),
    (jpeg, 50.5, "got 50.5"),
    (jpeg, float("nan"), "JPEG quality"),
    (blur, 0, "the blur must be greater than 0 pixels"),
    (blur, float("inf"), "finite"),
    (resize, 0, "the factor of resizing must be greater than 0"),
    (resize, float("nan"), "factor"),
    (resize, float("inf"), "finite"),
    (resize, 0.01, "resizing 33x20 pixels by 0.01 leaves none"),
]


@pytest.mark.parametrize(("function", "strength", "message"), BAD)
def test_mistakes_are_named(function, strength, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        function(photo(), strength)
    assert "\n" not in str(caught.value)


def test_jpeg_of_two_channels_is_refused():
    with pytest.raises(ValueError, match="JPEG holds 1 or 3 channels, got 2"):
        jpeg(photo(channels=2), 50)
