"""The methods of `smoothsr finetune`: which objective each is, with the numbers that it takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from smoothsr.training.adversarial import (
    AdversarialAugmentation,
    AdversarialLoss,
    Attack,
    TrainingNorm,
)
from smoothsr.training.consistency import ConsistencyPenalty, Kind
from smoothsr.training.noise import NoisyLoss, PlainLoss
from smoothsr.training.objective import BaseLoss
from smoothsr.training.penalty import GradientPenalty
from smoothsr.training.smoothed import SmoothedLoss

__all__ = ["METHODS", "MRS_SIGMAS", "TAKES", "Numbers", "objective"]

MRS_SIGMAS = (0.03, 0.2)  # CertSR's best pair


@dataclass(frozen=True)
class Numbers:
    """What methods are told; each takes what concerns it.

    Args:
        sigma: That the network will be smoothed with.
        sigmas: Of mrs.
        draws: Of smoothed and consistency.
        weight: Of a penalty; None: the method's own.
        kind: Of the consistency penalty.
        tile: Of its "top", in output pixels.
        eps: Budget of an attack, in units of an input in [0, 1].
        norm: Of the budget; "rms" is an l2 budget of that root mean square change.
        steps: Of an attack; None: its own.
    """

    sigma: float = 0.05
    sigmas: Sequence[float] = MRS_SIGMAS
    draws: int = 4
    weight: float | None = None
    kind: Kind = "trace"
    tile: int = 16
    eps: float = 4 / 255
    norm: TrainingNorm = "linf"
    steps: int | None = None

    def penalty(self, usual: float) -> ConsistencyPenalty:
        """Make the consistency penalty, of the usual weight unless one is given."""
        return ConsistencyPenalty(
            usual if self.weight is None else self.weight, self.kind, self.tile
        )


Method = Callable[[BaseLoss, Numbers], nn.Module]


def _plain(base: BaseLoss, _: Numbers) -> nn.Module:
    return PlainLoss(base)


def _noise(base: BaseLoss, numbers: Numbers) -> nn.Module:
    """Noise from none to twice what the network will be smoothed with."""
    return NoisyLoss(base, (0.0, 2 * numbers.sigma))


def _mrs(base: BaseLoss, numbers: Numbers) -> nn.Module:
    return SmoothedLoss(base, numbers.sigmas, draws=2)


def _smoothed(_: BaseLoss, numbers: Numbers) -> nn.Module:
    """The squared error of the expected output, which is what smoothing by the mean serves."""
    penalty = numbers.penalty(0.05)
    return SmoothedLoss(
        nn.MSELoss(), [numbers.sigma], numbers.draws, "expectation", penalty=penalty
    )


def _consistency(base: BaseLoss, numbers: Numbers) -> nn.Module:
    penalty = numbers.penalty(0.7)
    return SmoothedLoss(base, [numbers.sigma], numbers.draws, "single", penalty=penalty)


def _adversarial(attack: Attack, base: BaseLoss, numbers: Numbers) -> nn.Module:
    budget = (numbers.eps, numbers.norm)
    augmentation = AdversarialAugmentation(attack, *budget, steps=numbers.steps)
    return AdversarialLoss(base, augmentation)


def _penalty(base: BaseLoss, numbers: Numbers) -> nn.Module:
    return GradientPenalty(base, 1e-3 if numbers.weight is None else numbers.weight)


METHODS: Mapping[str, Method] = {
    "plain": _plain,
    "noise": _noise,
    "mrs": _mrs,
    "smoothed": _smoothed,
    "consistency": _consistency,
    "adv-fgsm": partial(_adversarial, "fgsm"),
    "adv-bim": partial(_adversarial, "bim"),
    "adv-pgd": partial(_adversarial, "pgd"),
    "adv-cw": partial(_adversarial, "cw"),
    "penalty": _penalty,
}

_OF_DRAWS = ("sigma", "draws", "weight", "kind", "tile")
_OF_ATTACKS = ("eps", "norm", "steps")
TAKES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "noise": ("sigma",),
    "mrs": ("sigmas",),
    "smoothed": _OF_DRAWS,
    "consistency": _OF_DRAWS,
    "adv-fgsm": _OF_ATTACKS,
    "adv-bim": _OF_ATTACKS,
    "adv-pgd": _OF_ATTACKS,
    "adv-cw": _OF_ATTACKS,
    "penalty": ("weight",),
}
"""The numbers that each method is told."""


def objective(method: str, base: BaseLoss, numbers: Numbers) -> nn.Module:
    """Return the objective of a method.

    Args:
        method: Of METHODS.
        base: Maps (sr, hr) to one number; "smoothed" has its own, the squared error.
        numbers: What the method is told.

    Raises:
        ValueError: If a number is out of its range.
    """
    return METHODS[method](base, numbers)
