"""What `train.smoothing` of a YAML makes of a training step.

BasicSR's models take a step from what they were fed: they run net_g on lq, and sum their losses of
its output and of gt. Noise and attacks change lq. For mrs lq becomes the draws, of which a hook on
net_g returns the means, and gt is repeated, one for each sigma. All of that is before the model's
own step, whatever its losses are, those of a GAN included.

The other methods have a term besides the losses, and take the step in the place of SRModel's.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from basicsr.losses.basic_loss import MSELoss
from basicsr.models.sr_model import SRModel
from torch import Tensor, nn

from smoothsr.smoothing import SmoothedSR
from smoothsr.training import AdversarialAugmentation, NoiseAugmentation, SmoothedLoss, StepSeed
from smoothsr.training.adversarial import AdversarialLoss
from smoothsr.training.methods import METHODS, TAKES, Numbers, objective

__all__ = ["OWN_TERM", "Step", "read", "require_squared_error", "step_of"]

OFFERED = tuple(method for method in METHODS if method != "plain")  # which is SRModel's
OWN_TERM = ("smoothed", "consistency", "penalty")
WORDS = ("kind", "norm")
WHOLE = ("draws", "tile", "steps")
TARGETS = ("gt", "gt_usm")  # the latter is Real-ESRGAN's

Step = Callable[[SRModel, Callable[[], None], StepSeed], None]
"""Takes the model, the model's own step, and what fixes the noise."""


def read(options: Any) -> tuple[str, dict[str, Any]]:
    """Read `train.smoothing`: the method, "noise" where none is named, and its numbers.

    Raises:
        ValueError: If there is no such method, or it doesn't take what it is given.
    """
    if not isinstance(options, dict) or not options:
        raise ValueError(
            "training needs train.smoothing: {sigma: S or [LO, HI]} for noise, or {method: "
            f"{'|'.join(OFFERED)}, ...}}, got {options}"
        )
    method = options.get("method", "noise")
    if method not in OFFERED:
        raise ValueError(
            f"train.smoothing: method must be one of {', '.join(OFFERED)}, got {method!r}"
        )
    given = {name: value for name, value in options.items() if name != "method"}
    for name in given:
        if name not in TAKES[method]:
            takes = ", ".join(TAKES[method])
            raise ValueError(f"train.smoothing: {method} takes {takes}, got {name!r}")
    if "sigma" in TAKES[method] and "sigma" not in given:
        raise ValueError(f"train.smoothing: {method} needs sigma, got {options}")
    return method, {name: _value(method, name, value) for name, value in given.items()}


def _value(method: str, name: str, value: Any) -> Any:
    """Read the value of an option; its range and words are checked where it is used."""
    if name in WORDS:
        return value
    if isinstance(value, list) and (name == "sigmas" or method == "noise"):
        return tuple(_number(name, each) for each in value)
    if name == "sigmas":
        raise ValueError(f"train.smoothing: {name} must be a list of numbers, got {value!r}")
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    """Read a number; YAML has 1e-3 and 4/255 as text."""
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        number = None
    whole = name in WHOLE
    if number is None or (whole and number.denominator != 1):
        kind = "whole number" if whole else "number"
        raise ValueError(f"train.smoothing: {name} must be a {kind}, got {value!r}")
    return int(number) if whole else float(number)


def step_of(
    method: str, numbers: dict[str, Any], losses: Callable[[Tensor, Tensor], Tensor], seed: int
) -> Step:
    """Return the step of a method.

    Args:
        method: As `read` found it.
        numbers: Likewise.
        losses: Maps (sr, hr) to the sum of SRModel's losses.
        seed: Of noise alone, which draws on from step to step.

    Raises:
        ValueError: If a number is out of its range.
    """
    if method == "noise":
        return partial(_noisy, NoiseAugmentation(**numbers, seed=seed))
    found = objective(method, losses, Numbers(**numbers))
    if isinstance(found, AdversarialLoss):
        return partial(_attacked, found.augmentation)
    if isinstance(found, SmoothedLoss) and method not in OWN_TERM:
        return partial(_averaged, found)
    return partial(_descended, found)


def _noisy(
    noise: NoiseAugmentation, model: SRModel, own_step: Callable[[], None], _: StepSeed
) -> None:
    model.lq = noise.add_noise(model.lq)  # not in feed_data, which validation calls too
    own_step()


def _attacked(
    augmentation: AdversarialAugmentation,
    model: SRModel,
    own_step: Callable[[], None],
    at: StepSeed,
) -> None:
    network = model.get_bare_model(model.net_g)
    # An attack runs eval mode, in which the architecture SmoothedSR smooths; training has it bare.
    bare = network.model if isinstance(network, SmoothedSR) else network
    model.lq = augmentation.attacked(bare, model.lq, model.gt, at)
    own_step()


def _averaged(
    loss: SmoothedLoss, model: SRModel, own_step: Callable[[], None], at: StepSeed
) -> None:
    """Let the model's losses judge the mean of the draws at each sigma."""
    noisy = loss.noisy(model.lq, at)
    model.lq = noisy.flatten(0, 2)
    for name in TARGETS:
        if hasattr(model, name):
            setattr(model, name, getattr(model, name).repeat(len(noisy), 1, 1, 1))

    def mean(_module: nn.Module, _inputs: Any, outputs: Tensor) -> Tensor:
        return outputs.unflatten(0, noisy.shape[:3]).mean(1).flatten(0, 1)

    # Real-ESRGAN compares with net_g_ema's output for lq too.
    networks = [model.net_g, *([model.net_g_ema] if hasattr(model, "net_g_ema") else [])]
    hooks = [network.register_forward_hook(mean) for network in networks]
    try:
        own_step()
    finally:
        for hook in hooks:
            hook.remove()


def _descended(
    found: nn.Module, model: SRModel, _own_step: Callable[[], None], at: StepSeed
) -> None:
    """Take SRModel's step on an objective."""
    model.optimizer_g.zero_grad()
    loss = found(model.net_g, model.lq, model.gt, at)
    loss.backward()
    model.optimizer_g.step()
    model.log_dict = model.reduce_loss_dict({"l_total": loss})
    if model.ema_decay > 0:
        model.model_ema(decay=model.ema_decay)


def require_squared_error(model: SRModel) -> None:
    """Check that a model's losses are what smoothed learns.

    Raises:
        ValueError: If they are others.
    """
    pixel = model.cri_pix
    squared = isinstance(pixel, MSELoss) and pixel.loss_weight == 1 and pixel.reduction == "mean"
    if not squared or model.cri_perceptual:
        raise ValueError(
            "train.smoothing: smoothed learns the squared error of the expected output: set "
            "train.pixel_opt to {type: MSELoss} with loss_weight 1, and leave perceptual_opt out"
        )
