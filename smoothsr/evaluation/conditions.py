"""Conditions under which a network is measured, as a user writes them: "none",
"blur:1+noise:0.02+jpeg:60", "pgd:4/255@bare".

A condition is a chain of degradations and attacks, joined by "+" and applied from left to right: an
attack starts from what the steps before it made, and knows nothing of those after it. An attack is
`NAME:EPS`, with the norm before eps ("pgd:l2:0.5", or "pgd:rms:0.01" for an l2 budget of that root
mean square change) and options behind it ("pgd:4/255:steps=100:restarts=5"). It aims at whatever is
being measured; "@bare" aims it at the network inside the smoother instead, which is a transfer
attack.

An attacker of a smoother knows everything but the noise to come, so he averages over noise of his
own (A. Athalye et al., ICML 2018, expectation over transformation). There are three ways to do
that, `via`: "mean" (the default), through the mean of `draws` draws; "draw", the mean loss of
`draws` single draws; and "served", through the statistic that is served, all its n draws, which
costs the most. None is always the strongest (benchmarks/adaptive.py): "strongest" takes the worst
of PGD through all of these, and of what transfers from the bare network. A bare network has no
noise, so `via` and `draws` mean nothing to it.

PGD climbs from `restarts` random points (one by default) and from a uniform shift, so it takes
`restarts` + 1 times as many gradients as BIM (smoothsr/attacks/projected_gradient.py).
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from smoothsr.evaluation.numbers import number
from smoothsr.evaluation.steps import DEGRADATIONS, OPTIONS, Attack, AttackNorm, Degradation

__all__ = ["Attack", "Condition", "Degradation", "parse"]

NORMS: tuple[AttackNorm, ...] = get_args(AttackNorm)


@dataclass(frozen=True)
class Condition:
    """A chain of degradations and attacks; `parse` makes it."""

    text: str
    steps: tuple[Degradation | Attack, ...]

    @property
    def adaptive(self) -> bool:
        """Whether the result depends on the smoother, and not on the image and the bare network
        alone.
        """
        return any(isinstance(step, Attack) and not step.bare for step in self.steps)

    def apply(
        self,
        lr: Tensor,
        reference: Tensor | None,
        model: nn.Module,
        seed: int,
        whole_steps: bool = False,
    ) -> Tensor:
        """Return what becomes of an input.

        Args:
            lr: (1,C,h,w) in [0, 1].
            reference: What attacks drive the output away from, (1,C,H,W), such as the ground truth;
                None: the clean output.
            model: The bare network or a SmoothedSR, whose seed is neither read nor changed.
            seed: Fixes everything random; same for all models, so that they meet the same noise.
            whole_steps: Whether each step of the chain leaves whole 8-bit steps, as a smoother on
                the lattice sees them; lr must have no others.

        Returns:
            (1,C,h,w) in [0, 1].
        """
        # A seed each, or noise that is added twice would be the same.
        for own, step in enumerate(self.steps, seed):
            if isinstance(step, Degradation):
                changed = step.apply(lr, own)
            else:
                changed = step.apply(lr, reference, model, own)
            lr = step.in_whole_steps(lr, changed) if whole_steps else changed
        return lr


def parse(text: str) -> Condition:
    """Parse a condition.

    Raises:
        ValueError: If a name is unknown, or a number or an option is missing, wrong or too many.

    Example:
        >>> degradation, attack = parse("jpeg:50+pgd:l2:0.5:steps=9@bare").steps
        >>> degradation
        Degradation(name='jpeg', strength=50.0)
        >>> attack
        Attack(name='pgd', eps=0.5, norm='l2', bare=True, options={'steps': 9})
    """
    if text in ("none", "clean"):
        return Condition(text, ())
    return Condition(text, tuple(_step(part) for part in text.split("+")))


def _step(text: str) -> Degradation | Attack:
    body, at, aim = text.partition("@")
    name, *fields = body.split(":")
    options = [word for word in fields if "=" in word]
    numbers = [word for word in fields if "=" not in word]
    if name in DEGRADATIONS:
        return _degradation(text, name, numbers, plain=not at and not options)
    if name not in OPTIONS:
        raise ValueError(
            f'unknown condition {name!r} in {text!r}: use "none" alone, or of '
            f"{', '.join([*DEGRADATIONS, *OPTIONS])}"
        )
    attack = _attack(text, name, numbers, bare=bool(at), options=options)
    if at and aim != "bare":
        raise ValueError(f'{text!r}: what follows "@" must be bare, got {aim!r}')
    return attack


def _degradation(text: str, name: str, numbers: list[str], *, plain: bool) -> Degradation:
    """Make a degradation, and refuse at once what it would refuse at the first image."""
    if len(numbers) != 1:
        raise ValueError(_form(text, f"{name}:STRENGTH"))
    strength = _number(numbers[0], text)
    if not plain:
        raise ValueError(f'{text!r}: a degradation has no options and no "@"')
    degradation = Degradation(name, strength)
    if name in ("noise", "jpeg"):  # whose strength has a range that any image shows
        degradation.apply(torch.zeros(1, 1, 1, 1), 0)
    return degradation


def _attack(text: str, name: str, numbers: list[str], *, bare: bool, options: list[str]) -> Attack:
    norm = next((norm for norm in NORMS if len(numbers) == 2 and numbers[0] == norm), None)
    if len(numbers) != 1 and norm is None:
        raise ValueError(_form(text, "NAME:EPS or NAME:NORM:EPS, NORM being linf, l2 or rms"))
    eps = _number(numbers[-1], text)
    if norm != "l2" and eps > 1:
        raise ValueError(
            f"{text!r}: eps must be at most 1, as values are; got {eps:g}: write 4/255, not 4"
        )
    return Attack(name, eps, norm or "linf", bare, _options(name, options, text))


def _form(text: str, form: str) -> str:
    return f"{text!r} must be {form}, such as pgd:4/255 or noise:0.03"


def _options(name: str, words: list[str], text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, _, word in (each.partition("=") for each in words):
        if key not in OPTIONS[name] or key in options:
            raise ValueError(
                f"{text!r}: {name} takes {', '.join(OPTIONS[name])}, each once, got {key}={word}"
            )
        options[key] = _option(key, word, text)
    if "draws" in options and name != "strongest" and options.get("via") == "served":
        raise ValueError(
            f"{text!r}: draws goes with via=mean or via=draw, since via=served takes all "
            "that are served"
        )
    return options


def _option(key: str, word: str, text: str) -> str | float | int:
    if key == "via":
        if word not in ("served", "mean", "draw"):
            raise ValueError(f"{text!r}: via must be served, mean or draw, got {word!r}")
        return word
    value = _number(word, text)
    if key == "c":
        return value
    if value % 1:
        raise ValueError(f"{text!r}: {key} must be a whole number, got {word!r}")
    return int(value)


def _number(word: str, text: str) -> float:
    try:
        value = number(word)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(
            f"{text!r}: {word!r} must be a number greater than 0, such as 0.03 or 4/255"
        )
    return value
