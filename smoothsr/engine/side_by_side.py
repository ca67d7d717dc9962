"""Shares of work side by side, each in a thread that has a network of its own.

torch cuts every operation into pieces for all of its threads, and waits for the last of them. On
small patches the waits cost a good part of the time, and what lies between operations is done by
one thread alone. Threads that each do whole shares of the work, from the noise to the bounds, need
not wait for each other.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol, TypeVar

import torch

__all__ = ["Progress", "Work", "among", "in_shares", "most_threads"]

Progress = Callable[[int, int], None]
"""(draws done, draws in all)."""
MOST = 16  # threads: more would wait for Python's lock; torch has the processor's other ones
SHARES = 8  # for each thread, so that all end at about the same time
Network_contra = TypeVar("Network_contra", contravariant=True)

_this_thread = threading.local()


class Work(Protocol[Network_contra]):
    """Does a share of the work."""

    def __call__(self, network: Network_contra, items: Sequence[int], progress: Progress) -> None:
        """Do some of the items by a network that no other thread uses meanwhile."""


class _StoppedError(Exception):
    """Another thread has failed."""


def among() -> int:
    """How many threads work side by side, this one among them."""
    return getattr(_this_thread, "among", 1)


def most_threads(device: torch.device) -> int:
    """How many threads can work side by side: 1 but on a processor, and where torch can't be told
    how many of its threads each of them has.
    """
    if device.type != "cpu" or not torch.backends.openmp.is_available():
        return 1
    return min(MOST, torch.get_num_threads())


def in_shares(
    work: Work[Network_contra],
    networks: Sequence[Network_contra],
    items: int,
    progress: Progress | None = None,
    total: int = 0,
) -> None:
    """Do all items, in as many threads as there are networks.

    The threads have the modes of this one, of gradients and of autocast, and divide its torch
    threads among them. Where one fails, the others stop at their next report of progress.

    Args:
        work: Does some of the items, which are numbered from 0.
        networks: At least 1.
        items: How many there are.
        progress: Called with what all threads have done together, by one thread at a time.
        total: What that is in the end.

    Raises:
        Exception: What work or progress has raised in a thread.
    """
    size = -(-items // (SHARES * len(networks)))
    left = deque(range(first, min(first + size, items)) for first in range(0, items, size))
    counted = _Counted(progress, total)
    threads = torch.get_num_threads()

    def shares(network: Network_contra, modes: Sequence[AbstractContextManager[object]]) -> None:
        torch.set_num_threads(max(1, threads // len(networks)))
        _this_thread.among = len(networks)
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            for share in _taken(left):
                work(network, share, counted.of_a_share())

    with ThreadPoolExecutor(len(networks), thread_name_prefix="smoothsr") as pool:
        try:
            futures = [pool.submit(shares, network, _modes()) for network in networks]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # of an interruption, too
            counted.stopped = True
    torch.set_num_threads(threads)  # which also is what threads to come begin with
    errors = [future.exception() for future in futures]
    for error in errors:
        if error and not isinstance(error, _StoppedError):
            raise error


class _Counted:
    """Adds up what threads report, and stops them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.stopped = False
        self._lock = threading.Lock()

    def of_a_share(self) -> Progress:
        """Return what a share reports to: what it has done of its own."""
        before = 0

        def report(done: int, _total: int) -> None:
            nonlocal before
            with self._lock:
                if self.stopped:
                    raise _StoppedError
                self.done += done - before
                before = done
                if self.progress:
                    self.progress(self.done, self.total)

        return report


def _taken(shares: deque[range]) -> Iterator[range]:
    """Yield shares that no other thread takes."""
    while True:
        try:
            share = shares.popleft()
        except IndexError:
            return
        yield share


def _modes() -> list[AbstractContextManager[object]]:
    """What of torch holds for a thread alone, as it is in this one."""
    kind = "cpu"
    return [
        torch.inference_mode(torch.is_inference_mode_enabled()),
        torch.set_grad_enabled(torch.is_grad_enabled()),
        torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            torch.is_autocast_enabled(kind),
            torch.is_autocast_cache_enabled(),
        ),
    ]
