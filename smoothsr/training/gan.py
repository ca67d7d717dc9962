"""ESRGAN's third term: a discriminator, which learns to tell outputs from ground truths while the
network learns to mislead it.

The discriminator judges patches (PatchGAN), is spectrally normalized, so that it stays smooth and
its training stable, and has the hinge loss:

    discriminator   mean max(0, 1 - D(hr)) + mean max(0, 1 + D(sr))
    network         -mean D(sr)

References: P. Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks",
CVPR 2017; T. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR
2018; H. Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019, for the hinge
loss with Adam's numbers; X. Wang et al., "ESRGAN", ECCV 2018 workshops.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm

from smoothsr.training.processes import averaged

__all__ = ["GANLoss", "hinge", "patch_discriminator"]

LEAST = 4  # pixels a side of which two halvings leave one
BETAS = (0.0, 0.9)  # of Adam: no momentum, since the network that is judged moves on


def hinge(fake: Tensor, real: Tensor) -> Tensor:
    """Compute a discriminator's loss of its judgements, positive for "real".

    Example:
        >>> hinge(torch.tensor([-2.0, 0.5]), torch.tensor([1.0, 0.0])).item()  # 1.5/2 + 1/2
        1.25
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def patch_discriminator(channels: int, features: int, seed: int) -> nn.Sequential:
    """Build four convolutions, of which each output judges a patch of 26x26 pixels.

    Args:
        channels: C of its images.
        features: After the first convolution; the next have two and four times as many.
        seed: Of its initial weights. The global random state stays as it is.

    Returns:
        A network that maps (B,C,H,W) in [-1, 1] to (B,1,H/4,W/4).
    """
    shapes = [  # channels in and out, side of the kernel, stride
        (channels, features, 4, 2),
        (features, 2 * features, 4, 2),
        (2 * features, 4 * features, 3, 1),
        (4 * features, 1, 3, 1),
    ]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for shape in shapes:
            layers += [spectral_norm(nn.Conv2d(*shape, padding=1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


class GANLoss(nn.Module):
    """A base loss that learns: how surely a discriminator takes outputs for ground truths.

    Each call with gradients enabled first takes one step of the discriminator on this sr and hr,
    and then returns the network's loss. An objective that calls its base loss several times in a
    training step, once for each sigma or draw, takes as many steps of it. Without gradients a call
    only measures.

    The discriminator's weights require no gradient but in its own step: an optimizer of the network
    never moves them. They, the state of their Adam and their norms are in `state_dict`, so that a
    run that was cut off goes on as it would have. Processes that share a batch average their
    gradients, and hold the same discriminator. It works in its own precision, whatever autocast
    says. As with any optimizer, move it to a device before its first step.

    Args:
        channels: C of the images.
        features: Of the discriminator's first convolution.
        rate: Of its Adam; as a rule a few times the network's.
        seed: Of its initial weights.

    Example:
        >>> gan = GANLoss(channels=1)
        >>> sr, hr = torch.zeros(1, 1, 8, 8, requires_grad=True), torch.ones(1, 1, 8, 8)
        >>> first, last = [gan(sr, hr).item() for _ in range(100)][::99]
        >>> last > first  # it has learned that black is no ground truth
        True
    """

    def __init__(
        self, channels: int = 3, *, features: int = 32, rate: float = 4e-4, seed: int = 0
    ) -> None:
        super().__init__()
        self.channels = channels
        self.discriminator = patch_discriminator(channels, features, seed).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), rate, BETAS)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Learn from sr and hr (B,C,H,W) in [0, 1], and judge sr; what lies outside of [0, 1] is
        judged as it is.

        Raises:
            ValueError: If images have other channels, or less than 4 pixels a side.
        """
        if sr.shape[1] != self.channels or min(sr.shape[2:]) < LEAST:
            raise ValueError(
                f"the gan loss needs images of {self.channels} channels and at least {LEAST} "
                f"pixels a side, got {tuple(sr.shape)}"
            )
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = (2 * self._in_own_precision(images) - 1 for images in (sr, hr))
            if torch.is_grad_enabled():
                self._learn(sr.detach(), hr)
            return -self.discriminator.eval()(sr).mean()

    def _in_own_precision(self, images: Tensor) -> Tensor:
        return images.to(next(self.discriminator.parameters()).dtype)

    def _learn(self, sr: Tensor, hr: Tensor) -> None:
        """Take one step of the discriminator."""
        with _learning(self.discriminator) as discriminator:
            hinge(*discriminator(torch.cat([sr, hr])).chunk(2)).backward()
        for weight in discriminator.parameters():
            if weight.grad is not None:
                averaged(weight.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizer's state, for `state_dict`."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the optimizer's state, for `load_state_dict`."""
        self.optimizer.load_state_dict(state)


@contextmanager
def _learning(network: nn.Module) -> Iterator[nn.Module]:
    """Let weights have gradients, and their spectral norms follow them."""
    network.train().requires_grad_(True)
    try:
        yield network
    finally:
        network.eval().requires_grad_(False)
