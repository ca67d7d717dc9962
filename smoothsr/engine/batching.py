"""How many draws a forward pass takes at once, and in which memory layout: found by timing the real
ones.

Larger batches are not always faster (caches), and channels_last makes most convolutional networks
faster but not all. So the first draws of each kind of patch try both layouts, then ever larger
batches while that pays; nothing is computed only to be timed. Under
`torch.use_deterministic_algorithms(True)` nothing is timed, so that a result does not depend on the
clock.
"""

import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batching", "Kind", "out_of_memory"]

GAIN = 0.97  # a batch twice as large must take less than this share of the time per draw
FIXED = 8  # draws at once where nothing may be timed,
FIXED_PIXELS = 2**13  # or of small patches as many as have so many pixels
PATIENCE = 3  # doublings without a gain, after which larger batches are not tried
RENEW = 500  # batches after which plans are timed anew, since what else a machine does changes
# Times that each plan is timed, the first including its kernels' preparation; no more, or its best
# would be luck
TRIALS = 3


class Kind(NamedTuple):
    """What the speed of a pass depends on, besides its batch."""

    shape: tuple[int, ...]  # (C,h,w) of a patch
    dtype: torch.dtype
    device: torch.device


class Plan(NamedTuple):
    """One way to run a batch."""

    channels_last: bool
    size: int


class Batching:
    """Remembers, for each kind of patch, the times per draw, in seconds, of every plan tried.

    Args:
        batch_size: Draws in one forward pass; None finds it out. Out of memory halves it, with a
            warning.
        convolutional: Whether channels_last is worth trying.
        most: The most draws that fit into memory at once, where that is known.
    """

    def __init__(
        self, batch_size: int | None, convolutional: bool, most: int | None = None
    ) -> None:
        self.batch_size = min(batch_size, most) if batch_size and most else batch_size
        self.convolutional = convolutional
        self.most = most
        self._seconds: dict[tuple[Kind, bool], dict[Plan, list[float]]] = {}
        self._batches = 0

    def run(
        self,
        kind: Kind,
        draws: range,
        make: Callable[[range], Tensor],
        f: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run the first few of the draws still to do.

        Args:
            kind: Of the patches.
            draws: Indices of the draws still to do.
            make: Makes the noisy patches (b,C,h,w) of a range of draws.
            f: The base predictor.

        Returns:
            f's outputs (b,...), b at least 1 and at most len(draws).
        """
        self._batches += 1
        if self._batches % RENEW == 0 and not torch.are_deterministic_algorithms_enabled():
            self._seconds.clear()
        tried = self._seconds.setdefault((kind, torch.is_grad_enabled()), {})
        while True:
            plan = self._plan(kind, tried, len(draws))
            try:
                batch = make(draws[: plan.size])
                if plan.channels_last:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                start = _clock(batch.device)
                outputs = f(batch)
            except (RuntimeError, MemoryError) as error:
                self._rule_out(plan, tried, error)
                continue
            times = tried.setdefault(plan, [])
            if len(batch) == plan.size and len(times) < TRIALS:
                times.append((_clock(batch.device) - start) / plan.size)
            return outputs

    def _plan(self, kind: Kind, tried: dict[Plan, list[float]], remaining: int) -> Plan:
        if torch.are_deterministic_algorithms_enabled():
            return self._untimed(kind, tried)
        for plan in self._candidates(tried):
            if plan.size <= remaining and len(tried.get(plan, ())) < TRIALS:
                return plan
        known = {
            plan: min(times)
            for plan, times in tried.items()
            if min(times, default=math.inf) < math.inf
        }
        best = min(known, key=known.__getitem__) if known else Plan(False, self.batch_size or 1)
        if self.batch_size:
            return best
        # As many batches as that size takes, but of one length: a short last one would waste its
        # share.
        return best._replace(size=math.ceil(remaining / math.ceil(remaining / best.size)))

    def _candidates(self, tried: dict[Plan, list[float]]) -> list[Plan]:
        """Plans worth trying, given what is known: both layouts, then doubled sizes in the better
        one while they pay.
        """
        size = self.batch_size or 1
        layouts = (
            [Plan(False, size), Plan(True, size)] if self.convolutional else [Plan(False, size)]
        )
        if self.batch_size or any(len(tried.get(plan, ())) < TRIALS for plan in layouts):
            return layouts
        plans = [min(layouts, key=lambda plan: min(tried[plan]))]
        best, since = min(tried[plans[0]]), 0
        while since < PATIENCE and 2 * plans[-1].size <= (self.most or math.inf):
            plans.append(plans[-1]._replace(size=2 * plans[-1].size))
            times = tried.get(plans[-1], ())
            if len(times) < TRIALS or math.inf in times:
                break
            since = 0 if min(times) < GAIN * best else since + 1
            best = min(best, *times)
        return plans

    def _untimed(self, kind: Kind, tried: dict[Plan, list[float]]) -> Plan:
        """The first plan that nothing forbids: channels_last if it may help, and ever smaller
        batches.
        """
        usual = max(FIXED, FIXED_PIXELS // math.prod(kind.shape[1:]))
        size = self.batch_size or min(usual, self.most or usual)
        while True:
            for plan in [Plan(True, size), Plan(False, size)][not self.convolutional :]:
                if math.inf not in tried.get(plan, ()):
                    return plan
            size //= 2

    def _rule_out(self, plan: Plan, tried: dict[Plan, list[float]], error: Exception) -> None:
        """Remember a plan that memory or its layout forbids; any other error goes up."""
        if plan.size > 1 and out_of_memory(error):
            half = plan.size // 2
            warnings.warn(
                f"out of memory with {plan.size} draws at once: going on with {half}",
                RuntimeWarning,
                stacklevel=2,
            )
            if self.batch_size:
                self.batch_size = half
            for channels_last in (False, True):  # the layout makes no difference to memory
                tried[Plan(channels_last, plan.size)] = [math.inf] * TRIALS
        elif (
            not plan.channels_last
        ):  # a network that reshapes with view() fails in this layout; other errors will come again
            raise error
        tried[plan] = [math.inf] * TRIALS


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error is that of a device, or of the computer, whose memory is full."""
    text = str(error)  # the CPU raises plain RuntimeErrors
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "not enough memory" in text or "can't allocate memory" in text
    )


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
