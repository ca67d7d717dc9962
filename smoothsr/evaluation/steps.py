"""The steps that a condition is a chain of: degradations and attacks, each with its numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from smoothsr import attacks
from smoothsr.attacks.views import DRAWS, View, views
from smoothsr.attacks.whole_steps import whole_steps
from smoothsr.engine.lattice import snapped
from smoothsr.evaluation import degradations
from smoothsr.smoothing import SmoothedSR

__all__ = ["ATTACKS", "DEGRADATIONS", "OPTIONS", "Attack", "AttackNorm", "Degradation"]

Function = Callable[..., Tensor]
AttackNorm = Literal["linf", "l2", "rms"]
DEGRADATIONS: dict[str, Function] = {
    "noise": degradations.noise,
    "jpeg": degradations.jpeg,
    "blur": degradations.blur,
    "resize": degradations.resize,
}
ATTACKS: dict[str, Function] = {
    "fgsm": attacks.fgsm,
    "bim": attacks.bim,
    "pgd": attacks.pgd,
    "cw": attacks.cw,
}
OPTIONS = {  # all are whole numbers, but for via and c
    "fgsm": ("via", "draws"),
    "bim": ("via", "draws", "steps"),
    "pgd": ("via", "draws", "steps", "restarts"),
    "cw": ("via", "draws", "steps", "c"),
    "strongest": ("draws", "steps", "restarts", "c", "evaluations"),
}
EVALUATIONS = 4  # served outputs by which "strongest" judges a result


@dataclass(frozen=True)
class Degradation:
    """One degradation and its strength."""

    name: str
    strength: float

    def apply(self, lr: Tensor, seed: int) -> Tensor:
        """Degrade lr (1,C,h,w); the seed is that of the noise."""
        seeded = {"seed": seed} if self.name == "noise" else {}
        return DEGRADATIONS[self.name](lr, self.strength, **seeded)

    def in_whole_steps(self, _lr: Tensor, degraded: Tensor) -> Tensor:
        """Round what became of lr to what a file of 8 bits holds."""
        return snapped(degraded)


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: Of OPTIONS.
        eps: Budget in units of lr.
        norm: Of the budget; "rms" is an l2 budget of that root mean square change.
        bare: Whether it aims at the bare network inside a smoother.
        options: Of OPTIONS[name].
    """

    name: str
    eps: float
    norm: AttackNorm
    bare: bool
    options: dict[str, Any] = field(default_factory=dict)

    def apply(self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int) -> Tensor:
        """Attack lr (1,C,h,w).

        Args:
            lr: In [0, 1].
            reference: What the output is driven away from, (1,C,H,W); None: the clean output.
            model: The bare network or a SmoothedSR.
            seed: Fixes starts and the attacker's noise.
        """
        if self.bare and isinstance(model, SmoothedSR):
            model = model.model
        run = self._strongest if self.name == "strongest" else self._through_one_view
        return run(lr, reference, model, seed % 2**63)

    def in_whole_steps(self, lr: Tensor, attacked: Tensor) -> Tensor:
        """Round what became of lr (1,C,h,w) to what a file of 8 bits holds, within the budget."""
        start = lr.cpu().double()  # not every device has float64
        change = whole_steps(attacked.cpu().double() - start, **self._budget(lr))
        return snapped(start + change).to(lr)

    def _through_one_view(
        self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int
    ) -> Tensor:
        draws = self.options.get("draws", DRAWS)
        seen = views(model, lr, draws, seed)
        via: View = self.options.get("via", "mean")
        view = via if via in seen else "served"  # a network that is not smoothed has no noise
        count = draws if view == "draw" else 1
        attack = self._function(self.name)
        return attack(seen[view], lr, reference, draws=count, seed=seed, **self._budget(lr))

    def _strongest(
        self, lr: Tensor, reference: Tensor | None, model: nn.Module, seed: int
    ) -> Tensor:
        return attacks.strongest(
            model,
            lr,
            reference,
            draws=self.options.get("draws") if isinstance(model, SmoothedSR) else 1,
            seed=seed,
            attacks=[self._function(name) for name in ATTACKS],
            adaptive=[self._function("pgd")],
            evaluations=self.options.get("evaluations", EVALUATIONS),
            **self._budget(lr),
        )

    def _function(self, name: str) -> Function:
        """Return the attack of a name, with those of the options that concern it."""
        own = {*OPTIONS[name]} & {*self.options} - {"via", "draws"}
        return partial(ATTACKS[name], **{key: self.options[key] for key in own})

    def _budget(self, lr: Tensor) -> dict[str, Any]:
        if self.norm == "rms":
            return {"eps": attacks.l2_budget(self.eps, lr), "norm": "l2"}
        return {"eps": self.eps, "norm": self.norm}
