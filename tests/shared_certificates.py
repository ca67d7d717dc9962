"""Small certificates, made with and without part files."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from oracles import LinearSR

from smoothsr import SmoothedSR

__all__ = ["LR", "N", "certified", "same", "smoother"]

LR = 0.4 + 0.2 * torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(0))
N = 300


def smoother(gain=0.5, **options):
    options = {"sigma": 0.05, "n": 3, "agg": "mean", "tile": 3, "halo": 1} | options
    return SmoothedSR(LinearSR(gain=gain), **options)


def certified(smoothed, parts, lr=LR, seed=1, **options):
    options = {"n": N, "levels": 4, "kind": "both"} | options
    return smoothed.certify(lr, void_guarantee_seed=seed, parts=parts, **options)


def same(first, second, spectrum=1e-5):
    """Whether two certificates hold the same, but for the rounding errors of sums, and for what
    these may be in bounds of the spectrum.
    """
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "spectrum" and one is not None:
            assert vars(one) == pytest.approx(vars(other), rel=spectrum, nan_ok=True)
        elif field.name == "mean":
            assert np.allclose(one, other, atol=1e-6)
        else:
            assert np.array_equal(one, other), field.name
