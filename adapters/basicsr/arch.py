"""The architecture `SmoothedSR` of BasicSR's YAML: any registered architecture under randomized
smoothing.
"""

from typing import Any

from basicsr.archs import build_network
from torch import Tensor

from smoothsr import smoothing
from smoothsr.adapters.fitted import Fitted, Found

__all__ = ["SmoothedSR"]


class SmoothedSR(smoothing.SmoothedSR):
    """Smooth in eval mode; in train mode be the bare network, which the models of this package
    train for smoothing.

    Checkpoints are those of the bare network, in both directions. Where arch has a `window_size`,
    as SwinIR and HAT do, images are padded to its multiples, and the output is cropped by its
    `upscale`.

    Args:
        arch: The network, as network_g would have it without smoothing: {"type": "RRDBNet", ...}.
        sigma: Noise standard deviation, for inputs in [0, 1].
        n: Draws of each output, odd for the median; None is 6 for the mean in pairs, else 21.
        agg: "median", "mean", or a percentile such as "p10".
        tile: Side of the output tiles in LR pixels; None: the whole image.
        halo: LR pixels that a patch reads beyond its tile on every side.
        halo_noise: How many times sigma the noise on the halo is.
        antithetic: Whether the mean's draws come in pairs of opposite noise; None: yes.
        denoiser: What noisy patches pass before the network in eval mode: "builtin" or a file;
            None: nothing. Not part of checkpoints.
        denoiser_sigma: How strong it takes the noise to be; None: the usual.

    Raises:
        KeyError: If no such architecture is registered.
        OSError: If there is no such denoiser.
        ValueError: If an argument is out of its range, or arch has a window_size without an
            upscale.
    """

    def __init__(
        self,
        arch: dict[str, Any],
        sigma: float,
        n: int | None = None,
        agg: str = "median",
        tile: int | None = None,
        halo: int = 4,
        halo_noise: float = 1.0,
        antithetic: bool | None = None,
        denoiser: str | None = None,
        denoiser_sigma: float | None = None,
    ) -> None:
        network = build_network(arch)
        if "window_size" in arch:
            if "upscale" not in arch:
                raise ValueError(
                    f"arch {arch['type']} has a window_size, so SmoothedSR has to crop its "
                    "output: add upscale"
                )
            found = Found(
                network,
                arch["type"],
                arch["upscale"],
                arch.get("in_chans", 3),
                multiple_of=arch["window_size"],
            )
            network = Fitted(found)
        options: dict[str, Any] = {"tile": tile, "halo": halo, "halo_noise": halo_noise}
        options |= {"denoiser": denoiser, "denoiser_sigma": denoiser_sigma}
        super().__init__(network, float(sigma), n, agg, antithetic=antithetic, **options)

    def forward(self, lr: Tensor, **options: Any) -> Tensor:
        """Map lr (B,C,h,w) in [0, 1] to the served output, or in train mode to the bare
        network's.
        """
        return self.model(lr) if self.training else super().forward(lr, **options)
