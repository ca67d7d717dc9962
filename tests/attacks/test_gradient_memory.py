"""Gradients of a smoothed network: what they keep in memory, and the same without keeping it."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from smoothsr import SmoothedSR
from smoothsr.attacks import gradient_memory
from smoothsr.attacks.gradient_memory import gradient_bytes, within_memory
from smoothsr.engine.tiles import grid
from smoothsr.evaluation import conditions


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.PReLU(8),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))


def photo(height=12, width=10, dtype=torch.float64):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def slopes(smoothed, lr):
    """Output, and its gradients to the input and the weights."""
    lr = lr.clone().requires_grad_()
    output = smoothed(lr)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weight).sum(), [lr, *smoothed.parameters()])]


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("agg", ["median", "mean", "p30"])
@pytest.mark.parametrize(
    "options",
    [{}, {"tile": 5, "halo": 2}, {"denoiser": nn.Conv2d(3, 3, 1)}],
    ids=["whole", "tiles", "other"],
)
def test_recomputing_changes_no_gradient(agg, options):
    model = network().eval()
    kept, again = (
        SmoothedSR(
            model, 0.1, 7, agg, seed=3, batch_size=3, recompute=recompute, **options
        ).double()
        for recompute in (False, True)
    )
    for first, second in zip(slopes(kept, photo()), slopes(again, photo()), strict=True):
        torch.testing.assert_close(first, second)
        assert first.abs().max() > 0


@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_recomputing_drops_out_the_same_and_leaves_the_random_state():
    results = []
    for recompute in (False, True):
        smoothed = SmoothedSR(
            network(0.5).train(), 0.1, 5, seed=3, batch_size=2, recompute=recompute
        ).double()
        torch.manual_seed(4)
        results.append([*slopes(smoothed, photo()), torch.random.get_rng_state()])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_recomputing_keeps_one_batch_instead_of_all_draws():
    def kept(recompute):
        """Bytes that are kept between a forward pass and its backward pass, outputs included."""
        tensors = dict[int, torch.Tensor]()

        def keep(tensor):
            tensors[tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor

        smoothed = SmoothedSR(network().eval(), 0.1, 21, batch_size=3, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            smoothed(photo(24, 24, torch.float32).requires_grad_())
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

    assert kept(True) < 0.5 * kept(
        False
    )  # noise, draws and the choice among them remain; this network is small beside them


def test_what_a_gradient_keeps_is_measured():
    """Each PReLU keeps its input, 8 channels of 4 bytes; the clamp its own, 12; a frozen
    convolution may keep its input.
    """
    smoothed = SmoothedSR(network().requires_grad_(False).eval(), 0.1, 3)
    least, most = (8 + 8 + 12) * 4, (3 + 8 + 8 + 8 + 8 + 12 + 12) * 4
    for side in (30, 60):
        assert least <= gradient_bytes(smoothed, photo(side, side, torch.float32)) <= most
    small = gradient_bytes(smoothed, photo(dtype=torch.float32))
    denoiser = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.Conv2d(8, 3, 1)).requires_grad_(
        False
    )
    assert (
        gradient_bytes(
            SmoothedSR(smoothed.model, 0.1, 3, denoiser=denoiser), photo(dtype=torch.float32)
        )
        >= small + 8 * 4
    )
    assert gradient_bytes(smoothed.double(), photo()) == 2 * small


@pytest.mark.parametrize(
    ("limit", "tile", "size"),
    [
        (600, None, None),
        (599, None, 4),
        (120, None, 1),
        (2, None, 1),
        (5 * 324, 4, None),
        (5 * 324 - 1, 4, 44),
        (120, 4, 3),
    ],
)
def test_gradients_are_made_to_fit(limit, tile, size, monkeypatch):
    """One byte a pixel, of which there are 12x10, or 9 patches of 6x6 in tiles of 4 with a halo of
    1.
    """
    monkeypatch.setattr(gradient_memory, "LIMIT", limit)
    smoothed = SmoothedSR(network().eval(), 0.1, 5, seed=2, tile=tile, halo=1)
    fitted = within_memory(smoothed, photo(), 1.0)
    assert (smoothed.recompute, smoothed.batching.most) == (False, None)
    if size is None:
        assert fitted is smoothed
    else:
        assert (fitted.recompute, fitted.batching.most) == (True, size)
        assert (fitted.model, fitted.sigma, fitted.n, fitted.tile, fitted.seed) == (
            smoothed.model,
            0.1,
            5,
            tile,
            2,
        )
        torch.testing.assert_close(fitted(photo().float()), smoothed(photo().float()))


def test_a_batch_size_that_is_asked_for_is_not_exceeded(monkeypatch):
    monkeypatch.setattr(gradient_memory, "LIMIT", 599)  # enough for four draws at once
    for given, size in ((1, 1), (3, 3), (5, 4), (None, None)):
        asked = SmoothedSR(network(), 0.1, 5, batch_size=given)
        batching = within_memory(asked, photo(), 1.0).batching
        assert (batching.batch_size, batching.most) == (size, 4)


@pytest.mark.parametrize("tile", [None, 4, 5, 30])
def test_all_patches_are_alike(tile):
    smoothed = SmoothedSR(network(), 0.1, 5, tile=tile, halo=2)
    tiles = grid(12, 10, tile, 2)
    assert {len(rows.gather) * len(columns.gather) for rows, columns in tiles} == {
        gradient_memory.patches(smoothed, photo())[1]
    }
    assert len(tiles) == gradient_memory.patches(smoothed, photo())[0]


def test_attacks_recompute_where_memory_would_not_do(monkeypatch):
    def watched(*args, **options):
        batches.append(len(args[1]))
        return checkpoint(*args, **options)

    batches = list[int]()
    monkeypatch.setattr("smoothsr.smoothing.checkpoint", watched)
    smoothed, lr = (
        SmoothedSR(network().eval(), 0.1, 5).requires_grad_(False),
        photo(dtype=torch.float32),
    )
    for text in (f"pgd:4/255:steps=2:via={way}" for way in ("served", "mean", "draw")):
        condition = conditions.parse(text)
        kept = condition.apply(lr, None, smoothed, 3)
        assert batches == []
        with monkeypatch.context() as short:
            short.setattr(gradient_memory, "LIMIT", 1)
            assert (
                condition.apply(lr, None, smoothed, 3) - kept
            ).abs().max() <= 8.1 / 255  # of the same budget
        assert {*batches} == {1}
        batches.clear()
