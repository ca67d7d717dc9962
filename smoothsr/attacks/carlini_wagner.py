"""Carlini and Wagner's attack: the size of the change is weighed against what it does."""

import torch
from torch import Tensor

from smoothsr.attacks import budget, objective
from smoothsr.attacks.budget import Norm, PerImage, l2_budget
from smoothsr.attacks.objective import Keep, Loss, Model, Step

__all__ = ["cw"]


@torch.no_grad()
def cw(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage | None = None,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    keep: Keep = "best",
    steps: int = 100,
    step_size: PerImage | None = None,
    c: float = 100.0,
) -> Tensor:
    """Attack by minimising ||change||_2 - c*loss with Adam: the regression form of Carlini and
    Wagner's attack.

    With the loss "l2" a change pays as soon as the network amplifies it by more than 1/c. It starts
    where `bim` does, and keeps each image's least objective, or with keep="last" the last iterate.

    Args:
        model: As of `pgd`.
        lr: As of `pgd`.
        reference: As of `pgd`.
        eps: Budget into which every iterate is projected before it is judged; None leaves the size
            of the change to c.
        norm: As of `pgd`.
        loss: As of `pgd`.
        target: As of `pgd`.
        draws: As of `pgd`.
        seed: As of `pgd`.
        keep: As of `pgd`.
        steps: Steps of Adam.
        step_size: Adam's, in units of one value of lr, a number or (B,). None shrinks it to 0,
            linearly, from the root mean square change that fills the budget, or from .01 without
            one.
        c: How much the loss counts against the size of the change.

    Returns:
        What `pgd` does.

    Raises:
        ValueError: As `pgd`.
    """
    largest = l2_budget(1, lr) if norm == "l2" else 1.0  # no change within [0, 1] is larger
    limit = budget.limit(lr, largest if eps is None else eps, norm)
    rate = torch.full_like(limit, 0.01) if eps is None else limit / largest
    deviation = objective.gain_of(model, lr, reference, target, loss, draws)
    noise = budget.random_changes(lr, rate * largest, norm, 1, seed)[0]
    adam = _adam(lr, rate, steps, step_size)

    def gain(change: Tensor) -> Tensor:
        change = budget.project(change, limit, norm)
        return c * deviation(change) - budget.length(change)

    def step(t: int, change: Tensor, gradient: Tensor) -> Tensor:
        moved = adam(t, change, gradient)
        # Adam scales each value by itself, which leads astray along a sphere: there it runs free,
        # and `gain` projects.
        return budget.clip(lr, budget.project(moved, limit, norm) if norm == "linf" else moved)

    if objective.one_path(keep):
        start = noise if reference is None and target is None else torch.zeros_like(lr)
        found = objective.last(gain, start, step, steps, draws)
    else:
        start = objective.unless_flat(deviation, noise)
        kept = [*objective.iterates(gain, [start], step, steps, draws)]
        found = objective.best_of(gain, kept, draws)
    return lr + budget.project(found, limit, norm)


def _adam(lr: Tensor, rate: Tensor, steps: int, step_size: PerImage | None) -> Step:
    """Return Adam's step uphill, whose size shrinks linearly from rate where none is given."""
    constant = None if step_size is None else budget.per_image("step_size", step_size, lr)
    mean, square = torch.zeros_like(lr), torch.zeros_like(lr)

    def step(t: int, change: Tensor, gradient: Tensor) -> Tensor:
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        direction = mean / (1 - 0.9 ** (t + 1)) / ((square / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        size = rate * (1 - t / steps) if constant is None else constant
        return change + size * direction

    return step
