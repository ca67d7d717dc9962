"""Models of BasicSR's YAML that train with noise on the input, and that certify while they
validate.

`SmoothedSRModel` is written to be mixed in: put it before any model that derives from BasicSR's
SRModel.

    class SmoothedMyModel(SmoothedSRModel, MyModel): ...
"""

from typing import Any

from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from torch import Tensor

from smoothsr.certificates.options import Predictor
from smoothsr.smoothing import SmoothedSR
from smoothsr.training import NoiseAugmentation

__all__ = ["SmoothedESRGANModel", "SmoothedSRGANModel", "SmoothedSRModel"]


class SmoothedSRModel(SRModel):
    """SRModel with the options `train.smoothing: {sigma: S or [LO, HI]}` and `val.certify` (see
    `certified_psnr`).
    """

    lq: Tensor

    def init_training_settings(self) -> None:
        """Set up training; the noise follows manual_seed, and differs from process to process."""
        super().init_training_settings()
        smoothing = self.opt["train"].get("smoothing")
        if not smoothing or [*smoothing] != ["sigma"]:
            raise ValueError(
                f"{type(self).__name__} trains with train.smoothing: {{sigma: S or [LO, "
                f"HI]}}, got {smoothing}"
            )
        self.noise = NoiseAugmentation(
            smoothing["sigma"], seed=self.opt["manual_seed"] + self.opt["rank"]
        )

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step on noisy input."""
        self.lq = self.noise.add_noise(self.lq)  # not in feed_data, which validation calls too
        super().optimize_parameters(current_iter)

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
    return {
        f"certified {name} ({predictor}, radius {each:g})": certificate.psnr(
            each, reference, predictor=predictor, y=test_y_channel, border=crop_border
        )
        for name, reference in references.items()
        for each in radii
    }
