"""Fixtures: real images and checkpoints where there are any, and the three oracles with known truth."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tensors are tiny here, and on a busy machine threads would only wait for each other


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of checkpoints, images and metric weights; the test is skipped where there is none."""
    folder = Path(os.environ.get("SMOOTHSR_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.exists():
        pytest.skip("needs the data folder: set SMOOTHSR_DATA")
    return folder
