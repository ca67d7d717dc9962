"""What the tests of conditions attack: a network that remembers what it was given, its smoother,
and how to judge the harm.
"""

import numpy as np
import torch
from attack_networks import Curved, images
from torch import Tensor, nn

from smoothsr import SmoothedSR
from smoothsr.attacks.views import seed_of, serve

__all__ = ["Net", "harm", "photo", "smoother", "truth"]


class Net(nn.Module):
    """Curved, with outputs between 0 and 1, and a record of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Curved()
        self.seen: list[Tensor] = []

    def forward(self, lr: Tensor) -> Tensor:
        self.seen.append(lr.detach().clone())
        return torch.sigmoid(self.inner(lr))


def smoother(net: nn.Module | None = None, sigma=0.03, n=5, **options) -> SmoothedSR:
    return SmoothedSR((net or Net()).eval(), sigma, n, **options)


def photo() -> Tensor:
    return images(batch=1, channels=2)


@torch.no_grad()
def truth() -> Tensor:
    """A reference near the clean output of Net, but not it."""
    return Net()(photo()) * 0.8 + 0.1


@torch.no_grad()
def harm(model: nn.Module, lr: Tensor, reference: Tensor) -> float:
    """How far the output is from the reference, on average over noise that no attacker has seen."""
    return np.mean(
        [(serve(model, lr, seed_of("judge", i)) - reference).norm().item() for i in range(16)]
    )
