"""Fixtures: real images and checkpoints where there are any, and the three oracles with known
truth.
"""

import os
from pathlib import Path

import pytest
import study_fixtures
import torch

from smoothsr.files import images

torch.set_num_threads(
    1
)  # tensors are tiny here, and on a busy machine threads would only wait for each other


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of checkpoints, images and metric weights; the test is skipped where there is
    none.
    """
    folder = Path(os.environ.get("SMOOTHSR_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.exists():
        pytest.skip("needs the data folder: set SMOOTHSR_DATA")
    return folder


@pytest.fixture
def deterministic():
    """Results that depend on seeds alone."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def photo(tmp_path):
    """The path of a small image, in a folder of its own."""
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    images.write(
        path, images.Picture(torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)))
    )
    return path


@pytest.fixture
def image():
    """An image of two sizes, for studies."""
    return study_fixtures.picture()


@pytest.fixture
def study(tmp_path):
    """A study of a small network, with its part files in tmp_path."""
    return study_fixtures.study_in(tmp_path)
