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
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smoothsr import attacks
from smoothsr.attacks.gradient_memory import gradient_bytes, within_memory
from smoothsr.evaluation import degradations
from smoothsr.evaluation.numbers import number
from smoothsr.smoothing import SmoothedSR, variant

__all__ = ["Condition", "parse", "seed_of", "serve"]

Function = Callable[..., Tensor]
DEGRADATIONS: dict[str, Function] = {
    name: getattr(degradations, name) for name in ("noise", "jpeg", "blur", "resize")
}
ATTACKS: dict[str, Function] = {
    name: getattr(attacks, name) for name in ("fgsm", "bim", "pgd", "cw")
}
OPTIONS = {  # all are whole numbers, but for via and c
    "fgsm": ("via", "draws"),
    "bim": ("via", "draws", "steps"),
    "pgd": ("via", "draws", "steps", "restarts"),
    "cw": ("via", "draws", "steps", "c"),
    "strongest": ("draws", "steps", "restarts", "c", "evaluations"),
}
DRAWS = 5  # of the attacker's own, where he averages
EVALUATIONS = 4  # served outputs by which "strongest" judges a result


@dataclass(frozen=True)
class Degradation:
    """One degradation and its strength."""

    name: str
    strength: float

    def apply(self, lr: Tensor, seed: int) -> Tensor:
        """Degrade lr (1,C,h,w)."""
        seeded = {"seed": seed} if self.name == "noise" else {}
        return DEGRADATIONS[self.name](lr, self.strength, **seeded)


@dataclass(frozen=True)
class Attack:
    """One attack: its name, budget, norm, aim and options."""

    name: str
    eps: float
    norm: str
    bare: bool
    options: dict[str, Any] = field(default_factory=dict)

    def apply(self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int) -> Tensor:
        """Attack lr (1,C,h,w)."""
        if self.bare and isinstance(model, SmoothedSR):
            model = model.model
        draws = self.options.get("draws", DRAWS)
        ways = views(model, lr, draws, seed)
        eps, norm = (
            (attacks.l2_budget(self.eps, lr), "l2") if self.norm == "rms" else (self.eps, self.norm)
        )

        def attack(name: str, way: str, seed: int) -> Tensor:
            own = {
                key: value
                for key, value in self.options.items()
                if key in OPTIONS[name] and key not in ("via", "draws")
            }
            own |= {
                "eps": eps,
                "norm": norm,
                "draws": draws if way == "draw" else 1,
                "seed": seed % 2**63,
            }
            return ATTACKS[name](ways[way], lr, reference, **own)

        if self.name != "strongest":
            way = self.options.get("via", "mean")
            return attack(self.name, way if way in ways else "served", seed)
        tries = [
            *((name, "bare") for name in ATTACKS),
            *(("pgd", way) for way in ways if way != "bare"),
        ]
        # Transfer attacks as they are by themselves, so that "strongest" includes them; the others
        # from a start of their own each.
        seeds = [seed if way == "bare" else seed + place for place, (_, way) in enumerate(tries)]
        results = [
            lr,
            *(attack(name, way, start) for (name, way), start in zip(tries, seeds, strict=True)),
        ]
        return attacks.worst(
            ways["served"],
            lr,
            results,
            reference,
            evaluations=self.options.get("evaluations", EVALUATIONS),
        )


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

    def apply(self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int) -> Tensor:
        """Return what becomes of an input.

        Args:
            lr: (1,C,h,w) in [0, 1].
            reference: What attacks drive the output away from, (1,C,H,W), such as the ground truth;
                None: the clean output.
            model: The bare network or a SmoothedSR, whose seed is neither read nor changed.
            seed: Fixes everything random; same for all models, so that they meet the same noise.

        Returns:
            (1,C,h,w) in [0, 1].
        """
        # A seed each, or noise that is added twice would be the same.
        for own, step in enumerate(self.steps, seed):
            if isinstance(step, Degradation):
                lr = step.apply(lr, own)
            else:
                lr = step.apply(lr, reference, model, own)
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


def serve(model: nn.Module, lr: Tensor, seed: int) -> Tensor:
    """Run the bare network, or a SmoothedSR with the noise of a seed: (B,C,h,w) to (B,C,H,W) in [0,
    1], differentiable.
    """
    return variant(model, seed=seed)(lr) if isinstance(model, SmoothedSR) else model(lr).clamp(0, 1)


def views(
    model: nn.Module, lr: Tensor, draws: int, seed: int
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways in which an attacker of lr can see a model, with noise of his own that is
    fresh at every call.

    They are "served" and "bare", the network by itself, and for a smoother the rest of `via` as
    well.
    """
    seeds = itertools.count(seed_of(seed, "attacker"))
    models = {"bare": model, "served": model}
    if isinstance(model, SmoothedSR):
        smoothers = {
            "served": model,
            "mean": variant(model, n=draws, agg="mean"),
            "draw": variant(model, n=1, agg="median"),
        }
        each = gradient_bytes(model, lr)
        models = {"bare": model.model} | {
            way: within_memory(smoother, lr, each) for way, smoother in smoothers.items()
        }
    return {way: partial(_seen, seen, seeds) for way, seen in models.items()}


def _seen(model: nn.Module, seeds: Iterator[int], lr: Tensor) -> Tensor:
    return serve(model, lr, next(seeds))


def seed_of(*words: object) -> int:
    """Derive a seed of 62 bits from words and numbers.

    Example:
        >>> seed_of(0, "baby") == seed_of(0, "baby") != seed_of(0, "bird")
        True
    """
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big") >> 2


def _step(text: str) -> Degradation | Attack:
    body, at, aim = text.partition("@")
    name, *rest = body.split(":")
    if name not in DEGRADATIONS and name not in OPTIONS:
        raise ValueError(
            f'unknown condition {name!r} in {text!r}: use "none" alone, or of '
            f"{', '.join([*DEGRADATIONS, *OPTIONS])}"
        )
    plain = [part for part in rest if "=" not in part]
    norm = plain.pop(0) if len(plain) == 2 and name in OPTIONS else "linf"
    if len(plain) != 1 or norm not in ("linf", "l2", "rms"):
        form = (
            "NAME:EPS or NAME:NORM:EPS, NORM being linf, l2 or rms"
            if name in OPTIONS
            else f"{name}:STRENGTH"
        )
        raise ValueError(f"{text!r} must be {form}, such as pgd:4/255 or noise:0.03")
    strength = _number(plain[0], text)
    if name in DEGRADATIONS:
        if at or len(rest) > 1:
            raise ValueError(f'{text!r}: a degradation has no options and no "@"')
        degradation = Degradation(name, strength)
        if name in ("noise", "jpeg"):  # a strength out of range is told now, not at the first image
            degradation.apply(torch.zeros(1, 1, 1, 1), 0)
        return degradation
    if norm != "l2" and strength > 1:
        raise ValueError(
            f"{text!r}: eps must be at most 1, as values are; got {strength:g}: write 4/255, not 4"
        )
    if at and aim != "bare":
        raise ValueError(f'{text!r}: what follows "@" must be bare, got {aim!r}')
    return Attack(
        name, strength, norm, bool(at), _options(name, [part for part in rest if "=" in part], text)
    )


def _options(name: str, parts: list[str], text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in parts:
        key, _, word = part.partition("=")
        if key not in OPTIONS[name] or key in options:
            raise ValueError(
                f"{text!r}: {name} takes {', '.join(OPTIONS[name])}, each once, got {part}"
            )
        if key == "via":
            if word not in ("served", "mean", "draw"):
                raise ValueError(f"{text!r}: via must be served, mean or draw, got {word!r}")
            options[key] = word
        else:
            value = _number(word, text)
            if key != "c" and value % 1:
                raise ValueError(f"{text!r}: {key} must be a whole number, got {word!r}")
            options[key] = value if key == "c" else int(value)
    if "draws" in options and name != "strongest" and options.get("via") == "served":
        raise ValueError(
            f"{text!r}: draws goes with via=mean or via=draw, since via=served takes all "
            "that are served"
        )
    return options


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
