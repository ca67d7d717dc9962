"""Which forward passes a network makes, and the seconds they take."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

from torch import Tensor, nn

from smoothsr.adapters.transparent import Transparent
from smoothsr.engine.batching import Batching, clock
from smoothsr.engine.side_by_side import among

__all__ = ["Batch", "Passes", "Watched"]


class Batch(NamedTuple):
    """What a network is given at once."""

    height: int
    width: int
    size: int


class Passes:
    """Counts the passes of networks that are `Watched`, and among them those that are draws.

    Attributes:
        batches: How many batches of each kind were run, whatever for.
        network: Seconds in the network, of threads side by side on average.
        threads: The most that ran side by side.
        draws: Passes that were draws, of every tile as many as were asked for.
        drawing: Seconds of drawing, in the network or not.
        network_drawing: Seconds of drawing in the network.
    """

    def __init__(self) -> None:
        self.batches: Counter[Batch] = Counter()
        self.network = self.drawing = self.network_drawing = 0.0
        self.draws, self.threads = 0, 1
        self._lock = Lock()

    def __deepcopy__(self, memo: object) -> "Passes":
        """Return itself: the passes of a network's copies are counted together."""
        return self

    def add(self, batch: Batch, seconds: float) -> None:
        """Take note of a batch that a thread has run."""
        with self._lock:
            self.network += seconds / among()
            self.threads = max(self.threads, among())
            self.batches[batch] += 1

    @property
    def count(self) -> int:
        """All passes: one for each image of a batch."""
        return sum(batches * kind.size for kind, batches in self.batches.items())

    @contextmanager
    def drawn_by(self, batching: Batching) -> Iterator[None]:
        """Take what happens inside for drawing, and the draws of batching for draws."""
        start, network, draws = time.perf_counter(), self.network, batching.draws
        try:
            yield
        finally:
            self.drawing += time.perf_counter() - start
            self.network_drawing += self.network - network
            self.draws += batching.draws - draws


class Watched(Transparent):
    """A network whose passes are counted; everything else about it is the network's.

    Args:
        network: Maps (B,C,h,w) to (B,C,s*h,s*w).
        passes: Counts them.
    """

    network: nn.Module

    def __init__(self, network: nn.Module, passes: Passes) -> None:
        super().__init__(network)
        self.passes = passes
        self.train(network.training)

    def forward(self, lr: Tensor) -> Tensor:
        """Run the network on lr (B,C,h,w); one that fails is not counted."""
        start = clock(lr.device)
        sr = self.network(lr)
        seconds = clock(lr.device) - start
        self.passes.add(Batch(lr.shape[2], lr.shape[3], len(lr)), seconds)
        return sr

    def __repr__(self) -> str:
        """The network's, by which networks are told apart."""
        return repr(self.network)
