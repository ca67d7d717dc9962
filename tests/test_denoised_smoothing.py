"""Smoothing behind a denoiser: what it is told of the noise, and what a certificate tells of it."""

import pickle

import pytest
import torch
from oracles import LinearSR
from test_smoothing import network
from torch import nn

from smoothsr import Certificate, SmoothedSR
from smoothsr.adapters import load_denoiser
from smoothsr.engine.tiles import grid

SIGMA, HALO_NOISE = 0.2, 2.5


class Told(nn.Module):
    """A denoiser that does nothing, and remembers patches and what it was told of them."""

    def __init__(self):
        super().__init__()
        self.patches, self.levels = [], []
        self.eval()

    def forward(self, noisy, sigma):
        self.patches.append(noisy.detach().clone())
        self.levels.append(sigma.clone())
        return noisy

    @property
    def all(self):
        return torch.cat(self.patches), torch.cat(self.levels)


class Subtract(nn.Module):
    """A denoiser whose output depends on what it is told."""

    def forward(self, noisy, sigma):
        return noisy - sigma


def image(height=5, width=6, channels=1):
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [None, 7, 1000])
@pytest.mark.parametrize("lattice", [False, True])
def test_the_denoiser_is_told_the_noise_that_there_is(batch, lattice):
    """On each pixel of each patch, where patches are completed by reflection too: the standard
    deviation over many draws is what it was told, to 6 standard errors.
    """
    n, told = 1201, Told()
    lr = image(channels=3) if not lattice else torch.full((1, 3, 5, 6), 128 / 255)
    cut = {"tile": 2, "halo": 1, "halo_noise": HALO_NOISE, "batch_size": batch}
    cut |= {"denoiser": told, "denoiser_sigma": SIGMA}
    with torch.no_grad():
        SmoothedSR(nn.Identity().eval(), SIGMA, n, lattice=lattice, **cut)(lr)
    patches, levels = (each.view(-1, n, *each.shape[1:]) for each in told.all)
    tiles = grid(5, 6, 2, 1)
    assert len(patches) == len(tiles)
    assert any(tile.padded for tile in tiles)
    assert torch.equal(levels, levels[:, :1].expand_as(levels))
    assert {*levels.unique().tolist()} == {*torch.tensor([SIGMA, HALO_NOISE * SIGMA]).tolist()}
    ratio = patches.double().std(1).square().mean(1).sqrt() / levels[:, 0, 0]
    assert (ratio - 1).abs().max() < 6 / (2 * 3 * n) ** 0.5


@pytest.mark.parametrize("strength", [None, 0.0, 0.05, 0.3])
@pytest.mark.parametrize("halo_noise", [1.0, 2.0])
def test_the_strength_is_told_in_place_of_sigma(strength, halo_noise):
    told, cut = Told(), {"tile": 4, "halo": 1, "halo_noise": halo_noise}
    smoothed = SmoothedSR(
        nn.Identity().eval(), SIGMA, 3, denoiser=told, denoiser_sigma=strength, **cut
    )
    expected = smoothed.denoiser_sigma
    assert expected == (strength if strength is not None else pytest.approx(0.6 * SIGMA))
    smoothed(image(4, 8))
    _, levels = told.all
    assert levels.min().item() == pytest.approx(expected)
    assert levels.max().item() == pytest.approx(halo_noise * expected)
    smoothed.base(image())
    torch.testing.assert_close(told.levels[-1], torch.full((1, 1, 5, 6), expected))


def test_output_is_that_of_denoised_patches():
    """The denoiser sees noisy patches, the network what it makes of them."""
    net, lr = network(), image(6, 5, 3)

    class Both(nn.Module):
        def forward(self, x):
            return net(x - 0.03)

    options = {"tile": 4, "halo": 1, "seed": 0}
    found = SmoothedSR(net, 0.1, 3, denoiser=Subtract(), denoiser_sigma=0.03, **options)(lr)
    torch.testing.assert_close(found, SmoothedSR(Both().eval(), 0.1, 3, **options)(lr))


@pytest.mark.parametrize("agg", ["median", "mean"])
@pytest.mark.parametrize("denoiser", ["builtin", "file"])
def test_builtin_and_files_are_loaded_by_name(tmp_path, denoiser, agg):
    if denoiser == "file":
        denoiser = tmp_path / "net.pth"
        torch.save(load_denoiser("builtin").model.state_dict(), denoiser)
    lr, options = image(), {"agg": agg, "seed": 0}
    found = SmoothedSR(LinearSR(), 0.1, 3, denoiser=denoiser, **options)
    whole = load_denoiser("builtin").model
    expected = SmoothedSR(LinearSR(), 0.1, 3, denoiser=whole, **options)(lr)
    torch.testing.assert_close(found(lr), expected)
    assert (found(lr) - SmoothedSR(LinearSR(), 0.1, 3, **options)(lr)).abs().max() > 1e-3
    torch.testing.assert_close(pickle.loads(pickle.dumps(found))(lr), expected)


def test_a_named_denoiser_has_the_networks_precision():
    smoothed = SmoothedSR(network().double(), 0.1, 3, denoiser="builtin")
    assert smoothed(image(channels=3).double()).dtype == torch.float64


def test_gradients_pass_the_denoiser():
    lr = image().requires_grad_()
    SmoothedSR(LinearSR(), 0.1, 3, denoiser="builtin")(lr).sum().backward()
    assert lr.grad.abs().min() > 0


def test_the_certificate_tells_strength_and_denoiser(tmp_path):
    def certified(**options):
        smoothed = SmoothedSR(LinearSR(), 0.1, 3, **options)
        return smoothed.certify(image(), n=100, levels=2, void_guarantee_seed=0)

    plain, first = certified(), certified(denoiser=Subtract().eval())
    second = certified(denoiser=Subtract().eval(), denoiser_sigma=0.02)
    other = certified(denoiser=Told())
    assert [each.denoiser_sigma for each in (plain, first, second)] == [None, 0.06, 0.02]
    assert first.weights_digest == second.weights_digest
    assert len({each.weights_digest for each in (plain, first, other)}) == 3
    first.save(tmp_path / "c.npz")
    assert Certificate.load(tmp_path / "c.npz").denoiser_sigma == 0.06
    assert second.summary()["denoiser_sigma"] == 0.02
    assert (first.sr < second.sr).any()


def test_repr_names_strength_and_denoiser():
    text = repr(SmoothedSR(LinearSR(), 0.1, denoiser=Told(), denoiser_sigma=4 / 255))
    assert "denoiser_sigma=4/255" in text
    assert "Told()" in text
    assert "denoiser" not in repr(SmoothedSR(LinearSR(), 0.1))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"denoiser_sigma": 0.1}, ValueError, "pass denoiser as well"),
        ({"denoiser": Told(), "denoiser_sigma": -0.1}, ValueError, "at least 0 and finite, got"),
        ({"denoiser": Told(), "denoiser_sigma": float("nan")}, ValueError, "finite, got nan"),
        ({"denoiser": 3}, TypeError, 'denoiser must be "builtin", a file or a torch.nn.Module'),
        ({"denoiser": "gone.pth"}, FileNotFoundError, "no file gone.pth"),
    ],
)
def test_what_is_no_denoiser_is_refused_at_once(options, error, told):
    with pytest.raises(error, match=told):
        SmoothedSR(LinearSR(), 0.1, **options)


def test_a_denoiser_in_train_mode_is_not_certified():
    smoothed = SmoothedSR(LinearSR(), 0.1, 3, denoiser=nn.Sequential(nn.Dropout2d()).train())
    with pytest.raises(ValueError, match="train mode"):
        smoothed.certify(image(), n=10)
