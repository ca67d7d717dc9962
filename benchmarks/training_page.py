"""The page of benchmarks/training.py: its columns, its words and its figure."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from smoothsr.evaluation import statistics
from smoothsr.evaluation.records import NONE, Record, Row, Setting
from smoothsr.evaluation.statistics import Mean
from smoothsr.training.methods import METHODS

SIGMA = 0.05
SERVED = {"bare": ("median", 0), "median": ("median", 21), "mean": ("mean", 6)}
UNTRAINED = "untrained"
FRONT = "untrained, denoiser in front"
MARKS = "os^D"
RADII = (0.5 / 255, 1 / 255)
CLEAN = {
    "clean": "none",
    "noise .03": "noise:0.03",
    "JPEG 50": "jpeg:50",
    "blur, noise, JPEG": "blur:1+noise:0.02+jpeg:60",
}
ATTACKS = {
    "1/255 transfer": "pgd:1/255:steps=10@bare",
    "1/255 adaptive": "pgd:1/255:steps=10:via=mean:draws=4",
    "4/255 transfer": "pgd:4/255:steps=10@bare",
    "4/255 adaptive": "pgd:4/255:steps=10:via=mean:draws=4",
}
ABLATED = ("plain", "mrs")
SIGMAS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08)
ABLATION = ("none", "noise:0.03", "noise:0.06", "jpeg:30", "blur:1+noise:0.03+jpeg:50")
Certified = Mapping[float, float]
"""PSNR in dB by radius."""


class Start(NamedTuple):
    """A network before training, how long it is trained, and on what it is measured."""

    steps: int
    batch: int
    pictures: int  # of Set5
    side: int  # of them, in LR pixels
    losses: tuple[str, ...] = ("l1",)


class Found(NamedTuple):
    """What was measured of one network."""

    records: list[Record]
    certified: dict[str, Certified]
    minutes: dict[str, float | None]  # None: diverged
    ablation: list[Record]


def page(found: Mapping[str, Found], starts: Mapping[str, Start], figure: str) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from ["# Networks trained for smoothing", "", "Made by `python benchmarks/training.py`."]
    yield (
        "Networks that never saw noise, each trained on by every method of `smoothsr finetune`, "
        "equally many steps: which method should you take for a network that will be smoothed?"
    )
    yield "\n## In short\n"
    for name, each in found.items():
        yield from in_short(name, each)
    yield from ablation_verdict(found)
    yield f"\n![PSNR clean and under attack, a line from bare (hollow) to the mean]({figure})"
    for name, each in found.items():
        yield from quality_table(name, each)
        yield from attack_table(name, each)
    yield from ablation_table(found)
    yield from how(found, starts)


def rows(found: Found) -> list[tuple[str, str, Row]]:
    """List what there is a row for: the name of the training, how it is served, and the row."""
    names = [UNTRAINED, *(name for name in METHODS if found.minutes[name] is not None)]
    listed = [(name, served, row_of(name, served)) for name in names for served in SERVED]
    return listed + [
        (FRONT, served, row_of(FRONT, served)) for served in SERVED if served != "bare"
    ]


def row_of(name: str, served: str) -> Row:
    """Return the row of a training and a way to serve it."""
    n = SERVED[served][1]
    front = FRONT if name == FRONT else NONE
    setting = Setting.of(SIGMA if n else 0.0, n, None, 0, denoiser=front)
    return Row(UNTRAINED if name == FRONT else name, *setting)


def attacked(served: str, name: str) -> str:
    """Return the condition of a column; of a bare network both attacks are one."""
    return ATTACKS[name.replace("adaptive", "transfer") if served == "bare" else name]


def in_short(name: str, found: Found) -> Iterator[str]:
    """Name the best training for each purpose, against the network before training."""
    means = statistics.means(found.records)
    wanted = {
        "its mean on clean pictures": ("mean", "none", "psnr_y"),
        "its median on clean pictures": ("median", "none", "psnr_y"),
        "its mean under blur, noise and JPEG, by LPIPS": (
            "mean",
            CLEAN["blur, noise, JPEG"],
            "lpips",
        ),
        "its mean under the adaptive attack of 4/255": (
            "mean",
            ATTACKS["4/255 adaptive"],
            "psnr_y",
        ),
        "itself, bare, under the attack of 4/255": ("bare", ATTACKS["4/255 transfer"], "psnr_y"),
    }
    for purpose, (served, condition, metric) in wanted.items():
        names = [each for each, how, _ in rows(found) if how == served]
        sign = -1 if metric in statistics.LOWER_IS_BETTER else 1
        values = {each: means[row_of(each, served)][condition, metric].value for each in names}
        best = max(names, key=lambda each: sign * values[each])
        before = row_of(UNTRAINED, served)
        gain = statistics.change(found.records, row_of(best, served), before, condition, metric)
        yield f"- {name}, {purpose}: **{best}**, {values[best]:.3g} ({change(gain, metric)})."
    stable = {each: radii[RADII[-1]] for each, radii in found.certified.items()}
    best = max(stable, key=stable.__getitem__)
    yield (
        f"- {name}, what is certified at linf 1/255: **{best}**, {stable[best]:.1f} dB "
        f"({stable[best] - stable[UNTRAINED]:+.1f} on the untrained one)."
    )


def change(gain: Mean, metric: str) -> str:
    """Say a difference with its standard error.

    Example:
        >>> change(Mean(1.234, 0.1, 10), "psnr_y")
        '+1.23 ± 0.10'
    """
    form = ".3f" if metric in ("lpips", "ssim_y") else ".2f"
    return f"{gain.value:+{form}} ± {gain.error:{form}}"


def quality_table(name: str, found: Found) -> Iterator[str]:
    """Yield PSNR, SSIM and LPIPS without an attack."""
    means = statistics.means(found.records)
    yield f"\n## {name}: quality, Y-PSNR in dB / SSIM / LPIPS\n"
    yield f"| training | served | {' | '.join(CLEAN)} |\n|---|---|{'---|' * len(CLEAN)}"
    for training, served, row in rows(found):
        scores = means[row]
        cells = [
            f"{scores[text, 'psnr_y'].value:.2f} / {scores[text, 'ssim_y'].value:.3f} / "
            f"{scores[text, 'lpips'].value:.3f}"
            for text in CLEAN.values()
        ]
        yield f"| {training} | {served} | {' | '.join(cells)} |"


def attack_table(name: str, found: Found) -> Iterator[str]:
    """Yield PSNR under attack, what is certified, and what the training cost."""
    means = statistics.means(found.records)
    heads = [*ATTACKS, "certified .5/255", "certified 1/255", "minutes"]
    yield f"\n## {name}: attacks, Y-PSNR in dB; certified dB of the mean; minutes of training\n"
    yield f"| training | served | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}"
    for training, served, row in rows(found):
        cells = [f"{means[row][attacked(served, each), 'psnr_y'].value:.2f}" for each in ATTACKS]
        stable = found.certified[training]
        cells += [f"{stable[radius]:.1f}" if served == "mean" else "" for radius in RADII]
        cells.append(f"{found.minutes.get(training) or 0:.1f}" if served != "median" else "")
        yield f"| {training} | {served} | {' | '.join(cells)} |"
    for training, spent in found.minutes.items():
        if spent is None:
            yield f"| {training} | diverged |{' |' * len(heads)}"


def best_sigma(records: list[Record], method: str, condition: str) -> Row:
    """Return the row of the sigma above 0 that has the lowest LPIPS."""
    means = statistics.means(records)
    smoothed = [row for row in means if row.model == method and row.sigma]
    return min(smoothed, key=lambda row: means[row][condition, "lpips"].value)


def combinations(records: list[Record], condition: str) -> dict[str, Row]:
    """Return the four rows of CertSR's ablation; each smoothed one at its best sigma."""
    plain, mrs = ABLATED
    return {
        "neither": Row(plain, 0.0),
        "MRS training": Row(mrs, 0.0),
        "MRS inference": best_sigma(records, plain, condition),
        "both": best_sigma(records, mrs, condition),
    }


def ablation_verdict(found: Mapping[str, Found]) -> Iterator[str]:
    """Say under which degradations both together beat each alone in LPIPS."""
    for name, each in found.items():
        if not each.ablation:
            continue
        won, lost, sure = list[str](), list[str](), 0
        for condition in ABLATION[1:]:
            four = combinations(each.ablation, condition)
            gains = [
                statistics.change(each.ablation, four["both"], four[alone], condition, "lpips")
                for alone in ("MRS training", "MRS inference")
            ]
            text = f"{condition} ({', '.join(change(gain, 'lpips') for gain in gains)})"
            better = all(gain.value < 0 for gain in gains)
            (won if better else lost).append(text)
            sure += better and all(map(statistics.is_significant, gains))
        yield (
            f"- CertSR's ablation on {name}: training and inference with MRS together have a lower "
            f"LPIPS than each alone under {len(won)} of {len(ABLATION) - 1} degradations "
            f"({sure} of them significant at 95% against both, of so few pictures). The "
            "changes of LPIPS against training alone and inference alone, negative where both "
            f"together are better: {'; '.join(won + lost)}."
        )


def ablation_table(found: Mapping[str, Found]) -> Iterator[str]:
    """Yield PSNR, SSIM and LPIPS of the four combinations."""
    for name, each in found.items():
        if not each.ablation:
            continue
        means = statistics.means(each.ablation)
        yield f"\n## CertSR's ablation, {name}: Y-PSNR in dB / SSIM / LPIPS (sigma)\n"
        yield f"| MRS | {' | '.join(ABLATION)} |\n|---|{'---|' * len(ABLATION)}"
        for combination in ("neither", "MRS training", "MRS inference", "both"):
            cells = []
            for condition in ABLATION:
                row = combinations(each.ablation, condition)[combination]
                psnr, ssim, lpips = (
                    means[row][condition, metric].value for metric in ("psnr_y", "ssim_y", "lpips")
                )
                at = f" ({row.sigma:g})" if row.sigma else ""
                cells.append(f"{psnr:.2f} / {ssim:.3f} / {lpips:.3f}{at}")
            yield f"| {combination} | {' | '.join(cells)} |"


def how(found: Mapping[str, Found], starts: Mapping[str, Start]) -> Iterator[str]:
    """Yield how all was done."""
    yield "\n## How\n"
    lengths = "; ".join(
        f"{name}: {start.steps} steps of {start.batch} patches" for name, start in starts.items()
    )
    yield (
        f"- Training: `smoothsr finetune --reduce 2,3,4 --patch 32 --lr 2e-4`, else its defaults "
        f"({lengths}), on 37 photographs. Equal steps are not equal time: the minutes are of one "
        "core, shared with another training. `plain` is the same training without a method. Longer "
        "training would change the rows by more than many of their differences."
    )
    crops = "; ".join(
        f"{name}: {start.pictures} of {start.side}x{start.side}" for name, start in starts.items()
    )
    yield (
        f"- Central crops of Set5's first pictures, x4, in LR pixels ({crops}): so few that small "
        "differences mean little. Luma, border of 4 pixels cropped; LPIPS of AlexNet. ± is the "
        "standard error of the mean difference over pictures."
    )
    yield (
        f"- Median of 21 draws, mean of 6 in pairs, sigma {SIGMA:g}. Attacks: PGD of 10 steps, "
        "linf, away from the ground truth; transfer: made for the bare network; adaptive: through "
        "the mean of 4 fresh draws, the median's too. For bare networks they are one. Where "
        "transfer harms more, that counts; another attack may find still more."
    )
    yield (
        "- Certified: what no change of every value by up to the radius can undercut, of the ideal "
        "mean to its own output without a change (spectral, the central 24x24 of bird and "
        "butterfly, tile 4, halo 1, halo noise 2, 500 draws, alpha .001 each; "
        "fresh noise, so to about .2 dB). Stability, not quality: a network that blurs has much of "
        "it."
    )
    if any(each.ablation for each in found.values()):
        yield (
            "- Ablation: both trainings have the loss l1+0.1*lpips, since a network that learns "
            "squared or absolute errors answers noise with blur, which LPIPS dislikes; it is "
            "measured by the network that it learned from, which flatters all four alike. "
            "`smoothsr finetune --loss l1+0.1*lpips --method plain` and `mrs`. The median is of 21 "
            "draws, at the sigma among "
            f"{', '.join(f'{sigma:g}' for sigma in SIGMAS if sigma)} that is best on these "
            "pictures, for inference alone and for both alike."
        )


def figure_of(found: Mapping[str, Found]) -> Figure:
    """Draw PSNR under the adaptive attack of 4/255 against PSNR without one, a panel for each
    network: a line from each training's bare network (hollow) to its mean.
    """
    figure = Figure(figsize=(4.6 * len(found) + 2.2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    names = [UNTRAINED, FRONT, *METHODS]
    for axis, (network, each) in zip(panels, found.items(), strict=True):
        for name in names:
            points = [point(each, name, served) for served in ("bare", "mean")]
            points = [at for at in points if at]
            if points:
                number = names.index(name)
                color, mark = matplotlib.colormaps["tab20"](number), MARKS[number % 4]
                clean, harmed = zip(*points, strict=True)
                axis.plot(clean, harmed, marker=mark, color=color, label=name, markevery=[-1])
                axis.plot(clean[0], harmed[0], marker=mark, color=color, mfc="none")
        axis.set(title=network, xlabel="clean, dB")
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("under the adaptive attack of 4/255, dB")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def point(found: Found, name: str, served: str) -> tuple[float, float] | None:
    """Return PSNR clean and under the adaptive attack of 4/255; None where it wasn't measured."""
    row = statistics.means(found.records).get(row_of(name, served))
    if row is None or (name == FRONT and served == "bare"):
        return None
    conditions = ("none", attacked(served, "4/255 adaptive"))
    clean, harmed = (row[condition, "psnr_y"].value for condition in conditions)
    return clean, harmed
