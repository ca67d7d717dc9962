"""The command line: one line on stderr with exit status 2 for what a user got wrong.

What a command does is in the module of its name, which is imported only to run it, so that --help
answers at once.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

from smoothsr.cli.errors import message
from smoothsr.cli.parser import parser

__all__ = ["main"]


class Ended(BaseException):
    """SIGTERM, as an exception, so that what is half-written goes."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for one clear line on stderr, 130 if
    interrupted, 141 if nobody reads what it prints, 143 if ended by SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a letter must not end a run
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    _keep_freed_memory()
    with _ended_in_order(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda warning, *_: print(
            f"smoothsr: warning: {message(warning)}", file=sys.stderr
        )
        try:
            status: int = import_module(f"smoothsr.cli.{args.command}").run(args)
            print(end="", flush=True)
            return status
        except KeyboardInterrupt:
            print("smoothsr: interrupted", file=sys.stderr)
            return 130
        except Ended:
            print("smoothsr: ended by a signal", file=sys.stderr)
            return 143
        except BrokenPipeError:
            # Nobody reads what is printed, as behind `head`, which has seen enough. Python prints
            # what is left when it ends, and would complain.
            with suppress(OSError):
                sys.stdout.flush()  # if it is stderr that nobody reads
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception as error:
            # torch's OutOfMemoryError by its name, since the parser must not import torch. Anything
            # else is a bug: show its trace.
            expected = isinstance(error, ValueError | OSError | ImportError | MemoryError)
            if not expected and type(error).__name__ != "OutOfMemoryError":
                raise
            print(f"smoothsr: {message(error)}", file=sys.stderr)
            return 2


def _keep_freed_memory() -> None:
    """Let the C library keep what a batch frees for the next one, which would otherwise ask the
    system for it again, page by page.

    A large block that is freed makes glibc keep as much as twice its size, if it is no larger than
    32 MiB; see mallopt(3), M_MMAP_THRESHOLD. This one is never touched, so that it costs nothing.
    """
    bytes(31 * 2**20)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM raise Ended, unless somebody else has a handler, or this is not the main thread,
    which alone may set one.
    """
    usual = threading.current_thread() is threading.main_thread()
    if not usual or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(_signal: int, _frame: Any) -> NoReturn:
    raise Ended
