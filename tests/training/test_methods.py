"""The methods of fine-tuning: which numbers each is told."""

import pytest
from torch import nn

from smoothsr.training.methods import METHODS, TAKES, Numbers, objective

NAMES = set(Numbers.__dataclass_fields__)


class Watched(Numbers):
    """Numbers that know which of them were read."""

    read: set[str]

    def __getattribute__(self, name):
        if name in NAMES:
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_what_it_reads(method):
    numbers = Watched()
    object.__setattr__(numbers, "read", set())
    objective(method, nn.L1Loss(), numbers)
    assert numbers.read == {*TAKES[method]}
