"""Conditions under which a network is measured, as a user writes them: "none", "blur:1+noise:0.02+jpeg:60", "pgd:4/255@bare".

A condition is a chain of degradations and attacks, joined by "+". An attack is `NAME:EPS`, with the norm before eps
("pgd:l2:0.5", or "pgd:rms:0.01" for an l2 budget of that root mean square change) and options behind it
("pgd:4/255:steps=100:restarts=5"). It aims at whatever is being measured; "@bare" aims it at the network inside the smoother
instead, which is a transfer attack.

An attacker of a smoother knows everything but the noise to come, so he averages over noise of his own (A. Athalye et al., ICML
2018, expectation over transformation). There are three ways to do that, `via`: "served", through the statistic that is served,
all its n draws; "mean", through the mean of a few draws; and "draw", the mean loss of single draws. "strongest" takes the worst of
all of these and of what transfers from the bare network.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from smoothsr import attacks, degradations
from smoothsr.smoothing import SmoothedSR

__all__ = ["Condition", "parse", "seed_of", "serve"]

Function = Callable[..., Tensor]
DEGRADATIONS: dict[str, Function] = {name: getattr(degradations, name) for name in ("noise", "jpeg", "blur", "resize")}
ATTACKS: dict[str, Function] = {name: getattr(attacks, name) for name in ("fgsm", "bim", "pgd", "cw")}
OPTIONS: dict[str, dict[str, type]] = {
    "fgsm": {"draws": int, "via": str},
    "bim": {"draws": int, "via": str, "steps": int},
    "pgd": {"draws": int, "via": str, "steps": int, "restarts": int},
    "cw": {"draws": int, "via": str, "steps": int, "c": float},
    "strongest": {"draws": int, "steps": int, "evaluations": int},
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
        options = dict(self.options)
        draws, via = options.pop("draws", DRAWS), options.pop("via", "served")
        evaluations = options.pop("evaluations", EVALUATIONS)
        options |= {"eps": self.eps, "norm": self.norm, "seed": seed % 2**63}
        if self.norm == "rms":
            options |= {"eps": attacks.l2_budget(self.eps, lr), "norm": "l2"}
        if self.bare and isinstance(model, SmoothedSR):
            model = model.model
        ways = views(model, draws, seed)

        def attack(name: str, way: str) -> Tensor:
            known = {key: value for key, value in options.items() if key != "steps" or name != "fgsm"}
            return ATTACKS[name](ways[way], lr, reference, draws=draws if way == "draw" else 1, **known)

        if self.name != "strongest":
            return attack(self.name, via if via in ways else "served")
        results = [lr, *(attack(name, "bare") for name in ATTACKS)]
        if isinstance(model, SmoothedSR):
            results += [attack("pgd", way) for way in ways if way != "bare"]
        return attacks.worst(ways["served"], lr, results, reference, evaluations=evaluations)


@dataclass(frozen=True)
class Condition:
    """A chain of degradations and attacks; `parse` makes it."""

    text: str
    steps: tuple[Degradation | Attack, ...]

    @property
    def adaptive(self) -> bool:
        """Whether the result depends on the smoother, and not on the image and the bare network alone."""
        return any(isinstance(step, Attack) and not step.bare for step in self.steps)

    def apply(self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int) -> Tensor:
        """Return what becomes of an input.

        Args:
            lr: (1,C,h,w) in [0, 1].
            reference: What attacks drive the output away from, (1,C,H,W), such as the ground truth; None: the clean output.
            model: The bare network or a SmoothedSR, whose seed is neither read nor changed.
            seed: Fixes everything random; same for all models, so that they meet the same noise.

        Returns:
            (1,C,h,w) in [0, 1].
        """
        for step in self.steps:
            lr = step.apply(lr, seed) if isinstance(step, Degradation) else step.apply(lr, reference, model, seed)
        return lr


def parse(text: str) -> Condition:
    """Parse a condition.

    Raises:
        ValueError: If a name is unknown, or a number or an option is missing, wrong or too many.

    Example:
        >>> parse("jpeg:50+pgd:l2:0.5:steps=9@bare").steps
        (Degradation(name='jpeg', strength=50.0), Attack(name='pgd', eps=0.5, norm='l2', bare=True, options={'steps': 9}))
    """
    if text in ("none", "clean"):
        return Condition(text, ())
    return Condition(text, tuple(_step(part) for part in text.split("+")))


def serve(model: nn.Module, lr: Tensor, seed: int) -> Tensor:
    """Run the bare network, or a SmoothedSR with the noise of a seed: (B,C,h,w) to (B,C,H,W) in [0, 1], differentiable."""
    if not isinstance(model, SmoothedSR):
        return model(lr).clamp(0, 1)
    before, model.seed = model.seed, seed
    try:
        return model(lr)
    finally:
        model.seed = before


def views(model: nn.Module, draws: int, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the ways in which an attacker can see a model: for a smoother by all of `via`, with noise of his own."""
    seeds = itertools.count(seed_of(seed, "attacker"))
    models = {"bare": model, "served": model}
    if isinstance(model, SmoothedSR):
        options: Any = {"tile": model.tile, "halo": model.halo, "denoiser": model.denoiser}
        models["bare"] = model.model
        models["mean"] = SmoothedSR(model.model, model.sigma, draws, "mean", **options)
        models["draw"] = SmoothedSR(model.model, model.sigma, 1, **options)
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
    names = [*DEGRADATIONS, *OPTIONS]
    if name not in names:
        raise ValueError(f'unknown condition {name!r} in {text!r}: use "none", or of {", ".join(names)}')
    pairs = [part.split("=", 1) for part in rest if "=" in part]
    plain = [part for part in rest if "=" not in part]
    norm = plain.pop(0) if len(plain) == 2 and name in OPTIONS else "linf"
    if len(plain) != 1 or norm not in ("linf", "l2", "rms"):
        form = "NAME:EPS or NAME:NORM:EPS, NORM being linf, l2 or rms" if name in OPTIONS else f"{name}:STRENGTH"
        raise ValueError(f"{text!r} must be {form}, such as pgd:4/255 or noise:0.03")
    strength = _number(plain[0], text)
    if name in DEGRADATIONS:
        if at or pairs:
            raise ValueError(f'{text!r}: a degradation has no options and no "@"')
        return Degradation(name, strength)
    if at and aim != "bare":
        raise ValueError(f'{text!r}: what follows "@" must be bare, got {aim!r}')
    options = {}
    for key, value in pairs:
        if key not in OPTIONS[name] or (key == "via" and value not in ("served", "mean", "draw")):
            raise ValueError(f"{text!r}: {name} takes {', '.join(OPTIONS[name])} (via: served, mean or draw), got {key}={value}")
        try:
            options[key] = OPTIONS[name][key](value)
        except ValueError as error:
            raise ValueError(f"{text!r}: {key} must be a number, got {value!r}") from error
    return Attack(name, strength, norm, bool(at), options)


def _number(word: str, text: str) -> float:
    top, slash, bottom = word.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(word)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r}: {word!r} must be a number greater than 0, such as 0.03 or 4/255")
    return value
