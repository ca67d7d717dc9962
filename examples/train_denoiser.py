"""Train the built-in denoiser: 312 k parameters, photographs from Debian's wallpaper packages.

    train_denoiser.py --steps 30000 --out denoiser.safetensors

A run may be cut off at any time: the same command goes on from `OUT.state`, written once a minute.
The learning rate follows a cosine over the steps, or over --minutes of training.

The photographs are reduced to the sharpness of the images that are to be enlarged. Half of the
batches are patches of 48 pixels with noise of one strength. The other half is cut into small tiles
with noise that is stronger on their rim, as certificates of small tiles want it.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from photographs import PACKAGES, crop, fetch, reduced
from torch import Tensor, nn
from torch.nn import functional as F
from training_run import Run, Unit, add_options, half_cosine, length_of, open_image, write

from smoothsr.adapters.ffdnet import ResidualFFDNet
from smoothsr.metrics import psnr

FEATURES, CONVOLUTIONS = 64, 10
FACTORS = (4, 6, 9, 12)  # by which photographs are reduced
PATCH, BATCH, PEAK_RATE, STRONGEST = 48, 16, 1e-3, 0.15
TILES = (6, 8, 12, 16, 24)  # sides of small patches, halo included; PATCH is a multiple
HALOS = (1, 2)


def new_network() -> ResidualFFDNet:
    """The network before training."""
    torch.manual_seed(0)
    network = ResidualFFDNet(3, FEATURES, CONVOLUTIONS)
    layers = [layer for layer in network.model if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in layers[1:-1]:  # a plain chain trains if it begins near the identity
            layer.weight.mul_(0.5)
            for i in range(FEATURES):
                layer.weight[i, i, 1, 1] += 1
        layers[-1].weight.mul_(0.1)
        layers[-1].get_parameter("bias").zero_()
    return network.to(memory_format=torch.channels_last)


def levels(count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Draw how strong the noise is on each pixel of some patches, (count,1,side,side): on whole
    patches one strength, on small ones another, not less, on a rim of one or two pixels.
    """
    inner = rng.uniform(0, STRONGEST, (count, 1, 1, 1))
    if side == PATCH:
        return torch.from_numpy(inner).float().expand(-1, -1, side, side)
    level = torch.from_numpy(rng.uniform(inner, STRONGEST)).float().repeat(1, 1, side, side)
    halo = int(rng.choice(HALOS))
    level[..., halo : side - halo, halo : side - halo] = torch.from_numpy(inner).float()
    return level


def tiles_of(patches: Tensor, side: int) -> Tensor:
    """Cut (B,C,PATCH,PATCH) into all its tiles, (many,C,side,side)."""
    columns = F.unfold(patches, side, stride=side)
    return columns.transpose(1, 2).reshape(-1, patches.shape[1], side, side)


@dataclass(frozen=True)
class Photographs:
    """Where batches come from."""

    views: list[tuple[Tensor, ...]]
    share: np.ndarray

    @classmethod
    def of(cls, paths: list[str]) -> "Photographs":
        """Reduce photographs; small images count for more than their area."""
        views: list[tuple[Tensor, ...]] = [(image,) for image in reduced(paths, FACTORS)]
        share = np.sqrt([image[0].numel() for image, *_ in views])
        return cls(views, share / share.sum())

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw clean patches (B,3,h,w) in [0, 1], and the noise's strength on them (B,1,h,w)."""
        patches = [crop(self.views, self.share, PATCH, rng)[0] for _ in range(BATCH)]
        clean = torch.stack(patches).float() / 255
        side = PATCH if rng.random() < 0.5 else int(rng.choice(TILES))
        clean = tiles_of(clean, side)
        return clean, levels(len(clean), side, rng)


def train_step(
    run: Run, photographs: Photographs, rng: np.random.Generator, unit: Unit, length: float
) -> float:
    """One step of Adam; return its loss, the absolute error."""
    clean, level = photographs.batch(rng)
    noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
    noisy = (clean + level * noise).to(memory_format=torch.channels_last)
    loss = F.l1_loss(run.model(noisy, level), clean)
    return run.learn(loss, PEAK_RATE * half_cosine(run.done(unit) / length), clip=0.5)


@torch.no_grad()
def scores(network: nn.Module, data: Path | None) -> str:
    """The PSNR on the LR images of Set5, before and after."""
    if data is None:
        return "not scored"
    rng, found = np.random.default_rng(0), []
    for sigma in (0.03, 0.05, 0.1):
        values = []
        for path in sorted((data / "images/Set5_LRx4").glob("*.png")):
            clean = open_image(path)
            noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
            output = network(clean + sigma * noise, torch.full_like(clean[:, :1], sigma)).clamp(
                0, 1
            )
            values.append(psnr(output, clean).item())
        found.append(f"{np.mean(values):.2f} dB at noise {sigma:g}")
    return f"Set5 LR x4 PSNR: {', '.join(found)}"


def main() -> None:
    """Train and write the network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, minutes=60)
    args = parser.parse_args()
    length, unit = length_of(args)
    photographs = Photographs.of(fetch(args.photos))
    count = len(photographs.views)
    print(f"{count} images from {count // len(FACTORS)} photographs")
    run = Run.begin(new_network(), args.out.with_suffix(".state"))
    rng = np.random.default_rng([0, run.step])
    step = partial(train_step, run, photographs, rng, unit, length)
    run.train(length, unit, step, partial(scores, run.model, args.data))
    run.model.half().float()  # as the file holds them
    metadata = {
        "architecture": f"ResidualFFDNet, {FEATURES} features, {CONVOLUTIONS} convolutions",
        "recipe": f"examples/train_denoiser.py --{unit} {length:g}",
        "data": "37 photographs of the Debian packages " + ", ".join(PACKAGES),
        "scores": scores(run.model, args.data),
    }
    write(args.out, run, metadata, torch.float16)


if __name__ == "__main__":
    main()
