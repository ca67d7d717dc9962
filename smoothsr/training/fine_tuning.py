"""A fine-tune that may be cut off at any time.

Patches and noise of a step are pure functions of the seed and the step's number. So all there is to
keep are weights, their moving average, the optimizer, the objective's own state, as a
discriminator's, and the curves: a run that was killed and goes on from its last checkpoint ends
with the weights, to the bit, of one that ran through (on a CPU; elsewhere, as far as the device's
arithmetic repeats).

Processes of torchrun share each batch. Their gradients are averaged after the backward pass, which
holds for objectives with gradients of gradients too, and for networks of which a part is not used.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from smoothsr.training.objective import StepSeed
from smoothsr.training.patches import Patches
from smoothsr.training.processes import averaged

__all__ = ["DivergedError", "FineTuning", "Schedule"]

WARM_UP = 0.02  # of all steps, in which the rate rises
CLIP = 1.0  # largest norm of a gradient
LOSSES = 200  # points of the loss curve, each a mean


class DivergedError(ValueError):
    """A loss that is no number any more."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Args:
        steps: In all.
        batch: Images of a step, of all processes together.
        rate: Adam's, at its peak; it rises linearly and falls to 0 along a half cosine.
        decay: Of the weights' moving average, each step; less in the first steps, so that a short
            run is not averaged with its start.
        precision: Of the network's arithmetic under autocast.
    """

    steps: int
    batch: int = 8
    rate: float = 1e-4
    decay: float = 0.999
    precision: torch.dtype = torch.float32

    def rate_at(self, step: int) -> float:
        """Return the rate of a step, numbered from 0.

        Example:
            >>> schedule = Schedule(steps=100, rate=1.0)
            >>> [round(schedule.rate_at(step), 3) for step in (0, 1, 50, 99)]
            [0.5, 1.0, 0.5, 0.0]
        """
        rise = max(1.0, WARM_UP * self.steps)
        return self.rate * min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * step / self.steps))


@dataclass
class Curves:
    """What is drawn of a run: points (step, value)."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    scores: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class FineTuning:
    """A network in training.

    Args:
        model: Maps (B,C,h,w) to (B,C,s*h,s*w); trained in place.
        objective: What is descended, a module that is an `Objective`. Its own parameters, such as
            a metric network's or a discriminator's, are not trained here.
        patches: Where batches come from; its seed is that of the noise too.
        schedule: How long and how fast.
    """

    def __init__(
        self, model: nn.Module, objective: nn.Module, patches: Patches, schedule: Schedule
    ) -> None:
        self.model, self.objective = model, objective
        self.patches, self.schedule = patches, schedule
        self.step, self.seconds, self.curves = 0, 0.0, Curves()
        self.device = next(model.parameters()).device
        parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, schedule.rate)
        average = partial(_average, schedule.decay)
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        half = schedule.precision == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self._losses: list[float] = []

    @property
    def network(self) -> nn.Module:
        """What is served: the moving average of the weights, in eval mode."""
        return self.averaged.module.eval()

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self.schedule.steps

    def learn(self) -> float:
        """Take one step, and return its loss, the mean over processes.

        Raises:
            DivergedError: If the loss is no number.
        """
        began = time.monotonic()
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = self.schedule.rate_at(self.step)
        self.optimizer.zero_grad()
        loss = self._descend()
        self.averaged.update_parameters(self.model)
        self.step += 1
        self._note(loss)
        self.seconds += time.monotonic() - began
        return loss

    def _descend(self) -> float:
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        share = self.schedule.batch // ranks
        numbers = range(rank * share, (rank + 1) * share)
        lr, hr = (images.to(self.device) for images in self.patches.batch(self.step, numbers))
        lr = lr.contiguous(memory_format=torch.channels_last)
        seed = self.patches.seed * 2**32 + self.step
        with self._seeded(seed, rank), self._autocast():
            loss = self.objective(self.model, lr, hr, StepSeed(seed, numbers.start))
        value = averaged(loss.detach().float()).item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {self.step + 1}: it has diverged")
        self.scaler.scale(loss).backward()
        # Before the scaler looks for an overflow: where one process skips its step, all have to.
        for weight in self.model.parameters():
            if weight.grad is not None:
                averaged(weight.grad)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    def _autocast(self) -> torch.autocast:
        precision = self.schedule.precision
        # Without its cache of cast weights: those of an attack's passes would carry no gradient.
        return torch.autocast(
            self.device.type, precision, enabled=precision != torch.float32, cache_enabled=False
        )

    @contextmanager
    def _seeded(self, seed: int, rank: int) -> Iterator[None]:
        """Let what a network draws itself, as dropout does, depend on the step alone; the global
        random state is put back.
        """
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices, device_type=self.device.type):
            torch.manual_seed(seed + rank)
            yield

    def _note(self, loss: float) -> None:
        """Add to the curve of the loss, where enough steps have passed."""
        self._losses.append(loss)
        if len(self._losses) >= max(1, self.schedule.steps // LOSSES) or self.done:
            self.curves.loss.append((self.step, sum(self._losses) / len(self._losses)))
            self._losses = []

    def score(self, scores: Callable[[nn.Module], dict[str, float]]) -> None:
        """Add what `scores` finds of the network as it is served to the curves."""
        for name, value in scores(self.network).items():
            self.curves.scores.setdefault(name, []).append((self.step, value))

    def state(self) -> dict[str, Any]:
        """Return all that a run goes on from."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self._losses,
            "curves": vars(self.curves),
            "objective": self.objective.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step, self.seconds, self._losses = state["step"], state["seconds"], state["losses"]
        self.curves = Curves(**state["curves"])
        for name in ("model", "averaged", "optimizer", "scaler", "objective"):
            getattr(self, name).load_state_dict(state[name])


@torch.no_grad()
def _average(decay: float, kept: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
    """Move an average of tensors of one kind towards the weights, after so many moves before."""
    if kept[0].is_floating_point():
        decay = min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(kept, weights, 1 - decay)
    else:  # counters
        for own, other in zip(kept, weights, strict=True):
            own.copy_(other)
