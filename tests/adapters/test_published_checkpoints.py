"""The six published checkpoints under SmoothedSR: whole, in tiles, and with gradients.

What a tile shows depends on where its patch ends: outputs agree with those of the whole image where
the limits of patch and image are both out of the network's reach. A tile has other noise than the
whole image, so agreement is tested with noise that a float32 sum drops.
"""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smoothsr import SmoothedSR
from smoothsr.adapters import load
from smoothsr.files import images

# How many LR pixels an output sees on each side: one for a 3x3 convolution at the input's
# resolution, a half at twice that.
REACH = {"realesr-animevideov3.pth": 18, "spanx4_ch48.pth": 21, "carn_m.pth": 21}

# Those that see further than these halos, by windows of 8 and dilated convolutions (DITN), or 350
# convolutions (RRDBNet): the side of the image, halos, which share of the mean difference before it
# each may leave, and how much the last may leave.
FAR = [
    ("DITN_Real_x4.pth", 64, (0, 8, 16), 0.5, 5e-4),
    ("DITN_Real_GAN_x4.pth", 64, (0, 8, 16), 0.5, 6e-3),
    pytest.param("RealESRGAN_x4plus.pth", 48, (0, 4, 12), 0.8, 1e-2, marks=pytest.mark.slow),
]

FILES = [
    *REACH,
    "DITN_Real_x4.pth",
    "DITN_Real_GAN_x4.pth",
    pytest.param("RealESRGAN_x4plus.pth", marks=pytest.mark.slow),
]


def network(data: Path, file: str) -> nn.Module:
    if file != "realesr-animevideov3.pth":
        pytest.importorskip("torchsr" if file == "carn_m.pth" else "spandrel")
    return load(data / "checkpoints" / file, scale=4).model.requires_grad_(False)


def crop(data: Path, side: int) -> Tensor:
    return images.read(data / "images/Set5_LRx4/butterflyx4.png").pixels[..., :side, :side].clone()


def inside(sr: Tensor, margin: int) -> Tensor:
    """All but the outputs within `margin` LR pixels of the image's limits."""
    return sr[..., 4 * margin : -4 * margin, 4 * margin : -4 * margin]


def quiet(model: nn.Module, lr: Tensor, tile: int | None = None, halo: int = 0) -> Tensor:
    return SmoothedSR(model, sigma=1e-12, n=1, tile=tile, halo=halo, batch_size=1)(lr)


def differences(model: nn.Module, lr: Tensor, halos: tuple[int, ...], margin: int) -> list[Tensor]:
    """How far two by two tiles are from the whole image, for each halo, out of reach of the image's
    limits.
    """
    whole = quiet(model, lr)
    assert torch.equal(whole, model(lr).clamp(0, 1))
    return [
        inside(quiet(model, lr, lr.shape[-1] // 2, halo) - whole, margin).abs() for halo in halos
    ]


@pytest.mark.parametrize(("file", "reach"), REACH.items())
def test_tiles_are_the_whole_image_if_the_halo_has_the_networks_reach(file, reach, data):
    model, lr = network(data, file), crop(data, 64)
    leaf = lr.clone().requires_grad_()
    model(leaf)[
        ..., 128:132, 128:132
    ].square().sum().backward()  # the outputs of the LR pixel (32, 32)
    seen = leaf.grad.abs().amax((0, 1)).nonzero()
    assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([32 - reach] * 2, [32 + reach] * 2)
    errors = [each.max().item() for each in differences(model, lr, (0, 4, 12, reach), reach)]
    assert errors[0] > 0.1
    assert all(near < far / 4 for far, near in pairwise(errors))
    assert (
        errors[-1] < 2e-4
    )  # a twentieth of an 8-bit step: patches of another size are summed in another order


@pytest.mark.parametrize(("file", "side", "halos", "left", "last"), FAR)
def test_tiles_come_closer_to_the_whole_image_with_the_halo(file, side, halos, left, last, data):
    model, lr = network(data, file), crop(data, side)
    errors = [each.mean().item() for each in differences(model, lr, halos, halos[-1])]
    assert all(near < left * far for far, near in pairwise(errors))
    assert errors[-1] < last


def test_windows_want_halos_that_are_their_multiples(data):
    model, lr = network(data, "DITN_Real_GAN_x4.pth"), crop(data, 64)
    aligned, moved = (each.mean().item() for each in differences(model, lr, (8, 12), 16))
    assert moved > 2 * aligned


@pytest.mark.parametrize("file", FILES)
def test_tiles_have_the_noise_of_the_whole_image(file, data):
    model, lr = network(data, file), crop(data, 24)
    whole, again = (SmoothedSR(model, 0.05, 3, seed=seed, batch_size=3)(lr) for seed in (0, 1))
    tiled = SmoothedSR(model, 0.05, 3, tile=8, halo=8, seed=2, batch_size=3)(lr)
    assert tiled.shape == whole.shape == (1, 3, 96, 96)
    assert tiled.min() >= 0
    assert tiled.max() <= 1
    # The patch of the tile in the middle is the whole image.
    noise, change = (inside(each - whole, 8).abs().mean().item() for each in (again, tiled))
    assert noise > 1e-3
    assert change == pytest.approx(noise, rel=0.25)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("tile", [None, 8])
def test_gradients_reach_every_value_of_the_input(file, tile, data):
    lr = crop(data, 16).requires_grad_()
    SmoothedSR(network(data, file), 0.05, 3, tile=tile, halo=4, seed=0, batch_size=3)(
        lr
    ).square().sum().backward()
    assert lr.grad.isfinite().all()
    assert (lr.grad != 0).all()
