"""Train the U-Net of examples/unet.py plainly, on noisy inputs, or on attacked ones.

    train_unet.py --method noise --scale 4 --steps 1000 --out unet_noise_x4.safetensors

The data are photographs from Debian's wallpaper packages: crops of 80 pixels, made small by the
scale and enlarged to their size again. A run may be cut off at any time: the same command goes on
from `OUT.state`, written once a minute, to the weights that it would have had uninterrupted.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from photographs import PACKAGES, crop, fetch, reduced
from torch import Tensor, nn
from torch.nn import functional as F
from training_run import Run, Unit, add_options, half_cosine, length_of, open_image, write
from unet import STD, UNet

from smoothsr.attacks import bim, l2_budget
from smoothsr.metrics import psnr, to_8bit

__all__ = [
    "ATTACK_STEPS",
    "BATCH",
    "NOISE",
    "PEAK_RATE",
    "SCALES",
    "SIDE",
    "Method",
    "enlarged",
]

Method = Literal["plain", "noise", "adversarial"]
SCALES = (2, 4)
NOISE = {2: 0.1 * STD, 4: 0.3 * STD}  # standard deviation on the input, for each scale
ATTACK, ATTACK_STEPS = 0.02 * STD, 5  # root mean square change of the input

FACTORS = (3, 6)  # by which photographs are reduced
SIDE, BATCH, PEAK_RATE = 80, 16, 5e-3


def new_network() -> UNet:
    """The network before training."""
    torch.manual_seed(0)
    return UNet().to(memory_format=torch.channels_last)


def enlarged(hr: Tensor, scale: int) -> Tensor:
    """Reduce images (B,3,h,w) in [0, 1] by a scale and enlarge them to their size again, bilinearly
    both times; 8-bit values.
    """
    small = F.interpolate(hr, scale_factor=1 / scale, mode="bilinear", antialias=True)
    return to_8bit(F.interpolate(small, hr.shape[2:], mode="bilinear")) / 255


def attacked(model: nn.Module, lr: Tensor, hr: Tensor) -> Tensor:
    """Change inputs so that the outputs move away from the truth: l2 PGD on the network in eval
    mode, all tensors (B,3,h,w).
    """
    eps = l2_budget(ATTACK, lr)
    model.eval()
    found = bim(
        model, lr, hr, eps=eps, norm="l2", steps=ATTACK_STEPS, step_size=2.5 * eps / ATTACK_STEPS
    )
    model.train()
    return found


def inputs(
    model: nn.Module, hr: Tensor, method: Method, scale: int, rng: np.random.Generator
) -> Tensor:
    """Make of the truth (B,3,h,w) what the network learns from, of the same shape."""
    lr = enlarged(hr, scale).contiguous(memory_format=torch.channels_last)
    if method == "noise":
        return lr + NOISE[scale] * torch.from_numpy(rng.standard_normal(lr.shape, np.float32))
    return attacked(model, lr, hr) if method == "adversarial" else lr


def train_step(
    run: Run,
    views: Sequence[tuple[Tensor, ...]],
    share: np.ndarray,
    method: Method,
    scale: int,
    unit: Unit,
    length: float,
) -> float:
    """One step of Adam on crops that its number tells; return its loss, the squared error."""
    rng = np.random.default_rng([0, run.step])
    crops = [crop(views, share, SIDE, rng)[0] for _ in range(BATCH)]
    hr = torch.stack(crops).float() / 255
    loss = F.mse_loss(run.model(inputs(run.model, hr, method, scale, rng)), hr)
    return run.learn(loss, PEAK_RATE * half_cosine(run.done(unit) / length), clip=1.0)


@torch.no_grad()
def scores(model: nn.Module, scale: int, data: Path | None) -> str:
    """The PSNR on central crops of Set5, of the input and of the output."""
    if data is None:
        return "not scored"
    model.eval()
    found = []
    for path in sorted((data / "images/Set5").glob("*.png")):
        image = open_image(path)
        top, left = ((length - SIDE) // 2 for length in image.shape[2:])
        hr = image[..., top : top + SIDE, left : left + SIDE]
        lr = enlarged(hr, scale)
        found.append([psnr(each, hr).item() for each in (lr, model(lr).clamp(0, 1))])
    model.train()
    before, after = np.mean(found, axis=0)
    return f"Set5 x{scale} PSNR: {before:.2f} dB before, {after:.2f} dB after"


def main() -> None:
    """Train and write the network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, minutes=20)
    parser.add_argument("--method", choices=get_args(Method), required=True)
    parser.add_argument("--scale", type=int, choices=SCALES, required=True)
    args = parser.parse_args()
    length, unit = length_of(args)
    views = [(image,) for image in reduced(fetch(args.photos), FACTORS)]
    areas = np.sqrt([image.numel() for image, *_ in views])  # small images count for more
    print(f"{len(views)} images from {len(views) // len(FACTORS)} photographs")
    run = Run.begin(new_network(), args.out.with_suffix(".state"))
    step = partial(
        train_step, run, views, areas / areas.sum(), args.method, args.scale, unit, length
    )
    run.train(length, unit, step, partial(scores, run.model, args.scale, args.data))
    metadata = {
        "architecture": "examples/unet.py:UNet",
        "recipe": f"examples/train_unet.py --method {args.method} --scale {args.scale} "
        f"--{unit} {length:g}",
        "data": "37 photographs of the Debian packages " + ", ".join(PACKAGES),
        "minutes": f"{run.seconds / 60:.1f}",
        "scores": scores(run.model, args.scale, args.data),
    }
    write(args.out, run, metadata)


if __name__ == "__main__":
    main()
