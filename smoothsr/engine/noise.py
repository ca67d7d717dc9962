"""Where the noise comes from: fresh from the operating system's entropy, or a pure function of
(seed, tile, draw).

On the CPU numpy generators are used, since torch's use only 32 bits of a seed; on other devices
torch's own. Values of a seeded source do not depend on batch sizes, and no global random state is
read or changed.
"""

import secrets
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Noise", "Source", "device_of", "noisy", "sigma_text", "source"]

Source = Callable[[int, range, tuple[int, ...]], Tensor]
"""(tile, draws, shape of one draw) -> standard normal noise `(len(draws), *shape)`."""


class Noise(NamedTuple):
    """How inputs are made noisy.

    Attributes:
        sigma: Standard deviation, in [0, 1] units.
        seed: None for fresh noise.
        antithetic: Whether the noise of draw 2k + 1 is the negative of that of draw 2k: for means
            only, since the draws are then not independent.
        on_lattice: Whether it is on the lattice of `smoothsr.engine.lattice`.
        halo_noise: How many times sigma it is on pixels that a patch reads beyond its tile.
    """

    sigma: float
    seed: int | None = None
    antithetic: bool = False
    on_lattice: bool = False
    halo_noise: float = 1.0


def source(
    seed: int | None, device: torch.device, dtype: torch.dtype, antithetic: bool = False
) -> Source:
    """Make a source of standard normal noise in float32, or in float64 where dtype is float64.

    Args:
        seed: None for fresh noise; otherwise any int, and draw i of tile j is the same for every
            batch size.
        device: Where the noise is made.
        dtype: The input's.
        antithetic: Whether draws come in pairs: draw 2k + 1 is the negative of draw 2k.
    """
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    if antithetic:
        # A secret seed lets a batch that begins within a pair make its first half again.
        return _paired(_seeded(secrets.randbits(128) if seed is None else seed, device, precision))
    if seed is None:
        return _fresh(device, precision)
    return _seeded(seed, device, precision)


def device_of(device: torch.device, dtype: torch.dtype) -> torch.device:
    """Where noise of a precision is made for a device: there, or on the CPU if it has no float64.

    Example:
        >>> mps = torch.device("mps")
        >>> device_of(mps, torch.float64), device_of(mps, torch.float32)
        (device(type='cpu'), device(type='mps'))
    """
    wide = dtype == torch.float64
    return torch.device("cpu") if wide and device.type == "mps" else device


def noisy(patch: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """Add noise (b,C,h,w) of standard deviation 1 times sigma, a number or (h,w), to a patch
    (1,C,h,w).
    """
    return patch + sigma * noise


def sigma_text(sigma: float) -> str:
    """Write a standard deviation so that it can be typed again: the shortest text that means the
    same float, as 8-bit steps where it is a number of them.

    Example:
        >>> sigma_text(0.03), sigma_text(8 / 255), sigma_text(0.2)
        ('0.03', '8/255', '0.2')
    """
    steps = f"{round(sigma * 255)}/255"
    exact = round(sigma * 255) / 255 == sigma
    return min(steps, repr(float(sigma)), key=len) if exact else repr(float(sigma))


def _fresh(device: torch.device, dtype: torch.dtype) -> Source:
    own = threading.local()  # a generator for each thread, which would wait for each other's

    def draw(_tile: int, draws: range, shape: tuple[int, ...]) -> Tensor:
        if not hasattr(own, "generator"):
            own.generator = (
                np.random.default_rng()
                if device.type == "cpu"
                else torch.Generator(device).manual_seed(secrets.randbits(63))
            )
        return _normal(own.generator, (len(draws), *shape), device, dtype)

    return draw


def _seeded(seed: int, device: torch.device, dtype: torch.dtype) -> Source:
    def one(tile: int, index: int, shape: tuple[int, ...]) -> Tensor:
        entropy = np.random.SeedSequence([abs(seed), int(seed < 0), tile, index])
        if device.type == "cpu":
            return _normal(np.random.default_rng(entropy), shape, device, dtype)
        state = int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
        return _normal(torch.Generator(device).manual_seed(state), shape, device, dtype)

    def draw(tile: int, draws: range, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([one(tile, index, shape) for index in draws])

    return draw


def _paired(single: Source) -> Source:
    """Make draw 2k + 1 the negative of draw 2k; single must be a function of tile and draw."""

    def draw(tile: int, draws: range, shape: tuple[int, ...]) -> Tensor:
        skipped = draws.start % 2
        halves = single(tile, range(draws.start - skipped, draws.stop, 2), shape)
        pairs = torch.stack([halves, -halves], dim=1).flatten(0, 1)
        return pairs[skipped : skipped + len(draws)]

    return draw


def _normal(
    generator: np.random.Generator | torch.Generator,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)
    wide = dtype == torch.float64
    return torch.from_numpy(
        generator.standard_normal(shape, np.float64)
        if wide
        else generator.standard_normal(shape, np.float32)
    )
