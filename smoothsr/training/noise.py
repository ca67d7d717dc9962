"""Making a network better under smoothing: Gaussian noise on its training input.

A network that has met noise of the smoothing's strength varies less from draw to draw, which is
what a certificate measures, and holds on noisy inputs. CertSR fine-tunes an existing network so,
with the same loss and data as before.

Reference: J. Cohen, E. Rosenfeld, Z. Kolter, "Certified Adversarial Robustness via Randomized
Smoothing", ICML 2019, section 3.3.
"""

import secrets
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smoothsr.training.objective import BaseLoss, StepSeed, gaussian

__all__ = ["NoiseAugmentation", "NoisyLoss", "PlainLoss"]


class NoiseAugmentation:
    """Add Gaussian noise to a network's input while it trains.

    A forward-pre-hook: the network, its optimizer, its loss and its data loader stay what they are.
    It acts in train mode only, so validation is untouched, and the global random state is neither
    read nor changed.

    Args:
        sigma: Noise standard deviation in units of an input in [0, 1]; a pair (lo, hi) draws one
            uniformly for each image.
        seed: Fixes the noise; None takes a fresh seed from the operating system.

    Raises:
        ValueError: If sigma is negative, not finite, or a pair in the wrong order.

    Example:
        >>> net = nn.Identity().train()
        >>> handle = NoiseAugmentation((0.0, 0.1), seed=0).attach(net)
        >>> zeros = torch.zeros(1, 3, 8, 8)
        >>> bool(net(zeros).std() > 0), bool(net.eval()(zeros).std() > 0)
        (True, False)
        >>> handle.remove()
    """

    def __init__(self, sigma: float | tuple[float, float], *, seed: int | None = None) -> None:
        low, high = sigma if isinstance(sigma, tuple | list) else (sigma, sigma)
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"sigma must be a finite number >= 0 or a pair lo <= hi, got {sigma}")
        self.sigma = (float(low), float(high))
        self.seed = secrets.randbits(32) if seed is None else seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def attach(self, model: nn.Module) -> RemovableHandle:
        """Hook onto model, and return the handle whose remove() undoes it."""
        return model.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.add_noise(inputs[0]), *inputs[1:]) if module.training else inputs

    def add_noise(self, lr: Tensor) -> Tensor:
        """Return lr (B,C,h,w) plus noise, neither clamped nor rounded, as smoothing presents it."""
        generator = self._generators.get(lr.device)
        if generator is None:
            generator = self._generators[lr.device] = torch.Generator(lr.device).manual_seed(
                self.seed
            )
        low, high = self.sigma
        each = torch.rand(
            lr.shape[0], 1, 1, 1, generator=generator, device=lr.device, dtype=lr.dtype
        )
        noise = torch.randn(lr.shape, generator=generator, device=lr.device, dtype=lr.dtype)
        return lr + noise * (low + (high - low) * each)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_generators": {},
        }  # generators can't be copied or pickled; a copy starts its noise anew

    def __repr__(self) -> str:
        return f"NoiseAugmentation({self.sigma})"


class PlainLoss(nn.Module):
    """The usual loss, base(model(lr), hr), as an objective.

    Args:
        base: Maps (sr, hr) to one number.
    """

    def __init__(self, base: BaseLoss) -> None:
        super().__init__()
        self.base = base

    def forward(
        self, model: nn.Module, lr: Tensor, hr: Tensor, at: StepSeed | None = None
    ) -> Tensor:
        """Compute the loss of a batch: lr (B,C,h,w) in [0, 1], hr (B,C,H,W); `at` plays no part."""
        del at
        return self.base(model(lr), hr)


class NoisyLoss(nn.Module):
    """The usual loss on noisy input, as an objective.

    Args:
        base: Maps (sr, hr) to one number.
        sigma: (lo, hi): noise standard deviations in units of an input in [0, 1], of which each
            image gets one, uniformly.

    Raises:
        ValueError: If sigma is no pair 0 <= lo <= hi.
    """

    def __init__(self, base: BaseLoss, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.base, self.sigma = base, NoiseAugmentation(sigma).sigma

    def forward(
        self, model: nn.Module, lr: Tensor, hr: Tensor, at: StepSeed | None = None
    ) -> Tensor:
        """Compute the loss of a batch, as `PlainLoss` takes it; `at` fixes the noise, None takes a
        fresh one.
        """
        low, high = self.sigma
        other = StepSeed(~at.seed, at.first) if at else None  # of strengths, not of noise
        shares = torch.special.ndtr(gaussian(lr[:, :1, :1, :1], 1, other)[0])  # uniform in [0, 1]
        noisy = lr + (low + (high - low) * shares) * gaussian(lr, 1, at)[0]
        return self.base(model(noisy), hr)
