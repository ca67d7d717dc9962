"""Train the built-in network: x4, 163 k parameters, photographs from Debian's wallpaper packages.

    train_builtin.py --sigma 0 0.1 --minutes 80 --polish 11 --out builtin.safetensors
    train_builtin.py --sigma 0 0   --minutes 50 --out builtin-clean.safetensors

A run may be cut off at any time: the same command goes on from `OUT.state`, written once a minute.
The learning rate follows a cosine over the *minutes trained*, so the time that is given is the time
it takes, on any machine; or over --steps, where machines are to do the same. The last sixth runs in
float32.

With --polish a second cosine follows: squared error, and a price on how much outputs of one image
differ between two draws of noise. That costs a little sharpness, and makes certificates stronger,
because those are about just that difference.
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

from smoothsr.adapters.compact import Compact, initialize_near_identity
from smoothsr.metrics import psnr
from smoothsr.training import NoiseAugmentation

SCALE, PATCH, BATCH, PEAK_RATE, POLISH_RATE = 4, 48, 8, 1e-3, 4e-4
CONSISTENCY = 0.7  # price of the squared difference between two draws, beside the squared error
Pair = tuple[Tensor, Tensor]  # uint8 (3,h,w) and (3,4h,4w)


def bicubic_down(hr: Tensor) -> Tensor:
    """Reduce uint8 (3,H,W) by SCALE with an antialiased bicubic kernel, rounded to 8 bits, as the
    benchmarks' LR images are.
    """
    size = (hr.shape[1] // SCALE, hr.shape[2] // SCALE)
    small = F.interpolate(
        hr[None].float(), size, mode="bicubic", antialias=True, align_corners=False
    )
    return small[0].round().clamp(0, 255).byte()


def pyramid(paths: list[str]) -> list[Pair]:
    """Each photograph at a half, a third and a quarter of its size, with its LR image."""
    return [(bicubic_down(hr), hr) for hr in reduced(paths, (2, 3, 4), SCALE)]


def set5(model: nn.Module, data: Path, sigma: float) -> float:
    """Mean Y-PSNR over Set5, with Gaussian noise on the LR image."""
    generator, found = torch.Generator().manual_seed(0), []
    for path in sorted((data / "images/Set5").glob("*.png")):
        lr, hr = open_image(data / f"images/Set5_LRx4/{path.stem}x4.png"), open_image(path)
        with torch.no_grad():
            out = model(lr + sigma * torch.randn(lr.shape, generator=generator))
        found.append(psnr(out, hr, border=4, y=True).item())
    return float(np.mean(found))


@dataclass(frozen=True)
class Options:
    """What a run is told."""

    out: Path
    sigma: tuple[float, float]
    length: float  # of the first phase, in `unit`
    polish: float  # of the second one
    unit: Unit
    photos: Path
    data: Path | None

    @property
    def command(self) -> str:
        """The recipe, as it is kept beside the weights."""
        low, high = self.sigma
        text = f"train_builtin.py --sigma {low:g} {high:g} --{self.unit} {self.length:g}"
        return f"examples/{text}" + f" --polish {self.polish:g}" * (self.polish > 0)


def new_network() -> Compact:
    """The network before training."""
    torch.manual_seed(0)
    network = Compact()
    initialize_near_identity(network)
    return network.to(memory_format=torch.channels_last)


def phase(options: Options, run: Run) -> tuple[bool, float]:
    """Whether the second phase has begun, and which share of the phase is done."""
    done = run.done(options.unit)
    if done < options.length:
        return False, done / options.length
    return True, (done - options.length) / options.polish


def train_step(run: Run, batch: Pair, *, polish: bool, share: float) -> float:
    """One step of Adam on a batch (uint8); return its loss.

    Args:
        run: What is trained.
        batch: LR (B,3,h,w) and HR (B,3,4h,4w), in the second phase each patch twice.
        polish: Whether this is the second phase.
        share: Of the phase that is done.
    """
    lr, hr = (images.float() / 255 for images in batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=share < (0.7 if polish else 5 / 6)):
        sr = run.model(lr.to(memory_format=torch.channels_last)).float()
    if polish:
        first, second = sr.chunk(2)
        loss = F.mse_loss(sr, hr) + CONSISTENCY * F.mse_loss(first, second)
    else:
        loss = F.l1_loss(sr, hr)
    rate = (POLISH_RATE if polish else PEAK_RATE) * half_cosine(share)
    return run.learn(loss, rate, clip=0.05 if polish else 0.5)


def scores(model: nn.Module, data: Path | None) -> str:
    """The network's Y-PSNR on Set5, with and without noise."""
    if data is None:
        return "not scored"
    model.eval()
    found = ", ".join(f"{set5(model, data, s):.2f} dB at noise {s:g}" for s in (0, 0.05))
    model.train()
    return f"Set5 x4 Y-PSNR: {found}"


def train(options: Options, run: Run, pairs: list[Pair]) -> None:
    """Train until the time or the steps are over."""
    areas = np.array([lr[0].numel() for lr, _ in pairs], float)
    areas /= areas.sum()
    rng = np.random.default_rng([0, run.step])
    noise = NoiseAugmentation(options.sigma, seed=run.step)
    handle = noise.attach(run.model)

    def step() -> float:
        polish, share = phase(options, run)
        patches = [crop(pairs, areas, PATCH, rng) for _ in range(BATCH // 2 if polish else BATCH)]
        if polish:  # each patch twice, with noise of one strength
            patches = 2 * patches
            sigma = float(rng.uniform(*options.sigma))
            noise.sigma = (sigma, sigma)
        small, large = (torch.stack(images) for images in zip(*patches, strict=True))
        return train_step(run, (small, large), polish=polish, share=share)

    end = options.length + options.polish
    run.train(end, options.unit, step, partial(scores, run.model, options.data))
    handle.remove()


def described(options: Options, run: Run) -> dict[str, str]:
    """What the weights are and how they were made."""
    return {
        "architecture": f"SRVGGNetCompact x{SCALE}, 32 features, 16 convolutions, PReLU",
        "recipe": options.command,
        "data": "37 photographs of the Debian packages " + ", ".join(PACKAGES),
        "scores": scores(run.model, options.data),
    }


def parse() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_options(parser, minutes=80)
    add("--sigma", type=float, nargs=2, default=(0, 0.1), metavar=("LO", "HI"), help="LR noise")
    add("--polish", type=float, default=0, metavar="N", help="minutes or steps of a second phase")
    args = parser.parse_args()
    length, unit = length_of(args)
    return Options(
        out=args.out,
        sigma=(args.sigma[0], args.sigma[1]),
        length=length,
        polish=args.polish,
        unit=unit,
        photos=args.photos,
        data=args.data,
    )


def main() -> None:
    """Train and write the network."""
    options = parse()
    pairs = pyramid(fetch(options.photos))
    print(f"{len(pairs)} images from {len(pairs) // 3} photographs")
    run = Run.begin(new_network(), options.out.with_suffix(".state"))
    train(options, run, pairs)
    write(options.out, run, described(options, run))


if __name__ == "__main__":
    main()
