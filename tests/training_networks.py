"""Small networks, images and two processes, for the tests of training objectives."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor, distributed, nn

__all__ = [
    "Given",
    "Smooth",
    "batch",
    "gradients",
    "in_two_processes",
    "normalized",
    "slopes_are_right",
    "state_of",
]


class Smooth(nn.Module):
    """Upscale by 2, with derivatives of all orders; half a thousand weights at most."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, 3, 3, padding=1)
            self.last = nn.Conv2d(3, 4, 3, padding=1)
        self.to(dtype)

    def forward(self, lr: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.last(torch.tanh(3 * self.first(lr))), 2)


def normalized(seed: int = 0) -> nn.Module:
    """A network with BatchNorm and dropout, which behave otherwise in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5)]
        return nn.Sequential(*parts, nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2))


def batch(images: int = 2, side: int = 6, dtype: torch.dtype = torch.float32):
    """Make lr (B,1,side,side) and hr of twice the side, in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    shape = (images, 1, side, side)
    lr = torch.rand(shape, generator=generator, dtype=dtype)
    return lr, torch.rand(images, 1, 2 * side, 2 * side, generator=generator, dtype=dtype)


class Given(nn.Module):
    """A network with weights that are arguments, as finite differences need them."""

    def __init__(self, network: nn.Module, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.network, self.given = network, weights

    def forward(self, lr: Tensor) -> Tensor:
        names = [name for name, _ in self.network.named_parameters()]
        weights = dict(zip(names, self.given, strict=True))
        return torch.func.functional_call(self.network, weights, (lr,))


def slopes_are_right(objective: Callable[..., Tensor], network: nn.Module, lr, hr, at) -> bool:
    """Whether an objective's gradients in all weights are those of finite differences."""
    weights = [weight.detach().clone().requires_grad_() for weight in network.parameters()]

    def value(*weights: Tensor) -> Tensor:
        return objective(Given(network, weights), lr, hr, at)

    return torch.autograd.gradcheck(value, weights, eps=1e-6, atol=1e-6, rtol=1e-4)


def gradients(model: nn.Module) -> list[Tensor]:
    """The gradients of all weights; none may be missing."""
    found = [weight.grad for weight in model.parameters()]
    assert all(each is not None for each in found)
    return [each.clone() for each in found]


def state_of(model: nn.Module) -> list[object]:
    """What an objective must leave as it is: modes, hooks, what has gradients, and all values."""
    modes = [(module.training, len(module._forward_pre_hooks)) for module in model.modules()]
    weights = [(each.requires_grad, each.grad is None) for each in model.parameters()]
    return [modes, weights, [value.tolist() for value in model.state_dict().values()]]


def in_two_processes(function: Callable[..., Tensor], *arguments: object) -> list[Tensor]:
    """Run function(rank, *arguments) in two processes that share a gloo group; return what each
    returned.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, (function, folder, arguments), nprocs=2)
        return [torch.load(Path(folder, str(rank)), weights_only=True) for rank in range(2)]


def _member(rank, function, folder, arguments) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder, "store")), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(function(rank, *arguments), Path(folder, str(rank)))
    distributed.barrier()
    distributed.destroy_process_group()
    # At once: threads of the group that outlive the interpreter end a process by SIGABRT, once in
    # hundreds of runs.
    os._exit(0)
