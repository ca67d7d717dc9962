"""How far a network sees: exactly for stacks of convolutions, and networks that see everything."""

import pytest
import torch
from torch import Tensor, nn

from smoothsr.adapters import load
from smoothsr.engine.receptive_field import MOST, STEP, find_reach

GRAY = torch.zeros(1, 1, 1, 1)


def box(radius: int) -> nn.Module:
    """Every output is the mean of the pixels within the radius."""
    return nn.AvgPool2d(2 * radius + 1, 1, padding=radius)


@pytest.mark.parametrize("radius", [1, 3, 4, 5, 9, 16, 31, 32])
def test_the_reach_of_a_filter_is_its_radius(radius):
    found = find_reach(box(radius), GRAY)
    assert found.finite
    assert found.halo == -(-radius // STEP) * STEP


def test_a_filter_wider_than_every_halo_is_told():
    found = find_reach(box(40), GRAY)
    assert not found.finite
    assert found.halo == MOST


def whole_image(patches: Tensor) -> Tensor:
    return (patches - patches.mean((2, 3), keepdim=True) + 0.5).clamp(0, 1)


def squeeze(patches: Tensor) -> Tensor:
    """As in channel attention: a mean over the image scales every channel."""
    return patches * torch.sigmoid(4 * patches.mean((2, 3), keepdim=True))


def windows(patches: Tensor) -> Tensor:
    """Every value is the mean of its window of 8 pixels, counted from the upper left corner."""
    padded = nn.functional.pad(patches, (0, -patches.shape[3] % 8, 0, -patches.shape[2] % 8))
    means = nn.functional.avg_pool2d(padded, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return means[..., : patches.shape[2], : patches.shape[3]]


@pytest.mark.parametrize("network", [whole_image, squeeze, windows, nn.InstanceNorm2d(1)])
def test_statistics_of_the_image_and_windows_have_no_reach(network):
    assert not find_reach(network, GRAY).finite


def test_precision_channels_and_scale_are_those_of_the_network():
    seen = []

    def enlarge(patches: Tensor) -> Tensor:
        seen.append((patches.shape[1], patches.dtype))
        return box(2)(patches).repeat_interleave(3, 2).repeat_interleave(3, 3)

    assert find_reach(enlarge, torch.zeros(1, 4, 1, 1, dtype=torch.float64)).halo == 4
    assert {*seen} == {(4, torch.float64)}


def test_the_built_in_network_sees_less_far_than_its_layers_add_up_to():
    network = load("builtin").model
    found = find_reach(lambda patches: network(patches).clamp(0, 1), torch.zeros(1, 3, 1, 1))
    assert found.finite
    assert found.halo <= 17  # as many convolutions
