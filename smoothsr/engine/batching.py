"""How many draws a forward pass takes at once, and in which memory layout: found by timing the real
ones.

Larger batches are not always faster (caches), and channels_last makes most convolutional networks
faster but not all. So the first draws of each kind of patch try both layouts, one by one or a few
small patches at once, then ever larger batches while that pays; nothing is computed only to be
timed. Under `torch.use_deterministic_algorithms(True)` nothing is timed, so that a result does not
depend on the clock.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batching", "Kind", "clock", "out_of_memory"]

GAIN = 0.97  # a batch twice as large must take less than this share of the time per draw
PIXELS = 2**12  # so many at once, of small patches, before anything is known of them
FIXED = 8  # draws at once where nothing may be timed, or more of small patches
PATIENCE = 3  # doublings without a gain, after which larger batches are not tried
FAR = 1.5  # times as slow as the best: larger batches are not tried either
RENEW = 1000  # batches after which plans are timed anew, since what else a machine does changes
TRIALS = 3  # times that a plan is timed at first, once it is warm
KEPT = 9  # times of a plan that are kept; the newest ones, so that a lucky trial is found out
LARGEST = 2**17  # pixels that are run at a time, beyond which a processor's caches are full

_LOCK = threading.RLock()  # of what threads side by side find out together


class Kind(NamedTuple):
    """What the speed of a pass depends on, besides its batch."""

    shape: tuple[int, ...]  # (C,h,w) of a patch
    dtype: torch.dtype
    device: torch.device
    among: int = 1  # passes side by side


class Plan(NamedTuple):
    """One way to run a batch."""

    channels_last: bool
    size: int


class Trials:
    """What is known of a kind of patches.

    Attributes:
        first: Draws at once in the first trials.
        seconds: The last times per draw of every plan tried.
        failed: Plans that can't be run.
        warm: Threads that have run a plan before: the first time takes longer, since kernels are
            prepared and memory is asked for.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.seconds: dict[Plan, list[float]] = {}
        self.failed: set[Plan] = set()
        self.warm: set[tuple[int, Plan]] = set()

    def add(self, plan: Plan, seconds: float) -> None:
        """Take note of a time per draw, but for the first of a thread."""
        this = (threading.get_ident(), plan)
        if this not in self.warm:
            self.warm.add(this)
            return
        times = self.seconds.setdefault(plan, [])
        times.append(seconds)
        del times[:-KEPT]

    def renew(self) -> None:
        """Forget what may have changed, which is not what threads have prepared."""
        self.seconds.clear()
        self.failed.clear()

    def settled(self, plan: Plan) -> bool:
        """Whether enough is known of a plan."""
        return plan in self.failed or len(self.seconds.get(plan, ())) >= TRIALS

    def time(self, plan: Plan) -> float:
        """How long a plan takes for a draw, once it has a time: endlessly, if it failed."""
        return math.inf if plan in self.failed else median(self.seconds[plan])

    def fastest(self, most: float) -> Plan | None:
        """Of the plans of up to so many draws that are about as fast as the fastest, the one of the
        smallest batches, which ask for less memory; among many trials of about one speed, the
        fastest is so by luck. None, if none is known.
        """
        known = [plan for plan in self.seconds if plan.size <= most and plan not in self.failed]
        if not known:
            return None
        least = min(map(self.time, known))
        close = [plan for plan in known if GAIN * self.time(plan) <= least]
        return min(close, key=lambda plan: (plan.size, self.time(plan)))


class Batching:
    """Remembers, for each kind of patch, the times per draw, in seconds, of every plan tried.

    Args:
        batch_size: Draws in one forward pass; None finds it out. Out of memory halves it, with a
            warning.
        convolutional: Whether channels_last is worth trying.
        most: The most draws that fit into memory at once, where that is known; may be changed.
        steady: Whether batches are all of one size and layout, chosen without trials: for networks
            that are compiled for each.
    """

    def __init__(
        self,
        batch_size: int | None,
        convolutional: bool,
        most: int | None = None,
        steady: bool = False,
    ) -> None:
        self.batch_size = min(batch_size, most) if batch_size and most else batch_size
        self.convolutional = convolutional
        self.most = most
        self.steady = steady
        self._trials: dict[tuple[Kind, bool, bool], Trials] = {}
        self._batches = 0
        self.draws = 0

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
        key = (kind, torch.is_grad_enabled(), self._untimed)
        while True:
            with _LOCK:
                trials = self._known(key, len(draws))
                plan = self._plan(kind, trials, len(draws))
            exact = self.batch_size or torch.are_deterministic_algorithms_enabled()
            size = plan.size if exact else _even(plan.size, len(draws))
            try:
                batch = make(draws[:size])
                if plan.channels_last:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                start = clock(batch.device)
                outputs = f(batch)
            except (RuntimeError, MemoryError) as error:
                with _LOCK:
                    self._fail(plan, trials, error)
                continue
            seconds = clock(batch.device) - start
            with _LOCK:
                self._count(len(outputs))
                if 2 * len(batch) > plan.size:  # a far shorter one tells nothing about its plan
                    trials.add(plan, seconds / len(batch))
            return outputs

    @property
    def limit(self) -> int | None:
        """The most draws that a pass may take; None: as many as are fastest."""
        return self._limit(1)

    def most_among(self, pixels: int) -> int:
        """How many passes of patches of so many pixels may run side by side: batches of all of them
        together are no larger than those of one pass may be.
        """
        if self.steady:  # a network is compiled for one thread
            return 1
        most = LARGEST // (FIXED * pixels)
        if self.most:
            most = min(most, self.most // (self.batch_size or 1))
        return max(1, most)

    @property
    def _untimed(self) -> bool:
        """Whether no plan may be chosen by the clock."""
        return self.steady or torch.are_deterministic_algorithms_enabled()

    def _known(self, key: tuple[Kind, bool, bool], remaining: int) -> Trials:
        """What is known of a kind of patches."""
        if key not in self._trials:
            self._trials[key] = Trials(self._first(key[0], remaining))
        return self._trials[key]

    def _count(self, draws: int) -> None:
        """Take note of a batch; after many of them what is known is out of date."""
        self.draws += draws
        self._batches += 1
        if self._batches % RENEW == 0 and not self._untimed:
            for trials in self._trials.values():
                trials.renew()

    def _first(self, kind: Kind, remaining: int) -> int:
        """How many draws to begin with."""
        if self.batch_size:
            return self.batch_size
        size = max(1, PIXELS // math.prod(kind.shape[1:]))
        if self._untimed:
            return max(size, FIXED)
        return min(size, remaining)

    def _plan(self, kind: Kind, trials: Trials, remaining: int) -> Plan:
        """Choose the plan to try next, or the best of those tried."""
        first = min(trials.first, self._limit(kind.among) or trials.first)
        if self._untimed:
            return self._layouts(first, trials)[-1]  # channels_last, which is most often faster
        if self.batch_size:
            layouts = self._layouts(min(first, remaining), trials)
            untried = (plan for plan in layouts if not trials.settled(plan))
            return next(untried, None) or min(layouts, key=trials.time)
        layouts, most = self._layouts(first, trials), self._most(kind)
        for plan in self._candidates(layouts, most, trials):
            # A batch of all that remain tells enough of a plan up to twice as long.
            if plan.size < 2 * remaining and not trials.settled(plan):
                return plan
        return trials.fastest(most) or layouts[0]

    def _most(self, kind: Kind) -> float:
        """The most draws in a batch that are worth trying."""
        within = self._limit(kind.among) or math.inf
        if kind.device.type != "cpu":
            return within
        return min(within, max(1, LARGEST // kind.among // math.prod(kind.shape[1:])))

    def _limit(self, among: int) -> int | None:
        """The most draws that each of so many passes at the same time may take."""
        within = self.most and max(1, self.most // among)
        return min((most for most in (self.batch_size, within) if most), default=None)

    def _candidates(self, layouts: Sequence[Plan], most: float, trials: Trials) -> Iterator[Plan]:
        """Yield plans worth trying, given what is known: the layouts, then doubled sizes in the
        better one while they pay.
        """
        yield from layouts
        if not all(map(trials.settled, layouts)):
            return
        plan = min(layouts, key=trials.time)
        best, since = trials.time(plan), 0
        while since < PATIENCE and 2 * plan.size <= most:
            plan = plan._replace(size=2 * plan.size)
            yield plan
            if not trials.settled(plan) or trials.time(plan) > FAR * best:
                return
            since = 0 if trials.time(plan) < GAIN * best else since + 1
            best = min(best, trials.time(plan))

    def _layouts(self, size: int, trials: Trials) -> list[Plan]:
        """The layouts that are worth trying, at least one."""
        plans = [Plan(last, size) for last in (False, True)[: 1 + self.convolutional]]
        return [plan for plan in plans if plan not in trials.failed]

    def _fail(self, plan: Plan, trials: Trials, error: Exception) -> None:
        """Take note that a plan has failed, for lack of memory or by its layout; any other error
        goes up.
        """
        if plan.size > 1 and out_of_memory(error):
            half = plan.size // 2
            warnings.warn(
                f"out of memory with {plan.size} draws at once: going on with {half}",
                RuntimeWarning,
                stacklevel=2,
            )
            if self.batch_size:
                self.batch_size = min(self.batch_size, half)
            # The layout makes no difference to memory.
            trials.failed |= {Plan(channels_last, plan.size) for channels_last in (False, True)}
            trials.first = min(trials.first, half)
        elif plan.channels_last:
            # A network that reshapes with view() fails in that layout; other errors come again.
            trials.failed.add(plan)
        else:
            raise error


def _even(size: int, remaining: int) -> int:
    """The length of as many batches as that size takes, all alike: a short one would waste time.

    Example:
        >>> _even(64, 100)
        50
    """
    return math.ceil(remaining / math.ceil(remaining / size))


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error is that of a device, or of the computer, whose memory is full."""
    text = str(error)  # the CPU raises plain RuntimeErrors
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "not enough memory" in text or "can't allocate memory" in text
    )


def clock(device: torch.device) -> float:
    """Tell the time, in seconds, once a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
