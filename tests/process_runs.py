"""Commands in processes of their own, as torchrun starts them."""

import os
import subprocess
import sys

__all__ = ["ONE_THREAD", "started"]

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def started(command, **environment):
    """Start a command of smoothsr."""
    environment = {**ONE_THREAD, **environment}
    arguments = [sys.executable, "-m", "smoothsr.cli", *command]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
