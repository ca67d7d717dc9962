"""The command line: one line on stderr with exit status 2 for what a user got wrong.

What a command does is in the module of its name, which is imported only to run it, so that --help
answers at once.
"""

import sys
import warnings
from importlib import import_module

from smoothsr.cli.parser import parser

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for one clear line on stderr, 130 if
    interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a letter must not end a run
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: print(
            f"smoothsr: warning: {message}", file=sys.stderr
        )
        try:
            return import_module(f"smoothsr.cli.{args.command}").run(args)
        except KeyboardInterrupt:
            print("smoothsr: interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            # torch's OutOfMemoryError by its name, since the parser must not import torch. Anything
            # else is a bug: show its trace.
            expected = isinstance(error, ValueError | OSError | ImportError | MemoryError)
            if not expected and type(error).__name__ != "OutOfMemoryError":
                raise
            print(
                f"smoothsr: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr
            )
            return 2
