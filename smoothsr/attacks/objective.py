"""What an attacker drives up: the loss as a function of the change, its slope, and the best of
several changes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.linalg import vector_norm

from smoothsr.attacks import budget

__all__ = [
    "Gain",
    "Keep",
    "Loss",
    "Model",
    "best_of",
    "gain_of",
    "iterates",
    "last",
    "most_harmful",
    "one_path",
    "pick",
    "slope",
    "unless_flat",
]

JUDGED = 4  # times as many draws decide between changes as make up a step
Model = Callable[[Tensor], Tensor]
Loss = Literal["l1", "l2"] | Callable[[Tensor, Tensor], Tensor]
Keep = Literal["best", "last"]
Gain = Callable[[Tensor], Tensor]
"""A change (B,C,h,w) of the input -> how good it is for the attacker, (B,1,1,1)."""
Step = Callable[[int, Tensor, Tensor], Tensor]
"""(number of the step, change, gradient) -> the next change."""


def gain_of(
    model: Model,
    lr: Tensor,
    reference: Tensor | None,
    target: Tensor | None,
    loss: Loss,
    draws: int,
) -> Gain:
    """Return the loss as a function of the change, or its negative where there is a target.

    Args:
        model: Maps (B,C,h,w) to (B,C,H,W), differentiably.
        lr: (B,C,h,w).
        reference: What the output is driven away from, (B,C,H,W); None: the output for lr.
        target: What it is driven towards instead.
        loss: "l1", "l2" or a function of (output, reference) that returns (B,).
        draws: Evaluations whose mean is the reference, where none is given.

    Raises:
        ValueError: If an argument is out of its range, or, once it is called, a shape doesn't fit.
    """
    if draws < 1:
        raise ValueError(f"draws and evaluations must be at least 1, got {draws}")
    if reference is not None and target is not None:
        raise ValueError(
            "pass a reference to drive the output away from, or a target to drive it "
            "towards, not both"
        )
    if not callable(loss) and loss not in ("l1", "l2"):
        raise ValueError(f'loss must be "l1", "l2" or a function, got {loss!r}')
    given = target if reference is None else reference
    goal = _mean(model, lr, draws) if given is None else given
    sign = 1 if target is None else -1
    return lambda change: sign * _losses(model(lr + change), goal, loss).view(-1, 1, 1, 1)


def _losses(output: Tensor, goal: Tensor, loss: Loss) -> Tensor:
    """Return the loss of each image, (B,)."""
    if output.shape != goal.shape:
        raise ValueError(
            f"reference and target must have the output's shape {(*output.shape,)}, got "
            f"{(*goal.shape,)}"
        )
    if callable(loss):
        values = loss(output, goal)
    else:  # half precision can't hold the l1 norm of a large image
        wide = torch.promote_types(output.dtype, torch.float32)
        values = vector_norm(output - goal, int(loss[1]), (1, 2, 3), dtype=wide)
    if values.shape != output.shape[:1]:
        raise ValueError(
            f"loss must return one value for each of {len(output)} images, got shape "
            f"{(*values.shape,)}"
        )
    return values


@torch.enable_grad()
def slope(gain: Gain, change: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return the mean gain over draws and its gradient, with the graph of one draw in memory at a
    time.

    Raises:
        ValueError: If the gain carries no gradient.
    """
    change = change.detach().requires_grad_()
    values, slopes = list[Tensor](), list[Tensor]()
    for _ in range(draws):
        value = gain(change)
        found = None
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), change, allow_unused=True)[0]
        if found is None:
            raise ValueError(
                "the output carries no gradient to the input: does the model detach it, or "
                "run under no_grad?"
            )
        values.append(value.detach())
        slopes.append(found)
    return torch.stack(values).mean(0), torch.stack(slopes).mean(0)


def unless_flat(gain: Gain, noise: Tensor) -> Tensor:
    """Return no change; or noise for images whose loss has no slope there, as where output and
    reference are equal.
    """
    _, found = slope(gain, torch.zeros_like(noise), 1)
    return torch.where(budget.length(found) == 0, noise, 0)


def iterates(
    gain: Gain, starts: Sequence[Tensor], step: Step, steps: int, draws: int
) -> Iterator[Tensor]:
    """Yield the best and the last change of each path of so many steps, one from each start.

    A random model's best value may be luck, most of all where its noise is spiky: so the last
    iterate stands against it in `best_of`.

    Raises:
        ValueError: If steps is not at least 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for start in starts:
        change = best = start
        most = torch.full_like(budget.length(start), -torch.inf)
        for t in range(steps):
            value, gradient = slope(gain, change, draws)
            best, most = torch.where(value > most, change, best), torch.maximum(value, most)
            change = step(t, change, gradient)
        yield best
        yield change


def one_path(keep: Keep) -> bool:
    """Whether one path's last iterate is wanted, and not the best of all that was found.

    Raises:
        ValueError: If keep is unknown.
    """
    if keep not in get_args(Keep):
        raise ValueError(f'keep must be "best" or "last", got {keep!r}')
    return keep == "last"


def last(gain: Gain, start: Tensor, step: Step, steps: int, draws: int) -> Tensor:
    """Return the last change of one path."""
    *_, change = iterates(gain, [start], step, steps, draws)
    return change


def best_of(gain: Gain, changes: Sequence[Tensor], draws: int) -> Tensor:
    """Choose each image's best change, by the mean gain of JUDGED times as many draws as a step."""
    return pick(changes, most_harmful(gain, changes, JUDGED * draws))


def most_harmful(gain: Gain, changes: Sequence[Tensor], evaluations: int) -> Tensor:
    """Return which change has each image's largest mean gain over so many evaluations, (B,)."""
    gains = torch.stack([_mean(gain, change, evaluations) for change in changes])
    return gains.nan_to_num(-torch.inf).argmax(0).flatten()


def pick(tensors: Sequence[Tensor], index: Tensor) -> Tensor:
    """Return a batch whose i-th image is that of the tensor (B,C,h,w) numbered index[i]."""
    return torch.stack(list(tensors))[index, torch.arange(len(index), device=index.device)]


def _mean(function: Callable[[Tensor], Tensor], argument: Tensor, draws: int) -> Tensor:
    """Return the mean over draws of a function that may be random."""
    return torch.stack([function(argument) for _ in range(draws)]).mean(0)
