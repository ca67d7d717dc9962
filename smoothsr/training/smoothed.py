"""The loss of a smoothed output: what a network is trained for that will be smoothed.

CertSR's fine-tuning, MRS_FT, is `SmoothedLoss(base, (0.03, 0.2), draws=2)`: two strengths of noise,
two draws of each. Its authors don't say how the two enter the loss; the median of two draws is one
of them, the lower, so they are averaged here; "single" is the plain form, the loss of each draw.

"expectation" is the squared error of the *expected* output, which is what smoothing by the mean
serves. For independent draws f_i, f_j and any y, E <f_i - y, f_j - y> = ||E f - y||^2: a mean over
pairs is free of the draws' variance, where the error of an average of N draws has 1/N of it. So it
doesn't ask the network to damp noise, and lets it undo the blur that smoothing causes; a
`ConsistencyPenalty` brings back as much damping as is wanted.

Reference: A. Chaouai, M. Tamaazousti, "CertSR" (median randomized smoothing and its fine-tuning).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from smoothsr.training.consistency import ConsistencyPenalty
from smoothsr.training.objective import BaseLoss, StepSeed, gaussian

__all__ = ["SmoothedLoss", "Statistic", "squared_error_of_expectation"]

Statistic = Literal["mean", "median", "single", "expectation"]


def squared_error_of_expectation(outputs: Tensor, hr: Tensor) -> Tensor:
    """Estimate the mean squared error of the expected output, without bias: the mean over pairs
    i != j of <f_i - y, f_j - y>, which may be negative.

    Args:
        outputs: (N,B,C,H,W) of N >= 2 independent draws.
        hr: y, (B,C,H,W).

    Returns:
        One number, in units of the values squared.

    Example:
        >>> y = torch.zeros(1, 1, 1, 1)
        >>> squared_error_of_expectation(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1), y).item()
        3.0
    """
    errors, draws = outputs - hr, len(outputs)
    # The sum over all pairs is the square of the sum; those of a draw with itself are left out.
    all_pairs, own = errors.sum(0).square().mean(), errors.square().sum(0).mean()
    return (all_pairs - own) / (draws * (draws - 1))


class SmoothedLoss(nn.Module):
    """The loss of what smoothing makes of several draws, in the place of `criterion(model(lr),
    hr)`.

    Args:
        base: Maps (sr, hr) to one number.
        sigmas: Noise standard deviations in units of an input in [0, 1]; the losses at each are
            averaged.
        draws: Of each image, at each sigma.
        agg: "mean" or "median" of the draws is what base judges; for two draws the median is their
            mean. "single" is the mean of base over the draws. "expectation" is the squared error of
            the expected output, for which base must be `torch.nn.MSELoss()`.
        penalty: On what differs between draws; None: nothing.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> loss = SmoothedLoss(nn.MSELoss(), [0.1], draws=4, agg="expectation")
        >>> grey = torch.full((1, 1, 64, 64), 0.5)
        >>> abs(loss(nn.Identity(), grey, grey, StepSeed(0)).item()) < 1e-3  # no bias; .0025 else
        True
    """

    def __init__(
        self,
        base: BaseLoss,
        sigmas: Sequence[float],
        draws: int = 4,
        agg: Statistic = "mean",
        *,
        penalty: ConsistencyPenalty | None = None,
    ) -> None:
        super().__init__()
        if not sigmas or not all(0 < sigma < float("inf") for sigma in sigmas):
            raise ValueError(f"sigmas must be finite numbers greater than 0, got {[*sigmas]}")
        if agg not in get_args(Statistic):
            raise ValueError(f"agg must be one of {', '.join(get_args(Statistic))}, got {agg!r}")
        if agg == "expectation" and not isinstance(base, nn.MSELoss):
            raise ValueError(
                "the expectation has an unbiased loss for squared errors alone: pass "
                f"torch.nn.MSELoss(), got {base}"
            )
        least = 2 if penalty or agg == "expectation" else 1
        if draws < least:
            raise ValueError(f"draws must be at least {least} here, got {draws}")
        self.base, self.sigmas, self.draws, self.agg = base, tuple(sigmas), draws, agg
        self.penalty = penalty

    def forward(
        self, model: nn.Module, lr: Tensor, hr: Tensor, at: StepSeed | None = None
    ) -> Tensor:
        """Compute the loss of a batch: lr (B,C,h,w) in [0, 1], hr (B,C,H,W). `at` fixes the
        noise; None takes a fresh one.
        """
        noisy = self.noisy(lr, at)
        outputs = model(noisy.flatten(0, 2)).to(hr.dtype).unflatten(0, noisy.shape[:3])
        return torch.stack([self.judge(each, hr) for each in outputs]).mean()

    def noisy(self, lr: Tensor, at: StepSeed | None = None) -> Tensor:
        """Draw what the network runs on, (sigmas,draws,B,C,h,w)."""
        noise = gaussian(lr, len(self.sigmas) * self.draws, at).unflatten(0, (-1, self.draws))
        return lr + lr.new_tensor(self.sigmas).view(-1, 1, 1, 1, 1, 1) * noise

    def judge(self, outputs: Tensor, hr: Tensor) -> Tensor:
        """Compute the loss of the draws (N,B,C,H,W) at one sigma."""
        loss = self._judged(outputs, hr)
        return loss + self.penalty(outputs) if self.penalty else loss

    def _judged(self, outputs: Tensor, hr: Tensor) -> Tensor:
        if self.agg == "expectation":
            return squared_error_of_expectation(outputs, hr)
        if self.agg == "single":
            return torch.stack([self.base(output, hr) for output in outputs]).mean()
        if self.agg == "mean" or len(outputs) == 2:
            return self.base(outputs.mean(0), hr)
        return self.base(outputs.median(0).values, hr)

    def extra_repr(self) -> str:
        """Name the options."""
        return f"sigmas={self.sigmas}, draws={self.draws}, agg={self.agg!r}, penalty={self.penalty}"
