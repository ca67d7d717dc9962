"""The worst of several attacks, for each image: what a defence is to be judged by."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoothsr.attacks import budget, objective
from smoothsr.attacks.budget import Norm, PerImage
from smoothsr.attacks.carlini_wagner import cw
from smoothsr.attacks.objective import Loss, Model
from smoothsr.attacks.projected_gradient import bim, fgsm, pgd
from smoothsr.attacks.views import DRAWS, views
from smoothsr.smoothing import SmoothedSR

__all__ = ["Attack", "strongest", "worst"]

Attack = Callable[..., Tensor]
"""A function that takes what `fgsm` does, such as `functools.partial(pgd, steps=100)`."""


class Attempt(NamedTuple):
    """One attack on one way of seeing a model."""

    attack: Attack
    view: Model
    draws: int
    seed: int


@torch.no_grad()
def strongest(
    model: Model,
    lr: Tensor,
    reference: Tensor | None = None,
    *,
    eps: PerImage,
    norm: Norm = "linf",
    loss: Loss = "l2",
    target: Tensor | None = None,
    draws: int | None = None,
    seed: int = 0,
    attacks: Sequence[Attack] = (fgsm, bim, pgd, cw),
    adaptive: Sequence[Attack] = (pgd,),
    transfer_from: Model | Sequence[Model] = (),
    evaluations: int = 8,
) -> Tensor:
    """Run a set of attacks, and keep for each image the result that is worst for model.

    The set: lr itself and the two uniform shifts; `attacks` on the network, which for a SmoothedSR
    is the bare one inside it; for a SmoothedSR `adaptive` through each way to see its noise
    (`smoothsr.attacks.views`); and `attacks` on each of transfer_from, in the hope that the result
    harms model too. `worst` chooses by the model as it is served.

    Args:
        model: A SmoothedSR, whose seed is neither read nor changed, or what `pgd` takes.
        lr: (B,C,h,w) in [0, 1].
        reference: As of `pgd`; without it, each model is driven away from its own output.
        eps: As of `pgd`.
        norm: As of `pgd`.
        loss: As of `pgd`.
        target: As of `pgd`.
        draws: Evaluations a step of a random model, of which a SmoothedSR's views "mean" and "draw"
            take so many. None: 5 of a SmoothedSR, 1 of anything else. Bare networks get one.
        seed: Fixes starts and noise. On the network each attack is what it is by itself with this
            seed; through each view it has a seed of its own.
        attacks: Functions such as `functools.partial(pgd, steps=100, restarts=5)`.
        adaptive: Likewise.
        transfer_from: Further models.
        evaluations: Outputs by which each result is judged.

    Returns:
        What `pgd` does.

    Raises:
        ValueError: As `pgd`.
    """
    if isinstance(model, SmoothedSR):
        averaged = DRAWS if draws is None else draws
        seen = views(model, lr, averaged, seed)
        model, network = seen["served"], (seen["bare"], 1)
        ways = [
            (seen[view], averaged if view == "draw" else 1) for view in ("served", "mean", "draw")
        ]
    else:
        network, ways = (model, 1 if draws is None else draws), []
    others = [transfer_from] if callable(transfer_from) else transfer_from
    networks = [network, *((other, 1) for other in others)]
    attempts = [Attempt(attack, *way, seed) for attack in attacks for way in networks]
    through = [(attack, *way) for attack in adaptive for way in ways]
    attempts += [Attempt(*each, seed + len(attempts) + i) for i, each in enumerate(through)]

    options: dict[str, Any] = {"eps": eps, "norm": norm, "loss": loss, "target": target}
    shifts = budget.uniform_changes(lr, budget.limit(lr, eps, norm), norm)
    results = [lr, *(lr + shift for shift in shifts)]
    for attack, view, count, start in attempts:
        results.append(attack(view, lr, reference, draws=count, seed=start, **options))
    return worst(model, lr, results, reference, loss=loss, target=target, evaluations=evaluations)


@torch.no_grad()
def worst(
    model: Model,
    lr: Tensor,
    results: Sequence[Tensor],
    reference: Tensor | None = None,
    *,
    loss: Loss = "l2",
    target: Tensor | None = None,
    evaluations: int = 8,
) -> Tensor:
    """Choose, for each image of lr, the one of several attacks' results (B,C,h,w) that harms model
    most.

    Args:
        model: What `pgd` takes.
        lr: (B,C,h,w) in [0, 1].
        results: At least one, each (B,C,h,w).
        reference: As of `pgd`.
        loss: As of `pgd`.
        target: As of `pgd`.
        evaluations: Outputs whose mean loss is the harm, since model may be random.

    Returns:
        (B,C,h,w), of each image one of the results.

    Raises:
        ValueError: If an argument is out of its range, or shapes don't fit.
    """
    gain = objective.gain_of(model, lr, reference, target, loss, evaluations)
    changes = [result - lr for result in results]
    return objective.pick(results, objective.most_harmful(gain, changes, evaluations))
