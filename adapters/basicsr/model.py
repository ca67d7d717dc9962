"""Models of BasicSR's YAML that train for smoothing, and that certify while they validate.

`SmoothedSRModel` is written to be mixed in: put it before any model that derives from BasicSR's
SRModel.

    class SmoothedMyModel(SmoothedSRModel, MyModel): ...
"""

from functools import partial
from typing import Any

import torch
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from torch import Tensor

from smoothsr.adapters.basicsr import steps
from smoothsr.certificates.options import Predictor
from smoothsr.smoothing import SmoothedSR
from smoothsr.training import StepSeed

__all__ = ["SmoothedESRGANModel", "SmoothedSRGANModel", "SmoothedSRModel"]


class SmoothedSRModel(SRModel):
    """SRModel with the options `train.smoothing` and `val.certify` (see `certified_psnr`).

    `train.smoothing: {method: M, ...}` names a method of `smoothsr finetune` and its numbers, those
    of `smoothsr.training.methods.Numbers`; `{sigma: S or [LO, HI]}` alone is noise. "noise", "mrs"
    and "adv-..." serve every model that this is mixed into; "smoothed", "consistency" and "penalty"
    have a term besides the losses, and serve those that take SRModel's own step.
    """

    lq: Tensor

    def init_training_settings(self) -> None:
        """Set up training. What is random follows manual_seed, and differs from process to process.

        Raises:
            ValueError: If `train.smoothing` is not what this model can do.
        """
        method, numbers = steps.read(self.opt["train"].get("smoothing"))
        own_step = super().optimize_parameters.__func__
        if method in steps.OWN_TERM and own_step is not SRModel.optimize_parameters:
            raise ValueError(
                f"train.smoothing: {method} adds a term to SRModel's losses, and "
                f"{type(self).__name__} has a step of its own: take noise, mrs or adv-..."
            )
        seed = self.opt["manual_seed"] + self.opt["rank"]
        self.smoothing_step = steps.step_of(method, numbers, self.sum_of_losses, seed)
        super().init_training_settings()
        if method == "smoothed":
            steps.require_squared_error(self)

    def sum_of_losses(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Sum the losses that SRModel has of an output, one number."""
        found = [self.cri_pix(sr, hr)] if self.cri_pix else []
        if self.cri_perceptual:
            found += self.cri_perceptual(sr, hr)  # of features and of style, either may be None
        return torch.stack([loss for loss in found if loss is not None]).sum()

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step, by the method of `train.smoothing`."""
        seed = self.opt["manual_seed"] * 2**32 + current_iter
        at = StepSeed(seed, first=self.opt["rank"] * len(self.lq))
        self.smoothing_step(self, partial(super().optimize_parameters, current_iter), at)

    def nondist_validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Validate as BasicSR does, then certify, where val.certify asks for it, and log the mean
        over the images.
        """
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        options = self.opt["val"].get("certify")
        if not options:
            return
        network = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        if not isinstance(network, SmoothedSR):
            raise ValueError(
                f"val.certify needs network_g of type SmoothedSR, got {type(network).__name__}"
            )
        was_training = network.training
        network.eval()
        try:
            images = [
                certified_psnr(network, data["lq"].to(self.device), data.get("gt"), **options)
                for data in dataloader
            ]
        finally:
            network.train(was_training)
        dataset = dataloader.dataset.opt["name"]
        lines = [f"Certified {dataset}"]
        for name in images[0]:
            mean = sum(image[name] for image in images) / len(images)
            lines.append(f"\t # {name}: {mean:.4f} dB")
            if tb_logger:
                tb_logger.add_scalar(f"certified/{dataset}/{name}", mean, current_iter)
        get_root_logger().info("\n".join(lines))


class SmoothedSRGANModel(SmoothedSRModel, SRGANModel):
    """SRGANModel, likewise."""


class SmoothedESRGANModel(SmoothedSRModel, ESRGANModel):
    """ESRGANModel, likewise."""


def certified_psnr(
    network: SmoothedSR,
    lq: Tensor,
    gt: Tensor | None,
    radius: float | list[float],
    n: int = 1000,
    alpha: float = 1e-3,
    predictor: Predictor = "ideal",
    crop_border: int = 0,
    test_y_channel: bool = False,
) -> dict[str, float]:
    """Certify one image, and bound its PSNR from below at each radius.

    Args:
        network: In eval mode.
        lq: (1,C,h,w) in [0, 1].
        gt: (1,C,s*h,s*w) in [0, 1], if there is one.
        radius: l2 norm of the attack on lq, or several.
        n: Certification draws.
        alpha: Failure probability of the image's certificate.
        predictor: "ideal", the worst case for the statistic of infinitely many draws; or "served",
            for that of fresh draws as validation runs it: the PSNR of its expected squared error.
        crop_border: Output pixels left out at each side, as in val.metrics.
        test_y_channel: Compare luma, as in val.metrics.

    Returns:
        dB under a name that says what it is: the stability, which is the PSNR against the network's
        own output; and with gt the PSNR against that.

    Raises:
        ValueError: If an argument is out of its range.
    """
    certificate = network.certify(lq, n=n, alpha=float(alpha))
    references: dict[str, Tensor | None] = (
        {"stability": None} if gt is None else {"stability": None, "psnr against gt": gt}
    )
    radii = [float(each) for each in (radius if isinstance(radius, list) else [radius])]
    curves = {
        name: certificate.psnr_curve(
            radii, reference, predictor=predictor, y=test_y_channel, border=crop_border
        )
        for name, reference in references.items()
    }
    return {
        f"certified {name} ({predictor}, radius {each:g})": value
        for name, curve in curves.items()
        for each, value in zip(radii, curve, strict=True)
    }
