"""Adversarial training: the network is trained on inputs that an attack made against it.

The attacks are those of `smoothsr.attacks`, each in its thriftiest form (keep="last"): one path
from one start, and its last iterate. FGSM costs one gradient a training step, PGD `steps` of them.
What is driven up is the distance of the output from the ground truth.

The second study's training is `AdversarialAugmentation("pgd", 0.02, "rms", steps=5,
step_size=0.02 / 4)`: an l2 budget of sqrt(C*h*w) times .02.

References: I. Goodfellow et al., ICLR 2015; A. Madry et al., "Towards Deep Learning Models
Resistant to Adversarial Attacks", ICLR 2018.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smoothsr.attacks import bim, cw, fgsm, l2_budget, pgd
from smoothsr.engine.compiled import uncompiled
from smoothsr.training.objective import BaseLoss, StepSeed, inner

__all__ = ["AdversarialAugmentation", "AdversarialLoss", "Attack", "TrainingNorm"]

Attack = Literal["fgsm", "bim", "pgd", "cw"]
TrainingNorm = Literal["linf", "l2", "rms"]
ATTACKS: dict[Attack, Callable[..., Tensor]] = {"fgsm": fgsm, "bim": bim, "pgd": pgd, "cw": cw}


class AdversarialAugmentation:
    """Attack the input of a network while it trains.

    `attacked` is the plain function, `AdversarialLoss` an objective around it, `attach` a hook for
    anyone's loop. The network is attacked in eval mode, so that BatchNorm's statistics and dropout
    have no part in it, and left exactly as it was: each module's mode, gradients, buffers.

    Args:
        attack: "fgsm", "bim", "pgd" or "cw".
        eps: Budget of each image in norm, in units of an input in [0, 1]. None, for "cw" only,
            leaves the size of the change to c.
        norm: "linf"; "l2"; or "rms", the l2 norm over the square root of the number of values, so
            that eps is the root mean square change, whatever the size of a patch.
        steps: Gradient steps, each as dear as one of training; 1 for "fgsm".
        step_size: Length of every step, in the units of eps; for "cw" Adam's rate, in units of one
            value. None shrinks it from 2*eps to 0, as `smoothsr.attacks` does.
        c: How much "cw" counts the distance against the size of the change; None: 100.
        seed: Fixes the starts of the hook; None takes a fresh one from the operating system.

    Raises:
        ValueError: If an argument is out of its range, or not one of this attack.

    Example:
        >>> augmentation = AdversarialAugmentation("fgsm", 0.1)
        >>> grey, black = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
        >>> f"{augmentation.attacked(nn.Identity(), grey, black).min():.4f}"
        '0.6000'
    """

    def __init__(
        self,
        attack: Attack = "pgd",
        eps: float | None = 4 / 255,
        norm: TrainingNorm = "linf",
        *,
        steps: int | None = None,
        step_size: float | None = None,
        c: float | None = None,
        seed: int | None = None,
    ) -> None:
        if attack not in ATTACKS:
            raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {attack!r}")
        if norm not in get_args(TrainingNorm):
            raise ValueError(f"norm must be linf, l2 or rms, got {norm!r}")
        if eps is None and attack != "cw":
            raise ValueError(f'{attack} needs a budget eps; "cw" alone does without')
        for name, value in {"eps": eps, "step_size": step_size, "c": c}.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be finite and greater than 0, got {value}")
        steps = (1 if attack == "fgsm" else 5) if steps is None else steps
        if steps < 1 or (attack == "fgsm" and (steps > 1 or step_size is not None)):
            raise ValueError(
                f"fgsm is one step of size eps, and others take at least one, got {attack} with "
                f"steps={steps}, step_size={step_size}"
            )
        if c is not None and attack != "cw":
            raise ValueError(f'c belongs to "cw", got it for {attack!r}')
        self.attack, self.eps, self.norm = attack, eps, norm
        self.steps, self.step_size, self.c = steps, step_size, c
        self.seed = secrets.randbits(32) if seed is None else seed

    def attacked(
        self, model: nn.Module, lr: Tensor, hr: Tensor | None = None, at: StepSeed | None = None
    ) -> Tensor:
        """Return the attacked input, (B,C,h,w) in [0, 1], without a graph.

        Args:
            model: The network, or DataParallel or DistributedDataParallel around it, whose inside
                is attacked.
            lr: (B,C,h,w). What lies outside of [0, 1], as bicubic and noise leave it by a hair, is
                clipped first, and the budget counts from there.
            hr: What the output is driven away from, (B,C,H,W); None: the output for lr.
            at: Fixes the random start, which is the same for all images of a step; None takes a
                fresh one.

        Raises:
            ValueError: If the output carries no gradient, or shapes don't fit.
        """
        lr, network = lr.detach().clamp(0, 1), inner(model)
        seed = secrets.randbits(32) if at is None else at.seed
        as_it_was = uncompiled(network)  # eval mode would be compiled besides
        with _in_eval_mode(network), _uncached_autocast(lr.device), as_it_was:
            return ATTACKS[self.attack](
                network, lr, hr, seed=seed, keep="last", **self._options(lr)
            )

    def _options(self, lr: Tensor) -> dict[str, Any]:
        """Return what the attack takes, in its units."""
        unit = l2_budget(1, lr) if self.norm == "rms" else 1.0
        options: dict[str, Any] = {"norm": "linf" if self.norm == "linf" else "l2"}
        options["eps"] = None if self.eps is None else self.eps * unit
        if self.attack != "fgsm":
            options["steps"] = self.steps
        if self.step_size is not None:
            options["step_size"] = self.step_size * (1 if self.attack == "cw" else unit)
        if self.c is not None:
            options["c"] = self.c
        return options

    def attach(self, model: nn.Module) -> RemovableHandle:
        """Hook onto model, and return the handle whose remove() undoes it.

        A hook doesn't see the ground truth: the output is driven away from what it is without the
        attack.
        """
        return model.register_forward_pre_hook(self)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not module.training:  # validation, and the attack's own calls
            return inputs
        self.seed += 1
        return (self.attacked(module, inputs[0], at=StepSeed(self.seed)), *inputs[1:])

    def __repr__(self) -> str:
        return f"AdversarialAugmentation({self.attack!r}, {self.eps}, {self.norm!r})"


class AdversarialLoss(nn.Module):
    """The loss of the output for an attacked input: an objective, in the place of
    `criterion(model(lr), hr)`.

    Args:
        base: Maps (sr, hr) to one number.
        augmentation: The attack.
    """

    def __init__(self, base: BaseLoss, augmentation: AdversarialAugmentation) -> None:
        super().__init__()
        self.base, self.augmentation = base, augmentation

    def forward(
        self, model: nn.Module, lr: Tensor, hr: Tensor, at: StepSeed | None = None
    ) -> Tensor:
        """Compute the loss of a batch: lr (B,C,h,w) in [0, 1], hr (B,C,H,W). `at` fixes the
        random start.
        """
        return self.base(model(self.augmentation.attacked(model, lr, hr, at)), hr)

    def extra_repr(self) -> str:
        """Name the attack."""
        return repr(self.augmentation)


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and afterwards each of its modules into its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _uncached_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keep autocast as it is, but for its store of converted weights: what the attack converts
    without a gradient would be used again by the training step, and leave the weights without one.
    """
    kind = device.type
    return torch.autocast(
        kind,
        torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
