"""Train the built-in network: x4, 163 k parameters, photographs from Debian's wallpaper packages.

    python examples/train_builtin.py --sigma 0 0.1 --minutes 80 --polish 11 --out
    builtin.safetensors python examples/train_builtin.py --sigma 0 0   --minutes 50 --out
    builtin-clean.safetensors

A run may be cut off at any time: the same command goes on from `OUT.state`, written once a minute.
The learning rate follows a cosine over the *minutes trained*, so the time that is given is the time
it takes, on any machine; the last sixth runs in float32.

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
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--sigma",
        type=float,
        nargs=2,
        default=(0, 0.1),
        metavar=("LO", "HI"),
        help="noise on the LR input",
    )
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument(
        "--polish", type=float, default=0, metavar="MINUTES", help="of the second phase"
    )
    parser.add_argument(
        "--photos", type=Path, default=Path("photos"), help="where the packages are kept"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("SMOOTHSR_DATA"),
        help="folder with images/Set5, for scores",
    )
    args = parser.parse_args()

    pairs = pyramid(fetch(args.photos))
    areas = np.array([lr[0].numel() for lr, _ in pairs], float)
    areas /= areas.sum()
    print(f"{len(pairs)} images from {len(pairs) // 3} photographs")

    torch.manual_seed(0)
    model = Compact().to(memory_format=torch.channels_last)
    initialize_near_identity(model)
    optimizer = torch.optim.Adam(model.parameters())
    step, trained = 0, 0.0
    state = args.out.with_suffix(".state")
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, trained = saved["step"], saved["trained"]
    rng = np.random.default_rng([0, step])
    noise = NoiseAugmentation(tuple(args.sigma), seed=step)
    handle = noise.attach(model)

    first, budget = 60 * args.minutes, 60 * (args.minutes + args.polish)
    saved_at, running, clock = trained, 0.0, time.monotonic()
    while trained < budget:
        polish = trained >= first
        done = (trained - first) / (budget - first) if polish else trained / first
        rate = (POLISH_RATE if polish else PEAK_RATE) * min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = [crop(pairs, areas, rng) for _ in range(BATCH // 2 if polish else BATCH)]
        lr, hr = (torch.stack(patches).float() / 255 for patches in zip(*batch, strict=True))
        if polish:  # each patch twice, with noise of one strength
            sigma = float(rng.uniform(*args.sigma))
            noise.sigma = (sigma, sigma)
            lr, hr = torch.cat([lr, lr]), torch.cat([hr, hr])
        with torch.autocast("cpu", torch.bfloat16, enabled=done < (0.7 if polish else 5 / 6)):
            sr = model(lr.to(memory_format=torch.channels_last)).float()
        loss = (
            F.mse_loss(sr, hr) + CONSISTENCY * F.mse_loss(*sr.chunk(2))
            if polish
            else F.l1_loss(sr, hr)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05 if polish else 0.5)
        optimizer.step()
        running = loss.item() if step == 0 else 0.99 * running + 0.01 * loss.item()
        step += 1
        trained += time.monotonic() - clock
        clock = time.monotonic()
        if trained - saved_at > 60 or trained >= budget:
            saved_at = trained
            saved = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "trained": trained,
            }
            torch.save(saved, state.with_suffix(".part"))
            os.replace(state.with_suffix(".part"), state)
            scores = ""
            if args.data:
                model.eval()
                scores = "  Set5 " + "  ".join(
                    f"{set5(model, args.data, s):.2f} dB at {s:g}" for s in (0, 0.05)
                )
                model.train()
            print(f"{trained / 60:5.1f} min  step {step}  loss {running:.5f}{scores}", flush=True)
            clock = time.monotonic()

    handle.remove()
    metadata = {
        "architecture": f"SRVGGNetCompact x{SCALE}, 32 features, 16 convolutions, PReLU",
        "recipe": (
            f"examples/train_builtin.py --sigma {args.sigma[0]:g} {args.sigma[1]:g} --minutes "
            f"{args.minutes:g}"
        )
        + f" --polish {args.polish:g}" * (args.polish > 0),
        "steps": str(step),
        "data": "37 photographs of the Debian packages " + ", ".join(PACKAGES),
        "license": "Apache-2.0",
    }
    if args.data:
        model.eval()
        metadata["scores"] = "Set5 x4 Y-PSNR: " + ", ".join(
            f"{set5(model, args.data, s):.2f} dB at noise {s:g}" for s in (0, 0.05)
        )
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, args.out.with_suffix(".part"), metadata)
    os.replace(args.out.with_suffix(".part"), args.out)
    print(f"wrote {args.out}: {metadata.get('scores', 'not scored')}")


if __name__ == "__main__":
    main()
