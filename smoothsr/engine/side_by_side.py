"""Shares of work side by side, each in a thread that has a network of its own.

torch cuts every operation into pieces for all of its threads, and waits for the last of them. On
small patches it waits for a good part of the time, and what lies between operations is done by one
thread alone. Threads that each do whole shares of the work, from the noise to the bounds, need not
wait for each other.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from queue import SimpleQueue
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
        """Do some of the items by a network that no other thread uses meanwhile.

        Progress is to be told often, of the share alone: it ends the share where another one has
        failed, by an exception that is to be let through.
        """


class _StoppedError(Exception):
    """Another share has failed, or the program is to end."""


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
    threads among them; threads that the program starts meanwhile have no more.

    Args:
        work: Does some of the items, which are numbered from 0.
        networks: At least 1.
        items: How many there are.
        progress: Called in this thread with what all have done together.
        total: What that is in the end.

    Raises:
        Exception: The first that work or progress has raised, once all threads have stopped.
    """
    size = -(-items // (SHARES * len(networks)))
    left = deque(range(first, min(first + size, items)) for first in range(0, items, size))
    told = _Told()
    torch_threads = torch.get_num_threads()
    each, more = divmod(torch_threads, len(networks))

    def shares(place: int, modes: Sequence[AbstractContextManager[object]]) -> None:
        torch.set_num_threads(max(1, each + (place < more)))
        _this_thread.among = len(networks)
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            while not told.ending and (share := _taken(left)):
                work(networks[place], share, told.of_a_share())

    threads = list[threading.Thread]()
    try:
        for place in range(len(networks)):
            run = partial(told.of_a_thread, partial(shares, place, _modes()))
            threads.append(threading.Thread(target=run, name=f"smoothsr-{place}"))
            threads[-1].start()
        told.listen(len(networks), progress, total)
    finally:  # of an interruption, too
        told.ending = True
        for thread in threads:
            if thread.ident:  # it was started
                thread.join()
        told.forget()
        torch.set_num_threads(torch_threads)  # which is also what threads to come begin with


class _Told:
    """What threads tell the one that waits for them, and whether they are to end."""

    def __init__(self) -> None:
        self.ending = False
        # Draws done, what a thread has raised, or None where one has ended.
        self._messages = SimpleQueue[int | BaseException | None]()

    def of_a_thread(self, work: Callable[[], None]) -> None:
        """Do a thread's work, and tell how it ends."""
        try:
            work()
        except BaseException as error:
            self._messages.put(error)  # before those of threads that end because of it
            self.ending = True
        self._messages.put(None)

    def of_a_share(self) -> Progress:
        """Return what a share reports to."""
        before = 0

        def report(done: int, _total: int) -> None:
            nonlocal before
            if self.ending:
                raise _StoppedError
            if done != before:
                self._messages.put(done - before)
            before = done

        return report

    def listen(self, threads: int, progress: Progress | None, total: int) -> None:
        """Hand on what so many threads tell, until all have ended or one has failed."""
        done = 0
        while threads:
            message = self._messages.get()
            if message is None:
                threads -= 1
            elif isinstance(message, BaseException):
                try:
                    raise message
                finally:
                    del message  # whose frames hold the network
            else:
                done += message
                if progress:
                    progress(done, total)

    def forget(self) -> None:
        """Drop what nobody listened to: errors of other threads, whose frames hold the network and
        this object, which would hold them.
        """
        self._messages = SimpleQueue()


def _taken(shares: deque[range]) -> range | None:
    """Take a share that no other thread has taken, if there is one."""
    try:
        return shares.popleft()
    except IndexError:
        return None


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
