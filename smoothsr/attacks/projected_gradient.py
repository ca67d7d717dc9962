"""Attacks by projected gradient ascent: FGSM, BIM and PGD."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smoothsr.attacks import budget, objective
from smoothsr.attacks.budget import Norm, PerImage
from smoothsr.attacks.objective import Keep, Loss, Model, Step

__all__ = ["bim", "fgsm", "pgd"]


def fgsm(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    keep: Keep = "best",
) -> Tensor:
    """Attack by one gradient step to the border of the budget: `bim` with steps=1."""
    return bim(
        model,
        lr,
        reference,
        eps=eps,
        norm=norm,
        loss=loss,
        target=target,
        draws=draws,
        seed=seed,
        keep=keep,
        steps=1,
    )


def bim(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    keep: Keep = "best",
    steps: int = 40,
    step_size: PerImage | None = None,
) -> Tensor:
    """Attack by projected gradient ascent that starts at lr: `pgd` with random_start=False."""
    return pgd(
        model,
        lr,
        reference,
        eps=eps,
        norm=norm,
        loss=loss,
        target=target,
        draws=draws,
        seed=seed,
        keep=keep,
        steps=steps,
        step_size=step_size,
        random_start=False,
    )


@torch.no_grad()
def pgd(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    keep: Keep = "best",
    steps: int = 40,
    step_size: PerImage | None = None,
    restarts: int = 1,
    random_start: bool = True,
    starts: Sequence[Tensor] = (),
) -> Tensor:
    """Attack by projected gradient ascent, from several starts.

    It climbs from `restarts` random points of the budget's border, from the stronger of the two
    uniform shifts (all values up, or all down, as far as the budget allows), and from `starts`. So
    it takes (restarts + 1 + len(starts)) * steps * draws gradients, and some evaluations to choose
    among what it found; the result is never weaker than a uniform shift, but for the luck of a
    random model's draws.

    Args:
        model: Maps (B,C,h,w) to (B,C,H,W), differentiably. Neither its mode nor its parameters'
            gradients change.
        lr: (B,C,h,w) in [0, 1].
        reference: What the output is driven away from, (B,C,H,W), such as the ground truth; None
            means the output for lr.
        eps: Budget in units of lr, for one image over all its values: a number such as 8/255, or
            (B,).
        norm: The norm in which the budget counts.
        loss: "l2" or "l1", the norm of output - reference, or a function of (output, reference)
            that returns (B,).
        target: What the output is driven towards instead, (B,C,H,W).
        draws: Evaluations of the model a step, whose losses are averaged. One will do for a model
            that isn't random.
        seed: Fixes the random starts, which are the same for every image of a batch.
        keep: "last" follows one path, from one start, and returns its last iterate unjudged: an
            attack of `steps * draws` gradients, as adversarial training runs it at every step. It
            starts at a random point where random_start says so, or where what the output is driven
            away from is the output itself, whose loss is flat at lr.
        steps: Gradient steps from each start.
        step_size: Length of every step in `norm`, a number or (B,). None shrinks it from 2*eps to 0
            and adds Auto-PGD's momentum: large steps find the direction, small ones settle, and
            gradients that zigzag or are random average out.
        restarts: How many random starts.
        random_start: False starts at lr in place of the random points and the uniform shifts,
            unless the loss is 0 and so flat there.
        starts: Further changes of lr to start from, each (1,C,h,w) or of lr's shape, such as
            eps * v and -eps * v for a direction v of which more is known; they are projected into
            the budget.

    Returns:
        Each image's best iterate, or the last one: in [0, 1], of lr's dtype and device, within eps
        of lr exactly, also after rounding to that dtype.

    Raises:
        ValueError: If an argument is out of its range, shapes don't fit, or the output carries no
            gradient.

    Example:
        >>> grey, black = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
        >>> f"{pgd(lambda x: x**2, grey, black, eps=0.1).min():.4f}"
        '0.6000'
    """
    one_path = objective.one_path(keep)
    if one_path and (restarts > 1 or starts):
        raise ValueError('keep="last" follows one path: pass neither restarts nor starts')
    limit = budget.limit(lr, eps, norm)
    gain = objective.gain_of(model, lr, reference, target, loss, draws)
    first = budget.random_changes(lr, limit, norm, restarts, seed)
    step = _ascent(lr, limit, norm, steps, step_size)
    if one_path:
        elsewhere = random_start or (reference is None and target is None)
        start = first[0] if elsewhere else torch.zeros_like(lr)
        return lr + objective.last(gain, start, step, steps, draws)
    kept = list[Tensor]()
    if random_start:
        shift = objective.best_of(gain, budget.uniform_changes(lr, limit, norm), draws)
        first, kept = [*first, shift], [shift]
    else:
        first = [objective.unless_flat(gain, first[0])]
    first += [_within(lr, change, limit, norm) for change in starts]
    kept += objective.iterates(gain, first, step, steps, draws)
    return lr + objective.best_of(gain, kept, draws)


def _ascent(lr: Tensor, limit: Tensor, norm: Norm, steps: int, step_size: PerImage | None) -> Step:
    """Return the step of projected gradient ascent, with momentum where no size is given."""
    constant = None if step_size is None else budget.per_image("step_size", step_size, lr)
    before = torch.zeros_like(lr)

    def within(change: Tensor) -> Tensor:
        return budget.clip(lr, budget.project(change, limit, norm))

    def step(t: int, change: Tensor, gradient: Tensor) -> Tensor:
        size = 2 * limit * (1 - t / steps) if constant is None else constant
        moved = within(change + size * budget.normalize(gradient, norm))
        if constant is None and t:
            moved = within(change + 0.75 * (moved - change) + 0.25 * (change - before))
        before.copy_(change)
        return moved

    return step


def _within(lr: Tensor, change: Tensor, limit: Tensor, norm: Norm) -> Tensor:
    """Return the nearest allowed change to a start that was given.

    Raises:
        ValueError: If it has not the shape of one image, or of lr, or is not finite.
    """
    if change.shape not in (lr.shape, (1, *lr.shape[1:])) or not change.isfinite().all():
        raise ValueError(
            f"each of starts must be finite, of shape {(*lr.shape,)} or {(1, *lr.shape[1:])}, got "
            f"{(*change.shape,)}"
        )
    return budget.clip(lr, budget.project(change.to(lr).expand_as(lr), limit, norm))
