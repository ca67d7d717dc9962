"""The photographs that the recipes train on, from Debian's wallpaper packages, and patches of
them.
"""

import argparse
import glob
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["PACKAGES", "crop", "fetch", "reduced"]

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


def reduced(paths: Sequence[str], factors: Sequence[int], multiple: int = 1) -> Iterator[Tensor]:
    """Yield each photograph divided by each factor, uint8 (3,H,W), with sides that are multiples
    of a number. Reducing removes JPEG artefacts.
    """
    for path in paths:
        with Image.open(path) as file:
            photo = file.convert("RGB")
            for factor in factors:
                size = [side // (factor * multiple) * multiple for side in photo.size]
                small = photo.resize((size[0], size[1]), Image.Resampling.BICUBIC)
                yield torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def crop(
    views: Sequence[tuple[Tensor, ...]], share: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """Take one random patch, in all resolutions; of two candidates the one with more detail, since
    much of a photograph is out of focus.

    Args:
        views: Of each image the smallest resolution, then integer multiples of it.
        share: How likely each image is.
        side: Of the patch in the smallest resolution.
        rng: Chooses.
    """
    best: tuple[float, list[Tensor]] | None = None
    for _ in range(2):
        view = views[rng.choice(len(views), p=share)]
        top, left = (int(rng.integers(length - side + 1)) for length in view[0].shape[1:])
        patch = []
        for image in view:
            scale = image.shape[1] // view[0].shape[1]
            rows, columns = (slice(scale * at, scale * (at + side)) for at in (top, left))
            patch.append(image[:, rows, columns])
        small = patch[0].float()
        detail = sum(small.diff(dim=axis).abs().mean().item() for axis in (1, 2))
        if best is None or detail > best[0]:
            best = detail, patch
    assert best is not None
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    turned = (torch.rot90(image, turns, (1, 2)) for image in best[1])
    return tuple(image.flip(2) if flip else image for image in turned)


def main() -> None:
    """Print the paths of all photographs, downloaded into the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the packages are kept")
    print("\n".join(fetch(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
