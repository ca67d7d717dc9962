"""Does smoothing protect published networks, where does it hurt, and what does it cost? Writes
benchmarks/robustness.md.

    SMOOTHSR_DATA=... python benchmarks/robustness.py
    SMOOTHSR_DATA=... python benchmarks/robustness.py --models spanx4_ch48 --measure

The first takes two hours of two cores; killed, it goes on where it was. The second measures one
network's share, and makes no table.

Central crops of Set5 and of 20 images of B100, x4; median of 21 draws; all attacks are linf 4/255
and drive the output away from the ground truth. Crops are smaller for the larger networks.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from smoothsr.evaluation import conditions, statistics
from smoothsr.evaluation.records import Record, Row, Setting
from smoothsr.evaluation.statistics import Mean
from smoothsr.evaluation.study import Study
from smoothsr.files.atomic import replacing
from smoothsr.reports import figures
from smoothsr.reports.curves import curves

CROPS = {  # side in LR pixels
    "builtin": 32,
    "builtin-clean": 32,
    "spanx4_ch48": 32,
    "realesr-animevideov3": 32,
    "DITN_Real_x4": 24,
    "DITN_Real_GAN_x4": 24,
    "RealESRGAN_x4plus": 16,
}
FEWER = {"RealESRGAN_x4plus": 2}  # images of each set, where it is not all
SIGMAS = (0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08)
METRICS = ("psnr_y", "ssim_y", "lpips")
TRANSFER = {
    "FGSM": "fgsm:4/255@bare",
    "BIM": "bim:4/255:steps=50@bare",
    "PGD": "pgd:4/255:steps=50@bare",
    "CW": "cw:4/255:steps=50@bare",
}
ADAPTIVE = {"adaptive": "pgd:4/255:steps=50:via=mean:draws=5"}
WORST = "worst"  # for each image, of all attacks
CONDITIONS = {"clean": "none", "noise .03": "noise:0.03", **TRANSFER}
Set = tuple[Callable[[], Iterable[datasets.Pair]], int | None, dict[str, str]]
SETS: dict[str, Set] = {  # images, how many of them, and conditions
    "Set5": (datasets.set5, None, CONDITIONS | ADAPTIVE),
    "B100": (datasets.b100, None, CONDITIONS),
    "B100, the first five, with the adaptive attack": (datasets.b100, 5, CONDITIONS | ADAPTIVE),
}
LABELS = {
    "none": "clean",
    TRANSFER["PGD"]: "PGD made for the bare network",
    WORST: "the worst of all attacks",
}


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(CROPS),
        choices=list(CROPS),
        metavar="NAME",
        help="(default: all)",
    )
    parser.add_argument(
        "--parts", type=Path, default=Path("robustness_parts"), help="folder of the part files"
    )
    parser.add_argument(
        "--measure", action="store_true", help="only measure, for processes that share the work"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    found: dict[str, list[Record]] = {title: [] for title in SETS}
    for name in args.models:
        for title, (read, count, heads) in SETS.items():
            study, pairs = study_of(name, heads, args.parts), list(read())[: FEWER.get(name, count)]
            for image in tqdm(
                [datasets.cropped(pair, CROPS[name]) for pair in pairs],
                desc=f"{name}, {title}",
                disable=None,
                leave=False,
            ):
                study.measure(image)
                found[title] += with_the_worst(study.records(image) or [])
    if not args.measure:
        figure = args.out.with_suffix(".png")
        figures.save_figure(figure_of(found["Set5"]), figure, dpi=60)
        with replacing(args.out) as part:
            part.write_text("\n".join(page(found, figure.name)) + "\n", encoding="utf-8")
        print(args.out.read_text(encoding="utf-8"))


def with_the_worst(records: Sequence[Record]) -> list[Record]:
    """Add, for each image, network and sigma, the scores under the attack that leaves the lowest
    PSNR.
    """
    attacked: dict[tuple[str, Row], list[Record]] = {}
    for record in records:
        if record.condition in {**TRANSFER, **ADAPTIVE}.values():
            attacked.setdefault((record.image, record.row), []).append(record)
    worst = [min(group, key=lambda record: record.scores["psnr_y"]) for group in attacked.values()]
    return [*records, *(replace(record, condition=WORST) for record in worst)]


def study_of(name: str, heads: dict[str, str], parts: Path) -> Study:
    """One network, bare and at every sigma."""
    (parts / name).mkdir(parents=True, exist_ok=True)
    return Study(
        parts / name,
        {name: datasets.network(name)},
        [Setting.of(sigma, 21, None, 0) for sigma in SIGMAS],
        [conditions.parse(text) for text in heads.values()],
        METRICS,
        lpips_weights=datasets.folder() / "metrics" / "lpips_alex.pth",
    )


def page(found: dict[str, list[Record]], figure: str) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from [
        "# Published networks under attack, bare and smoothed",
        "",
        "Made by `python benchmarks/robustness.py`.",
        "",
    ]
    sides = ", ".join(f"{name} {CROPS[name]}" for name in counts(found["Set5"]))
    yield (
        f"Central crops, x4, of so many LR pixels a side: {sides}. Median of 21 draws; attacks "
        "are linf 4/255 away from the"
    )
    yield (
        "ground truth, of 50 steps; means over images. Sigma 0 is the bare network. Luma, border "
        "of 4 pixels cropped; LPIPS of"
    )
    yield (
        "AlexNet on the whole crop. FGSM, BIM, PGD and CW are made for the bare network, so for "
        "smoothed rows they are transfer"
    )
    yield (
        "attacks, the same for every sigma; the adaptive one is PGD through the mean of 5 fresh "
        "draws of what the row serves."
    )
    yield (
        "The worst is that of each image, by its PSNR. Another attack may find more: no such "
        "table proves robustness."
    )
    yield from in_short(found["Set5"])
    yield (
        "\n![PSNR against sigma for each network: clean, under PGD made for the bare network, "
        f"under the worst attack]({figure})"
    )
    for title, records in found.items():
        images = counts(records)
        fewer = "".join(
            f"; {name}: {count}" for name, count in images.items() if count < max(images.values())
        )
        yield f"\n## {title}\n"
        yield (
            f"{max(images.values())} images{fewer}. Bold is a network's best sigma, given with "
            "the standard error over images."
        )
        for metric in METRICS:
            yield from table(records, {**SETS[title][2], WORST: WORST}, metric)


def counts(records: Iterable[Record]) -> dict[str, int]:
    """Count the images of each network."""
    seen = {(record.row.model, record.image) for record in records}
    return {
        name: sum(model == name for model, _ in seen)
        for name in CROPS
        if any(model == name for model, _ in seen)
    }


def in_short(records: Sequence[Record]) -> Iterator[str]:
    """Say for each network what the sigma that holds best brings, and what it costs."""
    means, best = statistics.means(records), statistics.best(records, "psnr_y")
    gained, lost = dict[str, Mean](), dict[str, Mean]()
    yield "\n## In short\n"
    yield (
        "The sigma of each network that holds best against the worst of all attacks, from bare "
        "to smoothed, on Set5:\n"
    )
    yield (
        "| network | sigma | worst attack, dB | LPIPS | PGD made for the bare network, dB | "
        "clean, dB | LPIPS |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name in counts(records):
        bare = next(row for row in means if row.model == name and not row.sigma)
        row = best[name, WORST]
        yield f"| {name} | {row.sigma:g} | {' | '.join(from_to(means[bare], means[row]))} |"
        if row.sigma:
            gained[name] = statistics.change(records, row, bare, WORST, "psnr_y")
            lost[name] = statistics.change(records, row, bare, "none", "psnr_y")
    helped = [name for name in gained if gained[name].value >= 1]
    barely = [name for name in gained if name not in helped]
    unhelped = [name for name in counts(records) if name not in gained]
    much = f"against attacks that know it, it helps {listed(helped, gained)}"
    yield f"\n- By a decibel or more, {much}."
    none = f" No sigma helps {', '.join(unhelped)}." if unhelped else ""
    yield f"- By less, {listed(barely, gained)}.{none}"
    yield f"- On clean images that sigma changes {listed([*lost], lost)}."
    yield (
        "- It costs 21 forward passes in place of one. Behind each ± is the standard error of "
        "the mean change over images; a"
    )
    yield "  sigma that is chosen on these images flatters them a little."


Column = tuple[str, str]


def from_to(bare: Mapping[Column, Mean], smoothed: Mapping[Column, Mean]) -> Iterator[str]:
    """Yield how a network's scores change, from bare to smoothed."""
    attacks = [(WORST, "psnr_y"), (WORST, "lpips"), (TRANSFER["PGD"], "psnr_y")]
    for column in [*attacks, ("none", "psnr_y"), ("none", "lpips")]:
        form = statistics.digits(column[1])
        yield f"{bare[column].value:{form}} to {smoothed[column].value:{form}}"


def listed(names: Sequence[str], changes: dict[str, Mean]) -> str:
    """Name networks, and by how many decibels each changes."""
    return (
        ", ".join(
            f"{name} ({changes[name].value:+.1f} ± {changes[name].error:.1f} dB)" for name in names
        )
        or "no network"
    )


def figure_of(records: Sequence[Record]) -> Figure:
    """Draw PSNR against sigma for each network."""
    shown = [record for record in records if record.condition in LABELS]
    only = [
        replace(
            record,
            condition=LABELS[record.condition],
            scores={"psnr_y": record.scores["psnr_y"]},
        )
        for record in shown
    ]
    return curves(only, "sigma")


def table(records: list[Record], heads: dict[str, str], metric: str) -> Iterator[str]:
    """Yield one table: a row for each network and sigma; the best sigma of a network is bold, and
    its standard error is given.
    """
    digits = statistics.digits(metric)
    means, best = statistics.means(records), statistics.best(records, metric)
    yield f"\n{metric}{', lower is better' if metric in statistics.LOWER_IS_BETTER else ''}:\n"
    yield f"| network | sigma | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(heads)
    for row, columns in means.items():
        cells = []
        for condition in heads.values():
            value, error, _ = columns[condition, metric]
            cell = f"{value:{digits}}"
            cells.append(
                f"**{cell}** ± {error:{digits}}" if best[row.model, condition] == row else cell
            )
        yield f"| {row.model} | {row.sigma:g} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
