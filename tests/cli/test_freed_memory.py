"""What a batch frees is kept for the next one."""

import platform
import subprocess
import sys

import pytest

BATCHES = """
import resource, threading
import numpy as np
from smoothsr.cli import main

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def batches():
    before = faults()
    for _ in range(100):
        blocks = [np.ones(2**20, np.uint32) for _ in range(3)]
        del blocks
    print((faults() - before) * resource.getpagesize())

main(["certify", "no.png"])
batches()
thread = threading.Thread(target=batches)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_command_takes_memory_from_the_system_once():
    command = [sys.executable, "-c", BATCHES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    main_thread, another = map(int, done.stdout.split())
    # Of 1200 MiB that are filled; without the command it is a third of that or more.
    assert main_thread < 100 * 2**20
    assert another < 100 * 2**20
