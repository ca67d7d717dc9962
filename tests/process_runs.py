"""Commands in processes of their own, as torchrun starts them, some of which die."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["ONE_THREAD", "as_rank", "dying", "started", "torchrun"]

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# Ends a run without a word, as the system does, when it keeps its third part: of several
# processes the first, and where torchrun starts it again, only once.
DYING = """
import os, signal, sys
from smoothsr.cli import main
from smoothsr.files.parts import Parts
real, calls = Parts.add, []
def add(parts, name, arrays):
    calls.append(name)
    if len(calls) == 3 and not parts.rank and os.environ.get("TORCHELASTIC_RESTART_COUNT") != "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(parts, name, arrays)
Parts.add = add
sys.exit(main(sys.argv[1:]))
"""


def started(command, *, program=("-m", "smoothsr.cli"), **environment):
    """Start a command of smoothsr."""
    environment = {**ONE_THREAD, **environment}
    arguments = [sys.executable, *program, *command]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def dying(command, **environment):
    """Run a command that is killed when it keeps its third part; return its exit status."""
    process = started(command, program=("-c", DYING), **environment)
    process.communicate()
    return process.returncode


def torchrun(command):
    """Run a command by two processes, of which the first is killed once and started again."""
    program = Path(sys.executable).with_name("torchrun")
    if not program.exists():
        pytest.skip("there is no torchrun beside this Python")
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--no-python"]
    return subprocess.run(
        [str(program), *options, sys.executable, "-c", DYING, *command],
        env=ONE_THREAD,
        capture_output=True,
        text=True,
    )


def as_rank(monkeypatch, rank, run, *arguments):
    """Call a function in the place of one of two processes."""
    with monkeypatch.context() as patched:
        patched.setenv("RANK", str(rank))
        patched.setenv("WORLD_SIZE", "2")
        return run(*arguments)
