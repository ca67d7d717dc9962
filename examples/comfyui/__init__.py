"""A ComfyUI node: upscale with any upscale model, smoothed, so that noise in the image does not
break the output.

ComfyUI finds it when this folder lies in its custom_nodes folder; see README.md.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from smoothsr import SmoothedSR
from smoothsr.adapters.fitted import fit
from smoothsr.adapters.spandrel import from_descriptor

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]


class SmoothUpscale:
    """Upscale noisy copies of an image and take the median of each output value."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs, as ComfyUI asks for them."""
        fine = {"step": 0.001, "round": 0.001}
        sigma = _number(0.03, (0.001, 1.0), "noise, for values in 0..1", **fine)
        copies = "noisy copies, odd for the median; the mean does with 7"
        n = _number(21, (1, 999), copies, step=2)
        tile = _number(256, (0, 8192), "pixels of the input; 0: the whole image at once", step=8)
        seams = "pixels read beyond a tile; seams show where it is too small"
        halo = _number(16, (0, 256), seams)
        # Without the last, ComfyUI would change an input of this name after every run.
        fresh = "0: fresh noise at every run"
        seed = _number(0, (0, 2**53 - 1), fresh, control_after_generate=False)
        strength = "how strong the denoiser takes the noise to be; 0: the usual"
        denoiser_sigma = _number(0.0, (0.0, 1.0), strength, **fine)
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL",),
                "image": ("IMAGE",),
                "sigma": ("FLOAT", sigma),
                "n": ("INT", n),
                "agg": (["median", "mean"],),
                "tile": ("INT", tile),
                "halo": ("INT", halo),
                "seed": ("INT", seed),
            },
            "optional": {  # so that workflows that were saved without them still run
                "denoiser": (["none", "builtin"],),
                "denoiser_sigma": ("FLOAT", denoiser_sigma),
            },
        }

    @classmethod
    def IS_CHANGED(cls, seed: int, **_: Any) -> float:
        """Tell ComfyUI to run again, instead of showing its last output, where noise is fresh: NaN
        equals nothing.
        """
        return math.nan if seed == 0 else seed

    def upscale(
        self,
        upscale_model: Any,
        image: torch.Tensor,
        sigma: float,
        n: int,
        agg: str,
        tile: int,
        halo: int,
        seed: int,
        denoiser: str = "none",
        denoiser_sigma: float = 0.0,
    ) -> tuple[torch.Tensor]:
        """Smooth the descriptor's network: the descriptor itself clamps its output and is no
        nn.Module.

        Args:
            upscale_model: spandrel's ImageModelDescriptor, as "Load Upscale Model" gives it.
            image: (B,H,W,C) in [0, 1], as all images of ComfyUI.
            sigma: Noise standard deviation, for values in [0, 1].
            n: Noisy copies.
            agg: "median" or "mean".
            tile: Side of the tiles in pixels of the input, 0 for the whole image.
            halo: Pixels that are read beyond a tile.
            seed: 0 for fresh noise.
            denoiser: What noisy copies pass before the network: "builtin", or "none".
            denoiser_sigma: How strong it takes the noise to be; 0 for the usual.

        Returns:
            One image batch (B,s*H,s*W,C) in [0, 1].

        Raises:
            ValueError: If the model takes another number of channels than the image has, or than it
            makes.
        """
        channels = upscale_model.input_channels
        if image.shape[-1] != channels:
            raise ValueError(
                f"the upscale model takes images of {channels} channels, got one of "
                f"{image.shape[-1]}"
            )
        smoothed = SmoothedSR(
            fit(from_descriptor(upscale_model)),
            sigma,
            n,
            agg,
            tile=tile or None,
            halo=halo,
            seed=seed or None,
            **_before(denoiser, denoiser_sigma),
        )
        home = upscale_model.device
        device, progress = _ready(upscale_model)
        try:
            with torch.no_grad():
                sr = smoothed.to(device)(image.movedim(-1, 1).to(device), progress=progress)
        finally:
            upscale_model.to(home)
        return (sr.movedim(1, -1).to(image.device),)


def _ready(upscale_model: Any) -> tuple[torch.device, Callable[[int, int], None] | None]:
    """Make room on ComfyUI's device, and return it with ComfyUI's progress bar; outside of ComfyUI
    the model's own device.
    """
    try:
        from comfy import model_management, utils
    except ImportError:
        return upscale_model.device, None
    device = model_management.get_torch_device()
    model_management.free_memory(model_management.module_size(upscale_model.model), device)
    return device, utils.ProgressBar(1).update_absolute


def _number(
    default: float, limits: tuple[float, float], tooltip: str, **options: Any
) -> dict[str, Any]:
    """Declare the input of a number."""
    least, most = limits
    return {"default": default, "min": least, "max": most, "tooltip": tooltip, **options}


def _before(denoiser: str, sigma: float) -> dict[str, Any]:
    """Make SmoothedSR's options of the node's."""
    return {} if denoiser == "none" else {"denoiser": denoiser, "denoiser_sigma": sigma or None}


NODE_CLASS_MAPPINGS = {"SmoothUpscaleWithModel": SmoothUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"SmoothUpscaleWithModel": "Smooth upscale (model)"}
