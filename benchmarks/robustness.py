"""Does smoothing protect published networks, where does it hurt, and what does it cost? Writes benchmarks/robustness.md.

    SMOOTHSR_DATA=... python benchmarks/robustness.py        # hours on a CPU; killed, it goes on where it was
    SMOOTHSR_DATA=... python benchmarks/robustness.py --models spanx4_ch48 --measure    # one network's share, no table

Central crops of Set5 and of 20 images of B100, x4; median of 21 draws; all attacks are linf 4/255 and drive the output away from
the ground truth. Crops are smaller for the larger networks.
"""

import argparse
from collections.abc import Iterator
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
ADAPTED = ("builtin", "builtin-clean", "spanx4_ch48")  # what the adaptive attack runs on, which takes long
FEWER = {"RealESRGAN_x4plus": 2}  # images of each set, where it is not all
SETS = {"Set5": datasets.set5, "B100": datasets.b100}
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
    parser.add_argument("--adaptive", nargs="*", default=ADAPTED, metavar="NAME", help=f"(default: {' '.join(ADAPTED)})")
    parser.add_argument("--adaptive-images", type=int, default=3, help="of Set5 that the adaptive attack runs on (default 3)")
    parser.add_argument("--parts", type=Path, default=Path("robustness_parts"), help="folder of the part files")
    parser.add_argument("--measure", action="store_true", help="only measure, for processes that share the work")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    found: dict[str, list[tables.Record]] = {}
    for name in args.models:
        for title, texts, everything in studies(args.adaptive_images):
            if title == "adaptive" and name not in args.adaptive:
                continue
            pairs = everything[: FEWER.get(name)]
            study = study_of(name, texts, args.parts)
            for image in tqdm([cropped(pair, CROPS[name]) for pair in pairs], desc=f"{name}, {title}", disable=None, leave=False):
                study.measure(image)
            found.setdefault(title, []).extend(study.records([pair[0] for pair in pairs])[0])
    if not args.measure:
        part = args.out.with_suffix(".part")
        part.write_text("\n".join(page(found)) + "\n", encoding="utf-8")
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


def page(found: dict[str, list[tables.Record]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from ["# Published networks under attack, bare and smoothed", "", "Made by `python benchmarks/robustness.py`.", ""]
    sides = ", ".join(f"{name} {side}" for name, side in CROPS.items())
    yield f"Central crops, x4, of so many LR pixels a side: {sides}. Median of 21 draws; attacks are linf 4/255 away from the"
    yield "ground truth, 20 steps; means over images. Sigma 0 is the bare network; bold is a network's best sigma, given with the"
    yield "standard error over images. Luma, border of 4 pixels cropped; LPIPS of AlexNet on the whole crop."
    for title, records in found.items():
        adaptive = title == "adaptive"
        counts = images(records)
        fewer = "".join(f"; {name}: {count}" for name, count in counts.items() if count < max(counts.values()))
        yield f"\n## {'Adaptive attack' if adaptive else f'{title}: attacks on the bare network'}\n"
        if adaptive:
            yield f"{max(counts.values())} images of Set5{fewer}. It aims at what the row serves: the worst, for each image, of"
            yield "all attacks on the bare network, and of PGD through the median, the mean and single draws of the smoother."
        else:
            yield f"{max(counts.values())} images{fewer}."
            yield "For smoothed rows these are transfer attacks; every row of a network has the same attacked input."
        for metric in METRICS:
            yield from table(records, ADAPTIVE if adaptive else TRANSFER, metric)
        yield ""
        yield from summary(records, "adaptive" if adaptive else "PGD", ADAPTIVE if adaptive else TRANSFER)


def images(records: list[tables.Record]) -> dict[str, int]:
    """Count the images of each network."""
    seen = {(record["model"], record["image"]) for record in records}
    return {name: sum(model == name for model, _ in seen) for name in CROPS if any(model == name for model, _ in seen)}


def summary(records: list[tables.Record], attack: str, heads: dict[str, str]) -> Iterator[str]:
    """Say for each network what the sigma that helps most against an attack brings, and costs on clean images."""
    means, best = tables.means(records), tables.best(records, "psnr_y")
    for name in dict.fromkeys(row.model for row in means):
        bare = next(row for row in means if row.model == name and not row.sigma)
        row = best[name, heads[attack]]

        def change(condition: str, metric: str, row: tables.Row = row, bare: tables.Row = bare) -> float:
            return means[row][heads[condition], metric].value - means[bare][heads[condition], metric].value

        if not row.sigma:
            yield f"- {name}: no sigma helps against {attack}."
        else:
            under, clean = ([change(head, metric) for metric in ("psnr_y", "lpips")] for head in (attack, "clean"))
            gain = f"{under[0]:+.2f} dB and {under[1]:+.3f} LPIPS under {attack}"
            yield f"- {name}: sigma {row.sigma:g} changes {gain}, {clean[0]:+.2f} dB and {clean[1]:+.3f} LPIPS on clean images."


def table(records: list[tables.Record], heads: dict[str, str], metric: str) -> Iterator[str]:
    """Yield one table: a row for each network and sigma; the best sigma of a network is bold, and its standard error is given."""
    digits = tables.digits(metric)
    means, best = tables.means(records), tables.best(records, metric)
    yield f"\n{metric}{', lower is better' if metric in tables.LOWER_IS_BETTER else ''}:\n"
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
