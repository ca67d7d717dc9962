"""Does smoothing protect published networks, where does it hurt, and what does it cost? Writes benchmarks/robustness.md.

    SMOOTHSR_DATA=... python benchmarks/robustness.py        # hours on a CPU; killed, it goes on where it was
    SMOOTHSR_DATA=... python benchmarks/robustness.py --models spanx4_ch48 --measure    # one network's share, no table

Central crops of Set5 and of 20 images of B100, x4; median of 21 draws; all attacks are linf 4/255 and drive the output away from
the ground truth. Crops are smaller for the larger networks.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import torch
from tqdm import tqdm

from smoothsr import adapters, conditions, tables
from smoothsr.evaluation import Image, Setting, Study

CROPS = {  # side in LR pixels
    "builtin": 32,
    "builtin-clean": 32,
    "spanx4_ch48": 32,
    "realesr-animevideov3": 32,
    "DITN_Real_x4": 24,
    "DITN_Real_GAN_x4": 24,
    "RealESRGAN_x4plus": 16,
}
SETS: dict[str, Callable[[], Iterator[datasets.Pair]]] = {"Set5": datasets.set5, "B100": datasets.b100}
SIGMAS = (0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08)
METRICS = ("psnr_y", "ssim_y", "lpips")
TRANSFER = {
    "clean": "none",
    "noise .03": "noise:0.03",
    "FGSM": "fgsm:4/255@bare",
    "BIM": "bim:4/255:steps=20@bare",
    "PGD": "pgd:4/255:steps=20@bare",
    "CW": "cw:4/255:steps=20@bare",
}
ADAPTIVE = {"clean": "none", "PGD": TRANSFER["PGD"], "adaptive": "strongest:4/255:steps=20"}


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CROPS), choices=list(CROPS), metavar="NAME", help="(default: all)")
    parser.add_argument("--adaptive-images", type=int, default=5, help="of Set5 that the adaptive attack runs on (default 5)")
    parser.add_argument("--parts", type=Path, default=Path("robustness_parts"), help="folder of the part files")
    parser.add_argument("--measure", action="store_true", help="only measure, for processes that share the work")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    found: dict[str, list[tables.Record]] = {}
    for name in args.models:
        for title, texts, pairs in studies(args.adaptive_images):
            study = study_of(name, texts, args.parts)
            for image in tqdm([cropped(pair, CROPS[name]) for pair in pairs], desc=f"{name}, {title}", disable=None, leave=False):
                study.measure(image)
            found.setdefault(title, []).extend(study.records([pair[0] for pair in pairs])[0])
    if not args.measure:
        part = args.out.with_suffix(".part")
        part.write_text("\n".join(text(found)) + "\n", encoding="utf-8")
        part.replace(args.out)
        print(args.out.read_text(encoding="utf-8"))


def studies(adaptive_images: int) -> list[tuple[str, dict[str, str], list[datasets.Pair]]]:
    """(title, conditions, pairs): the cheap ones on all images, the adaptive one on a few."""
    pairs = {name: list(read()) for name, read in SETS.items()}
    return [*((name, TRANSFER, pairs[name]) for name in SETS), ("adaptive", ADAPTIVE, pairs["Set5"][:adaptive_images])]


def study_of(name: str, texts: dict[str, str], parts: Path) -> Study:
    """One network, bare and at every sigma."""
    spec = name if name.startswith("builtin") else str(datasets.folder() / "checkpoints" / f"{name}.pth")
    (parts / name).mkdir(parents=True, exist_ok=True)
    return Study(
        parts / name,
        {name: adapters.load(spec, scale=4).model},
        [Setting.of(sigma, 21, 0, 0) for sigma in SIGMAS],
        [conditions.parse(text) for text in texts.values()],
        METRICS,
        lpips_weights=datasets.folder() / "metrics" / "lpips_alex.pth",
    )


def cropped(pair: datasets.Pair, side: int) -> Image:
    """The central crop of side x side LR pixels."""
    name, lr, hr = pair
    top, left = ((length - side) // 2 for length in lr.shape[2:])
    lr = lr[..., top : top + side, left : left + side].contiguous()
    return Image(name, lr, hr[..., 4 * top : 4 * (top + side), 4 * left : 4 * (left + side)].contiguous())


def text(found: dict[str, list[tables.Record]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Published networks under attack, bare and smoothed"
    for title, records in found.items():
        heads = ADAPTIVE if title == "adaptive" else TRANSFER
        for metric in METRICS:
            yield from table(title, records, heads, metric)


def table(title: str, records: list[tables.Record], heads: dict[str, str], metric: str) -> Iterator[str]:
    """Yield one table: a row for each network and sigma; the best sigma of a network is bold, and its standard error is given."""
    digits = tables.digits(metric)
    means, best = tables.means(records), tables.best(records, metric)
    yield f"\n## {title}: {metric}\n"
    yield f"| network | sigma | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(heads)
    for row, columns in means.items():
        cells = []
        for condition in heads.values():
            value, error, _ = columns[condition, metric]
            cell = f"{value:{digits}}"
            cells.append(f"**{cell}** ± {error:{digits}}" if best[row.model, condition] == row else cell)
        yield f"| {row.model} | {row.sigma:g} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
