"""The methods of fine-tuning: which numbers each is told."""

import pytest
from torch import nn

from smoothsr.training.adversarial import AdversarialLoss
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


def told(part: object, expected: dict[str, object]) -> dict[str, object]:
    """What a part of an objective is, and was told, as far as it is expected."""
    known = {"class": type(part).__name__}
    return {name: known.get(name) or getattr(part, name) for name in expected}


@pytest.mark.parametrize(
    ("method", "numbers", "expected"),
    [
        ("plain", {}, {"class": "PlainLoss"}),
        ("noise", {}, {"class": "NoisyLoss", "sigma": (0.0, 0.1)}),
        ("noise", {"sigma": 0.03}, {"sigma": (0.0, 0.06)}),
        ("mrs", {}, {"class": "SmoothedLoss", "sigmas": (0.03, 0.2), "draws": 2, "agg": "mean"}),
        ("smoothed", {}, {"sigmas": (0.05,), "draws": 4, "agg": "expectation"}),
        ("consistency", {}, {"sigmas": (0.05,), "draws": 4, "agg": "single"}),
        ("penalty", {}, {"class": "GradientPenalty", "weight": 1e-3}),
        ("penalty", {"weight": 0.5}, {"weight": 0.5}),
    ],
)
def test_a_method_is_the_objective_that_its_page_describes(method, numbers, expected):
    found = objective(method, nn.L1Loss(), Numbers(**numbers))
    assert told(found, expected) == expected


@pytest.mark.parametrize(("method", "weight"), [("smoothed", 0.05), ("consistency", 0.7)])
def test_a_penalty_has_the_weight_of_its_method_unless_one_is_given(method, weight):
    for given, wanted in ((None, weight), (0.0, 0.0), (0.2, 0.2)):
        numbers = Numbers(weight=given, kind="top", tile=8)
        penalty = objective(method, nn.L1Loss(), numbers).penalty
        expected = {"class": "ConsistencyPenalty", "weight": wanted, "kind": "top", "tile": 8}
        assert told(penalty, expected) == expected


@pytest.mark.parametrize(("name", "steps"), [("fgsm", 1), ("bim", 5), ("pgd", 5), ("cw", 5)])
def test_adversarial_methods_have_the_attack_of_their_name(name, steps):
    for numbers, wanted in (
        ({}, {"eps": 4 / 255, "norm": "linf", "steps": steps}),
        ({"eps": 0.5, "norm": "l2"}, {"eps": 0.5, "norm": "l2", "steps": steps}),
    ):
        made = objective(f"adv-{name}", nn.L1Loss(), Numbers(**numbers))
        expected = {"class": "AdversarialAugmentation", "attack": name, **wanted}
        assert isinstance(made, AdversarialLoss)
        assert told(made.augmentation, expected) == expected
