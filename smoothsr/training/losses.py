"""Base losses: what an output's error costs, before smoothing, attacks or penalties.

References: R. Zhang et al., CVPR 2018 (LPIPS); X. Wang et al., "ESRGAN", ECCV 2018 workshops, for
the features of VGG19 before their activation.
"""

import re
from collections.abc import Callable, Mapping
from os import PathLike

import torch
from torch import Tensor, nn

from smoothsr import metrics
from smoothsr.training.gan import GANLoss

__all__ = ["LPIPSLoss", "VGGLoss", "WeightedSum", "base_loss"]

Weights = Mapping[str, str | PathLike[str] | None]
CONV5_4 = 35  # of torchvision's VGG19: ESRGAN's features, before the activation
NUMBER = r"[0-9]*\.?[0-9]+(?:e-?[0-9]+)?"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of VGG's training images


class LPIPSLoss(nn.Module):
    """The mean LPIPS of a batch, with a gradient.

    Args:
        weights: File for `smoothsr.metrics.lpips`; None: the lpips package downloads AlexNet.
    """

    def __init__(self, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare sr and hr (B,3,H,W) in [0, 1], of at least 32 pixels a side; in single precision,
        whatever autocast says. What lies outside of [0, 1] is clamped, and has no gradient.
        """
        with torch.autocast(sr.device.type, enabled=False):
            return metrics.lpips(sr, hr, weights=self.weights).mean()


class VGGLoss(nn.Module):
    """The mean absolute difference of VGG19's features before the last activation.

    Args:
        weights: File of torchvision's VGG19 state dict.

    Raises:
        ImportError: If torchvision is missing.
        OSError: If the file can't be read.
        ValueError: If it holds other weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: str | PathLike[str]) -> None:
        super().__init__()
        try:
            from torchvision.models import vgg19
        except ImportError as missing:
            raise ImportError(f"the vgg loss needs torchvision: {missing}") from missing
        features = vgg19(weights=None).features
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            own = {
                key.removeprefix("features."): value
                for key, value in state.items()
                if key.startswith("features.")
            }
            features.load_state_dict(own)
        except OSError:
            raise
        except Exception as error:  # torch and pickle raise many kinds for other files
            raise ValueError(
                f"{weights} holds no weights of torchvision's VGG19 (vgg19-dcbb9e9d.pth)"
            ) from error
        self.features = features[:CONV5_4].eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare sr and hr (B,3,H,W) in [0, 1], of at least 32 pixels a side."""
        found, wanted = (self.features((x - self.mean) / self.deviation) for x in (sr, hr))
        return (found - wanted).abs().mean()


class WeightedSum(nn.Module):
    """A sum of losses, each with its factor.

    Args:
        terms: Pairs of factor and loss.
    """

    def __init__(self, terms: list[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.factors = [factor for factor, _ in terms]
        self.losses = nn.ModuleList(loss for _, loss in terms)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Add up the losses of sr and hr (B,C,H,W)."""
        terms = zip(self.factors, self.losses, strict=True)
        return torch.stack([factor * loss(sr, hr) for factor, loss in terms]).sum()


def base_loss(
    spec: str, weights: Weights | None = None, *, channels: int = 3, seed: int = 0
) -> nn.Module:
    """Return a loss by its name, or a weighted sum.

    Args:
        spec: "l1", "mse", "lpips", "vgg", "gan", or as in "l1+0.1*lpips+0.005*gan".
        weights: Files of "lpips" and "vgg"; lpips can do without.
        channels: C of the images, for "gan".
        seed: Of the discriminator's initial weights.

    Raises:
        ValueError: If spec has another form, or vgg no file.
        ImportError: If a package is missing.
        OSError: If a file can't be read.

    Example:
        >>> loss = base_loss("l1+2*mse")
        >>> loss(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item()
        1.0
    """
    named: dict[str, Callable[[], nn.Module]] = {
        "l1": nn.L1Loss,
        "mse": nn.MSELoss,
        "lpips": lambda: LPIPSLoss((weights or {}).get("lpips")),
        "vgg": lambda: _vgg((weights or {}).get("vgg")),
        "gan": lambda: GANLoss(channels, seed=seed),
    }
    terms = []
    for word in spec.split("+"):
        found = re.fullmatch(rf"(?:({NUMBER})\*)?({'|'.join(named)})", word.strip())
        if not found:
            raise ValueError(
                f"a loss is {', '.join(named)} or a sum such as l1+0.1*lpips, got {spec!r}"
            )
        terms.append((float(found[1] or 1), named[found[2]]()))
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1 else WeightedSum(terms)


def _vgg(file: str | PathLike[str] | None) -> VGGLoss:
    if file is None:
        raise ValueError("the vgg loss needs the file of torchvision's VGG19: --vgg-weights")
    return VGGLoss(file)
