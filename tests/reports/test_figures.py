"""Pictures and maps in figures: no more pixels than are seen, and none of the worst is lost."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from smoothsr.reports import figures


@pytest.fixture
def axis():
    return Figure().subplots()


def shown(axis) -> np.ndarray:
    [image] = axis.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def test_a_small_picture_is_shown_as_it_is(axis):
    image = torch.rand(1, 3, 50, 640, generator=torch.Generator().manual_seed(0))
    figures.show_picture(axis, image)
    expected = (image[0].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(shown(axis), expected)
    assert axis.get_frame_on()


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_large_picture_means_are_shown_in_its_own_coordinates(axis, channels):
    image = torch.zeros(1, channels, 640, 1280)
    image[..., ::2] = 0.8
    figures.show_picture(axis, image)
    sides = (320, 640) if channels == 1 else (320, 640, 3)
    np.testing.assert_array_equal(shown(axis), np.full(sides, 0.4 * 255))
    assert axis.images[0].get_extent() == [-0.5, 1279.5, 639.5, -0.5]


def test_a_change_of_single_pixels_does_not_fade(axis):
    image = torch.zeros(1, 1, 1280, 1280)
    image[..., 1::4] = 1.0
    figures.show_picture(axis, image, means=False)
    assert {*np.unique(shown(axis))} == {0.0, 255.0}
    assert figures.is_reduced((1280, 3))
    assert not figures.is_reduced((640, 3))


@pytest.mark.parametrize("kind", [np.uint8, bool, np.float64])
def test_maps_of_any_kind_and_order_are_shown(axis, kind):
    values = np.arange(6).reshape(2, 3).astype(kind)[::-1]
    figures.show_map(axis, values, "viridis", 9.0, largest=True)
    np.testing.assert_array_equal(shown(axis), values.astype(float))


@pytest.mark.parametrize(("largest", "worst"), [(True, 7.0), (False, 0.5)])
def test_of_a_large_map_the_worst_is_shown(axis, largest, worst):
    values = np.full((1300, 40), 2.0)
    values[700, 11] = worst
    values[0, 0] = np.nan
    figures.show_map(axis, values, "viridis", 9.0, largest)
    found = shown(axis)
    assert found.shape == (640, 20)
    assert set(found[344:346, 5]) == {worst}  # its place is of two rows
    assert np.isnan(found[0, 0])
    assert axis.images[0].get_clim() == (0, 9.0)


def test_a_picture_far_from_square_keeps_a_row(axis):
    figures.show_picture(axis, torch.ones(1, 1, 1, 5000))
    assert shown(axis).shape == (1, 640)
