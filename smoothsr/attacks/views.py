"""How an attacker sees a network, with noise of his own.

He knows everything of a smoother but the noise to come, so he averages over noise of his own
(expectation over transformation). There are three ways to do that: "mean", through the mean of
`draws` draws; "draw", the mean loss of `draws` single draws; and "served", through the statistic
that is served, all its n draws, which costs the most. None is always the strongest
(benchmarks/adaptive.py). "bare" is the network inside the smoother, for transfer attacks.
"""

import hashlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Literal

from torch import Tensor, nn

from smoothsr.attacks.gradient_memory import gradient_bytes, within_memory
from smoothsr.attacks.objective import Model
from smoothsr.smoothing import SmoothedSR, variant

__all__ = ["DRAWS", "View", "seed_of", "serve", "views"]

DRAWS = 5  # of the attacker's own, where he averages
View = Literal["bare", "served", "mean", "draw"]


def serve(model: nn.Module, lr: Tensor, seed: int) -> Tensor:
    """Run the bare network, or a SmoothedSR with the noise of a seed: (B,C,h,w) to (B,C,H,W) in [0,
    1], differentiable.
    """
    return variant(model, seed=seed)(lr) if isinstance(model, SmoothedSR) else model(lr).clamp(0, 1)


def views(model: nn.Module, lr: Tensor, draws: int, seed: int) -> dict[View, Model]:
    """Return the ways in which an attacker of lr can see a model, with noise of his own that is
    fresh at every call.

    They are "bare" and "served", the same for a network by itself, and for a smoother "mean" and
    "draw" as well.

    Args:
        model: The bare network or a SmoothedSR, whose seed is neither read nor changed.
        lr: (1,C,h,w), by which the memory for gradients is measured.
        draws: How many the mean is of.
        seed: Fixes the attacker's noise.
    """
    seeds = itertools.count(seed_of(seed, "attacker"))
    seen: dict[View, nn.Module] = {"bare": model, "served": model}
    if isinstance(model, SmoothedSR):
        model = model.fitted(lr)
        each = gradient_bytes(model, lr)
        mean, draw = variant(model, n=draws, agg="mean"), variant(model, n=1, agg="median")
        smoothers: dict[View, SmoothedSR] = {"served": model, "mean": mean, "draw": draw}
        seen = {"bare": model.model}
        seen |= {view: within_memory(smoother, lr, each) for view, smoother in smoothers.items()}
    return {view: partial(_serve_next, module, seeds) for view, module in seen.items()}


def _serve_next(model: nn.Module, seeds: Iterator[int], lr: Tensor) -> Tensor:
    return serve(model, lr, next(seeds))


def seed_of(*words: object) -> int:
    """Derive a seed of 62 bits from words and numbers.

    Example:
        >>> seed_of(0, "baby") == seed_of(0, "baby") != seed_of(0, "bird")
        True
    """
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big") >> 2
