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
import glob
import math
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from smoothsr.adapters.compact import Compact, initialize_near_identity
from smoothsr.metrics import psnr
from smoothsr.training import NoiseAugmentation

PACKAGES = {  # package: the photographs in it (drawings and abstract images are left out)
    "lomiri-wallpapers-16.04": (
        "Bridge_by Dragonfly_by Picture_0B Picture_1A Wine_by aitzgorri_by free_by friends_by "
        "greentock_by life_by picosdeeuropa_by seeding_by sunset_by"
    ),
    "lomiri-wallpapers-20.04": "Kleiber_by",
    "mate-backgrounds": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood "
        "YellowFlower"
    ),
    "plasma-workspace-wallpapers": (
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite "
        "OneStandsOut Path summer_1am"
    ),
}
SCALE, PATCH, BATCH, PEAK_RATE, POLISH_RATE = 4, 48, 8, 1e-3, 4e-4
CONSISTENCY = 0.7  # price of the squared difference between two draws, beside the squared error
Pair = tuple[Tensor, Tensor]  # uint8 (3,h,w) and (3,4h,4w)


def fetch(folder: Path) -> list[str]:
    """Download and unpack what is missing, and list the photographs' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for package, names in PACKAGES.items():
        if not (folder / package).exists():
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg", "-x", archive.name, package + ".part"], cwd=folder, check=True)
            (folder / (package + ".part")).rename(folder / package)
        for name in names.split():
            found = [*glob.glob(f"{folder}/{package}/**/{name}*.jpg", recursive=True)]
            found += glob.glob(
                f"{folder}/{package}/**/{name}/contents/images/*.jpg", recursive=True
            )
            paths.append(max(found, key=os.path.getsize))
    return paths


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
    """Each photograph at a half, a third and a quarter of its size (which removes JPEG artefacts),
    with its LR image.
    """
    pairs = []
    for path in paths:
        with Image.open(path) as file:
            photo = file.convert("RGB")
            for factor in (2, 3, 4):
                size = [side // (factor * SCALE) * SCALE for side in photo.size]
                small = photo.resize((size[0], size[1]), Image.Resampling.BICUBIC)
                hr = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
                pairs.append((bicubic_down(hr), hr))
    return pairs


def crop(pairs: list[Pair], areas: np.ndarray, rng: np.random.Generator) -> Pair:
    """One random aligned patch; of two candidates the one with more detail, since much of a
    photograph is out of focus.
    """
    best: tuple[float, Pair] | None = None
    for _ in range(2):
        lr, hr = pairs[rng.choice(len(pairs), p=areas)]
        top, left = (int(rng.integers(side - PATCH + 1)) for side in lr.shape[1:])
        small = lr[:, top : top + PATCH, left : left + PATCH]
        large = hr[:, SCALE * top : SCALE * (top + PATCH), SCALE * left : SCALE * (left + PATCH)]
        detail = (
            small.float().diff(dim=1).abs().mean().item()
            + small.float().diff(dim=2).abs().mean().item()
        )
        if best is None or detail > best[0]:
            best = detail, (small, large)
    assert best is not None
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    small, large = (torch.rot90(image, turns, (1, 2)) for image in best[1])
    return (small.flip(2), large.flip(2)) if flip else (small, large)


def set5(model: Compact, data: Path, sigma: float) -> float:
    """Mean Y-PSNR over Set5, with Gaussian noise on the LR image."""
    generator, scores = torch.Generator().manual_seed(0), []
    for path in sorted((data / "images/Set5").glob("*.png")):
        images = (
            Image.open(p).convert("RGB")
            for p in (data / f"images/Set5_LRx4/{path.stem}x4.png", path)
        )
        lr, hr = (
            torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 for image in images
        )
        with torch.no_grad():
            out = model(lr + sigma * torch.randn(lr.shape, generator=generator))
        scores.append(psnr(out, hr, border=4, y=True).item())
    return float(np.mean(scores))


@dataclass(frozen=True)
class Options:
    """What a run is told."""

    out: Path
    sigma: tuple[float, float]
    length: float  # of the first phase, in `unit`
    polish: float  # of the second one
    unit: Literal["minutes", "steps"]
    photos: Path
    data: Path | None

    @property
    def command(self) -> str:
        """The recipe, as it is kept beside the weights."""
        low, high = self.sigma
        text = f"train_builtin.py --sigma {low:g} {high:g} --{self.unit} {self.length:g}"
        return f"examples/{text}" + f" --polish {self.polish:g}" * (self.polish > 0)


@dataclass
class Run:
    """The network and how far it is trained: what a run that was cut off goes on from."""

    model: Compact
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, state: Path) -> "Run":
        """Start anew, or from the state of a run that was cut off."""
        torch.manual_seed(0)
        model = Compact().to(memory_format=torch.channels_last)
        initialize_near_identity(model)
        run = cls(model, torch.optim.Adam(model.parameters()))
        if state.exists():
            saved = torch.load(state, weights_only=True)
            model.load_state_dict(saved["model"])
            run.optimizer.load_state_dict(saved["optimizer"])
            run.step, run.seconds = saved["step"], saved["trained"]
        return run

    def save(self, state: Path) -> None:
        """Write the state, whole or not at all."""
        saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        part = state.with_suffix(".part")
        torch.save({**saved, "step": self.step, "trained": self.seconds}, part)
        os.replace(part, state)

    def done(self, unit: str) -> float:
        """How long it was trained, in minutes or steps."""
        return self.step if unit == "steps" else self.seconds / 60


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
    rate = (POLISH_RATE if polish else PEAK_RATE) * min(1.0, (run.step + 1) / 200)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * share))
    lr, hr = (images.float() / 255 for images in batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=share < (0.7 if polish else 5 / 6)):
        sr = run.model(lr.to(memory_format=torch.channels_last)).float()
    if polish:
        first, second = sr.chunk(2)
        loss = F.mse_loss(sr, hr) + CONSISTENCY * F.mse_loss(first, second)
    else:
        loss = F.l1_loss(sr, hr)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.05 if polish else 0.5)
    run.optimizer.step()
    run.step += 1
    return loss.item()


def scores(model: Compact, data: Path | None) -> str:
    """The network's Y-PSNR on Set5, with and without noise."""
    if data is None:
        return "not scored"
    model.eval()
    found = ", ".join(f"{set5(model, data, s):.2f} dB at noise {s:g}" for s in (0, 0.05))
    model.train()
    return f"Set5 x4 Y-PSNR: {found}"


def train(options: Options, run: Run, pairs: list[Pair]) -> None:
    """Train until the time or the steps are over; save and print once a minute and at the end."""
    areas = np.array([lr[0].numel() for lr, _ in pairs], float)
    areas /= areas.sum()
    rng = np.random.default_rng([0, run.step])
    noise = NoiseAugmentation(options.sigma, seed=run.step)
    handle = noise.attach(run.model)
    end, running = options.length + options.polish, 0.0
    saved_at, clock = run.seconds, time.monotonic()
    while run.done(options.unit) < end:
        polish, share = phase(options, run)
        patches = [crop(pairs, areas, rng) for _ in range(BATCH // 2 if polish else BATCH)]
        if polish:  # each patch twice, with noise of one strength
            patches = 2 * patches
            sigma = float(rng.uniform(*options.sigma))
            noise.sigma = (sigma, sigma)
        small, large = (torch.stack(images) for images in zip(*patches, strict=True))
        loss = train_step(run, (small, large), polish=polish, share=share)
        running = 0.99 * running + 0.01 * loss if run.step > 1 else loss
        run.seconds += time.monotonic() - clock
        clock = time.monotonic()
        if run.seconds - saved_at > 60 or run.done(options.unit) >= end:
            saved_at = run.seconds
            run.save(options.out.with_suffix(".state"))
            place = f"{run.seconds / 60:5.1f} min  step {run.step}  loss {running:.5f}"
            print(f"{place}  {scores(run.model, options.data)}", flush=True)
            clock = time.monotonic()
    handle.remove()


def write(options: Options, run: Run) -> None:
    """Write the weights, with what they are and how they were made."""
    metadata = {
        "architecture": f"SRVGGNetCompact x{SCALE}, 32 features, 16 convolutions, PReLU",
        "recipe": options.command,
        "steps": str(run.step),
        "data": "37 photographs of the Debian packages " + ", ".join(PACKAGES),
        "license": "Apache-2.0",
        "scores": scores(run.model, options.data),
    }
    weights = {key: value.contiguous() for key, value in run.model.state_dict().items()}
    part = options.out.with_suffix(".part")
    save_file(weights, part, metadata)
    os.replace(part, options.out)
    print(f"wrote {options.out}: {metadata['scores']}")


def parse() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True)
    add("--sigma", type=float, nargs=2, default=(0, 0.1), metavar=("LO", "HI"), help="LR noise")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="how long to train (default 80)")
    length.add_argument("--steps", type=int, help="how many steps to train instead")
    add("--polish", type=float, default=0, metavar="N", help="minutes or steps of a second phase")
    add("--photos", type=Path, default=Path("photos"), help="where the packages are kept")
    data = os.environ.get("SMOOTHSR_DATA")
    add("--data", type=Path, default=data, help="folder with images/Set5, for scores")
    args = parser.parse_args()
    given = 80.0 if args.minutes is None else args.minutes
    return Options(
        out=args.out,
        sigma=(args.sigma[0], args.sigma[1]),
        length=given if args.steps is None else args.steps,
        polish=args.polish,
        unit="minutes" if args.steps is None else "steps",
        photos=args.photos,
        data=args.data,
    )


def main() -> None:
    """Train and write the network."""
    options = parse()
    pairs = pyramid(fetch(options.photos))
    print(f"{len(pairs)} images from {len(pairs) // 3} photographs")
    run = Run.begin(options.out.with_suffix(".state"))
    train(options, run, pairs)
    write(options, run)


if __name__ == "__main__":
    main()
