"""The networks that come with the package: their files, their scores, and attacks on them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from smoothsr import SmoothedSR, adapters, attacks
from smoothsr.files import images
from smoothsr.metrics import psnr

WEIGHTS = Path(adapters.__file__).parent / "weights"


@pytest.mark.parametrize("name", ["builtin", "builtin-clean", "builtin-smooth"])
def test_files_say_what_they_are_and_spandrel_loads_them(name):
    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 2 * 2**20
    with safe_open(path, "pt") as file:
        assert {"architecture", "recipe", "data", "license", "scores"} <= set(file.metadata())
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    spandrel = pytest.importorskip("spandrel")
    descriptor = spandrel.ModelLoader().load_from_state_dict(state)
    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 4)
    lr = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = adapters.load(name).model(lr), descriptor.model.eval()(lr)
    assert torch.allclose(ours, theirs, atol=1e-6)


def set5(data, network, noise):
    generator, scores = torch.Generator().manual_seed(1), []
    for path in sorted((data / "images/Set5").glob("*.png")):
        lr = images.read(data / f"images/Set5_LRx4/{path.stem}x4.png").pixels
        with torch.no_grad():
            sr = network(lr + noise * torch.randn(lr.shape, generator=generator))
        scores.append(psnr(sr, images.read(path).pixels, border=4, y=True).item())
    return sum(scores) / len(scores)


def test_scores_on_set5(data):
    """The bars that the built-in pair was made for; bicubic enlargement has 28.43 dB."""
    noisy, clean = (adapters.load(name).model for name in ("builtin", "builtin-clean"))
    assert set5(data, noisy, 0) >= 30.0
    assert set5(data, clean, 0) >= 30.6
    under_noise = set5(data, noisy, 0.05)
    assert under_noise >= 28.4
    assert under_noise >= set5(data, clean, 0.05) + 2.5


def test_the_smooth_one_is_best_under_smoothing(data):
    """The mean of 21 at sigma .05, for which it was trained; bare, it is below its clean twin."""
    networks = {name: adapters.load(name).model for name in ("builtin-clean", "builtin-smooth")}
    served = {
        name: set5(data, SmoothedSR(network, 0.05, 21, "mean", antithetic=False, seed=0), 0)
        for name, network in networks.items()
    }
    assert served["builtin-smooth"] >= 30.3
    assert served["builtin-smooth"] >= served["builtin-clean"] + 0.3
    assert set5(data, networks["builtin-smooth"], 0) >= 30.5


@pytest.mark.slow
def test_no_attack_leaves_the_bounds():
    """50 steps of projected gradients through fresh noise, at radii from half of sigma to one and a
    half.
    """
    sigma, many = 0.05, 1001
    lr = images.read(Path(__file__).parents[2] / "examples/cat.png").pixels[..., 20:36, 14:30]
    network = adapters.load("builtin").model
    served = SmoothedSR(network, sigma, tile=8, halo=2)
    nearly_ideal = SmoothedSR(network, sigma, many, tile=8, halo=2)
    certificate = served.certify(lr, n=1000, levels=16)
    with torch.no_grad():
        at_rest = (nearly_ideal(lr) - certificate.sr).square().mean()
    for share in (0.5, 1.0, 1.5):
        radius = share * sigma
        attacked = attacks.pgd(
            served, lr, certificate.sr, eps=radius, norm="l2", steps=50, draws=1, seed=0
        )
        assert (attacked - lr).norm() <= radius * (1 + 1e-6)
        with torch.no_grad():
            outputs = [served(attacked) for _ in range(20)]
            median = nearly_ideal(attacked)
        rounded = torch.stack(outputs).mul(255).round() / 255
        lower, upper = certificate.bounds(radius)
        assert ((rounded < lower) | (rounded > upper)).float().mean() <= 1e-3
        assert all(certificate.contains(output, radius) for output in outputs)
        # The median of 1001 draws is not the ideal one, but strays from it by .25 sigma with a
        # probability below 1e-9 a value.
        assert certificate.contains(median, radius + 0.25 * sigma, "ideal")
        assert -10 * torch.log10((rounded - certificate.sr).square().mean()) >= certificate.psnr(
            radius
        )
    assert (
        median - certificate.sr
    ).square().mean() > 1.3 * at_rest  # the last attack does something
