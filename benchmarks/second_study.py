"""Do the findings of a study of mean smoothing for inverse problems hold here? Trains its U-Net by
each of its methods, measures them, and writes benchmarks/second_study.md and the figure beside it.

    SMOOTHSR_DATA=... python benchmarks/second_study.py [--photos photos]

It takes 45 minutes of one core, two thirds of it training; killed, it goes on where it was. The
study is a bachelor's thesis of TU Munich (github.com/faidrapts/randomized-smoothing-adv-sr). Its
data can't be had here and the training here is far shorter, so differences between methods compare,
and not levels.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import datasets
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

from smoothsr import adapters
from smoothsr.evaluation import conditions, statistics
from smoothsr.evaluation.records import Image, Record, Row, Setting
from smoothsr.evaluation.statistics import Mean
from smoothsr.evaluation.study import Study
from smoothsr.files.atomic import replacing
from smoothsr.reports.figures import save_figure

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from train_unet import (  # noqa: E402
    ATTACK_STEPS,
    BATCH,
    NOISE,
    PEAK_RATE,
    SCALES,
    SIDE,
    Method,
    enlarged,
)
from unet import STD  # noqa: E402

METHODS: tuple[Method, ...] = get_args(Method)
CROP, DRAWS = 160, 50
BUDGETS = (0.0, 0.02, 0.05)  # root mean square changes, in the study's units: over STD
AIMS = {"transfer": "@bare", "adaptive": ":via=mean:draws=5"}
DIAL = (0.5, 1.0, 2.0)  # shares of the sigma that a network is trained for
HARDEST = BUDGETS[-1]


class Kind(NamedTuple):
    """A network and how it is run."""

    method: Method
    smoothed: bool


KINDS = {
    "standard": Kind("plain", False),
    "smoothing": Kind("noise", True),
    "adversarial training": Kind("adversarial", False),
    "standard network, smoothed": Kind("plain", True),
    "network trained on noise, not smoothed": Kind("noise", False),
    "adversarial training, smoothed": Kind("adversarial", True),
}
THEIRS = {  # PSNR in dB at BUDGETS, of the transfer attack
    2: {
        "standard": (25.29, 21.53, 19.31),
        "smoothing": (25.55, 24.26, 21.94),
        "adversarial training": (25.13, 24.14, 22.24),
    },
    4: {
        "standard": (22.57, 20.50, 19.15),
        "smoothing": (22.72, 22.04, 20.87),
        "adversarial training": (22.38, 21.83, 20.70),
    },
}


class Claim(NamedTuple):
    """A statement: under attacks of some budgets one line of the tables gains on another."""

    text: str
    name: str
    against: str
    budgets: Sequence[float]
    aim: str = "transfer"


CLAIMS = (
    Claim(
        "Smoothing, of a network trained on noise, makes robust",
        "smoothing",
        "standard",
        BUDGETS[1:],
    ),
    Claim("It gains a little on clean pictures too", "smoothing", "standard", BUDGETS[:1]),
    Claim(
        "It gains on adversarial training too, in 5 of 6 cases of their table",
        "smoothing",
        "adversarial training",
        BUDGETS,
    ),
    Claim(
        "Training on noise is what makes it robust: the standard network smoothed falls behind",
        "smoothing",
        "standard network, smoothed",
        BUDGETS[1:],
    ),
    Claim(
        "The mean adds to what training on noise brings",
        "smoothing",
        "network trained on noise, not smoothed",
        BUDGETS,
    ),
    Claim(
        "Not theirs: it gains on adversarial training under attacks that know it",
        "smoothing",
        "adversarial training",
        BUDGETS[1:],
        "adaptive",
    ),
    Claim(
        "Not theirs: the mean adds to adversarial training too, under attacks that know it",
        "adversarial training, smoothed",
        "adversarial training",
        BUDGETS[1:],
        "adaptive",
    ),
)
Found = dict[int, list[Record]]
"""The records of each scale."""


def main() -> None:
    """Train and measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=700, help="of each training (default 700)")
    add("--photos", type=Path, default=Path("photos"), help="where the packages are kept")
    add("--parts", type=Path, default=Path("second_study_parts"), help="networks and scores")
    add("--pictures", type=int, default=8, help="of B100 (default 8)")
    add("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    args.parts.mkdir(parents=True, exist_ok=True)

    files = {
        (method, scale): args.parts / f"{method}_x{scale}_{args.steps}.safetensors"
        for method in METHODS
        for scale in SCALES
    }
    for (method, scale), file in files.items():
        if not file.exists():
            train(method, scale, args.steps, args.photos, file)
    found: Found = {scale: [] for scale in SCALES}
    for (method, scale), file in files.items():
        for study in studies(method, scale, file, args.parts):
            found[scale] += measured(study, f"{method} x{scale}", pictures(scale, args.pictures))
    figure = args.out.with_suffix(".png")
    save_figure(figure_of(found), figure, dpi=80)
    text = "\n".join(page(found, trained(files), figure.name)) + "\n"
    with replacing(args.out) as part:
        part.write_text(text, encoding="utf-8")
    print(text)


def train(method: Method, scale: int, steps: int, photos: Path, out: Path) -> None:
    """Run the recipe, which goes on where it was cut off."""
    recipe = [sys.executable, str(EXAMPLES / "train_unet.py"), "--method", method]
    options = ["--scale", str(scale), "--steps", str(steps), "--photos", str(photos)]
    subprocess.run([*recipe, *options, "--out", str(out)], check=True)


def pictures(scale: int, count: int) -> list[Image]:
    """Central crops of B100, reduced and enlarged again."""
    found = []
    for name, _, hr in list(datasets.b100())[:count]:
        top, left = ((length - CROP) // 2 for length in hr.shape[2:])
        crop = hr[..., top : top + CROP, left : left + CROP].contiguous()
        found.append(Image(f"{name}_x{scale}", enlarged(crop, scale), crop))
    return found


def condition(budget: float, aim: str) -> str:
    """The study's attack of a budget in its units, against the base network or the mean."""
    return f"pgd:rms:{budget * STD:g}:steps=10{AIMS[aim]}" if budget else "none"


def studies(method: Method, scale: int, file: Path, parts: Path) -> Iterator[Study]:
    """What is measured of a network: bare and smoothed under all attacks; and the one trained on
    noise at other sigmas.
    """
    arch = f"{EXAMPLES / 'unet.py'}:UNet"
    models: dict[str, nn.Module] = {
        method: adapters.load(file, arch=arch, scale=1).model.requires_grad_(False)
    }

    def study(sigmas: Iterable[float], wanted: Iterable[str]) -> Study:
        settings = [Setting.of(sigma, DRAWS, None, 0) for sigma in sigmas]
        parsed = [conditions.parse(text) for text in wanted]
        return Study(parts, models, settings, parsed, ("psnr",), agg="mean", antithetic=False)

    wanted = dict.fromkeys(condition(budget, aim) for aim in AIMS for budget in BUDGETS)
    yield study((0, NOISE[scale]), wanted)
    if method == "noise":
        others = [share * NOISE[scale] for share in DIAL if share != 1]
        yield study(others, ("none", condition(HARDEST, "transfer")))


def measured(study: Study, what: str, images: Sequence[Image]) -> Iterator[Record]:
    """Measure what is missing and yield all records."""
    for image in tqdm(images, desc=what, disable=None, leave=False):
        study.measure(image)
        yield from study.records(image) or []


def row_of(name: str, scale: int) -> Row:
    """The row of a line of the tables."""
    kind = KINDS[name]
    return Row(kind.method, *Setting.of(NOISE[scale] * kind.smoothed, DRAWS, None, 0))


def gain(
    found: Found, scale: int, name: str, against: str, budget: float, aim: str = "transfer"
) -> Mean:
    """By how many decibels one line exceeds another, over the same pictures."""
    rows = (row_of(name, scale), row_of(against, scale))
    return statistics.change(found[scale], *rows, condition(budget, aim), "psnr")


def trained(files: dict[tuple[Method, int], Path]) -> dict[Method, float]:
    """Minutes of training by each method, over all scales."""
    minutes = dict.fromkeys(METHODS, 0.0)
    for (method, _), file in files.items():
        with safe_open(file, "pt") as opened:
            minutes[method] += float(opened.metadata()["minutes"])
    return minutes


def page(found: Found, minutes: dict[Method, float], figure: str) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from ["# A U-Net by three methods", "", "Made by `python benchmarks/second_study.py`."]
    yield (
        "A bachelor's thesis of TU Munich "
        "([code](https://github.com/faidrapts/randomized-smoothing-adv-sr)) smooths a U-Net for "
        "super-resolution by the mean of 50 draws. Here are its table and ours, of the same "
        "network ([`examples/unet.py`](../examples/unet.py)), methods and attack. The data and "
        "the length of training are not the same, so **differences between methods compare, and "
        "not levels**."
    )
    yield fragility(found)
    yield from verdicts(found)
    yield f"\n![PSNR against the attack's size, a panel for each scale]({figure})"
    for scale in SCALES:
        yield from gains_table(found, scale)
    for scale in SCALES:
        yield from levels_table(found, scale)
    yield from dial_table(found)
    yield from how(found, minutes)


def gains_table(found: Found, scale: int) -> Iterator[str]:
    """Yield what each method gains on the standard network, theirs and ours."""
    heads = " | ".join(f"{budget:g}" for budget in BUDGETS)
    yield f"\n## Gain on the standard network, x{scale}, in dB\n"
    yield f"| method | attack, measured by | {heads} |"
    yield "|---|---|" + "---|" * len(BUDGETS)
    theirs = THEIRS[scale]
    for name in KINDS:
        if name == "standard":
            continue
        if name in theirs:
            pairs = zip(theirs[name], theirs["standard"], strict=True)
            cells = " | ".join(f"{first - second:+.2f}" for first, second in pairs)
            yield f"| {name} | transfer, theirs | {cells} |"
        for aim in AIMS if KINDS[name].smoothed else ["transfer"]:
            means = [gain(found, scale, name, "standard", budget, aim) for budget in BUDGETS]
            label = aim if KINDS[name].smoothed else "both"
            yield f"| {name} | {label}, ours | {' | '.join(map(plus_minus, means))} |"


def plus_minus(mean: Mean) -> str:
    """A difference with its standard error.

    Example:
        >>> plus_minus(Mean(1.234, 0.1, 10))
        '+1.23 ± 0.10'
    """
    return f"{mean.value:+.2f} ± {mean.error:.2f}"


def levels_table(found: Found, scale: int) -> Iterator[str]:
    """Yield the PSNR of every line, theirs where there is one, and ours."""
    columns = [(aim, budget) for aim in AIMS for budget in BUDGETS if budget or aim == "transfer"]
    heads = [f"{aim} {budget:g}" if budget else "no attack" for aim, budget in columns]
    yield f"\n## PSNR in dB, x{scale}\n"
    yield (
        f"| network | theirs, {' / '.join(f'{each:g}' for each in BUDGETS)} | "
        + " | ".join(heads)
        + " |"
    )
    yield "|---|---|" + "---|" * len(columns)
    means = statistics.means(found[scale])
    for name in KINDS:
        theirs = " / ".join(f"{value:.2f}" for value in THEIRS[scale].get(name, ()))
        row = means[row_of(name, scale)]
        cells = [f"{row[condition(budget, aim), 'psnr'].value:.2f}" for aim, budget in columns]
        yield f"| {name} | {theirs} | {' | '.join(cells)} |"


def dial_table(found: Found) -> Iterator[str]:
    """Yield the PSNR of the network trained on noise, at several sigmas."""
    yield "\n## Sigma, of the network trained on noise\n"
    yield f"| scale | sigma | no attack | transfer {HARDEST:g} |\n|---|---|---|---|"
    for scale in SCALES:
        for share in (0, *DIAL):
            cells = " | ".join(f"{value:.2f}" for value in dialled(found, scale, share))
            yield f"| x{scale} | {share * NOISE[scale]:g} | {cells} |"


def dialled(found: Found, scale: int, share: float) -> list[float]:
    """The PSNR without an attack and under the strongest transfer attack at a share of sigma."""
    row = Row("noise", *Setting.of(share * NOISE[scale], DRAWS, None, 0))
    scores = statistics.means(found[scale])[row]
    return [scores[condition(budget, "transfer"), "psnr"].value for budget in (0.0, HARDEST)]


def verdicts(found: Found) -> Iterator[str]:
    """Yield the study's statements, each with whether it holds here, and by what figures."""
    yield "\n## Its statements\n"
    for claim in CLAIMS:
        yield gain_verdict(claim, found)
    yield dial_verdict(found)
    yield transfer_verdict(found)
    yield (
        "- *Linear estimators gain nothing from smoothing.* True without a measurement: the mean "
        "of f(x + noise) is f(x) for every linear f."
    )


def gain_verdict(claim: Claim, found: Found) -> str:
    """Say in how many cases a gain that is claimed is significant at 95%."""
    gains = {
        f"x{scale} at {budget:g}": gain(found, scale, claim.name, claim.against, budget, claim.aim)
        for scale in SCALES
        for budget in claim.budgets
    }
    held = sum(statistics.is_significant(each) and each.value > 0 for each in gains.values())
    cells = "; ".join(f"{case}: {plus_minus(each)}" for case, each in gains.items())
    return f"- *{claim.text}.* Here: {word(held, len(gains))}. Gains in dB: {cells}."


def word(held: int, of: int) -> str:
    """Say how far a statement held.

    Example:
        >>> word(2, 2), word(0, 2), word(1, 4)
        ('confirmed', 'not confirmed', 'confirmed in 1 of 4 cases')
    """
    if held in (0, of):
        return "confirmed" if held else "not confirmed"
    return f"confirmed in {held} of {of} cases"


def dial_verdict(found: Found) -> str:
    """Say whether a larger sigma buys robustness with accuracy."""
    cells, held = [], 0
    for scale in SCALES:
        clean, attacked = zip(*(dialled(found, scale, share) for share in DIAL), strict=True)
        held += list(clean) == sorted(clean, reverse=True) and list(attacked) == sorted(attacked)
        shown = ", ".join(f"{a:.2f} and {b:.2f} dB" for a, b in zip(clean, attacked, strict=True))
        cells.append(f"x{scale}: {shown}")
    return (
        "- *Sigma is the dial between robustness and accuracy*, here of one network and not of one "
        f"trained for each sigma: {word(held, len(SCALES))}. PSNR without an attack and at "
        f"{HARDEST:g}, at {', '.join(f'{share:g}' for share in DIAL)} times the sigma it is "
        f"trained for, {'; '.join(cells)}."
    )


def transfer_verdict(found: Found) -> str:
    """Say what an attack that knows the smoother takes more than one that doesn't."""
    cells = []
    for scale in SCALES:
        means = statistics.means(found[scale])
        for name in (name for name, kind in KINDS.items() if kind.smoothed):
            scores = means[row_of(name, scale)]
            taken = (
                scores[condition(HARDEST, "transfer"), "psnr"].value
                - scores[condition(HARDEST, "adaptive"), "psnr"].value
            )
            cells.append(f"{name} x{scale} {taken:.2f}")
    return (
        "- *It attacks the base network alone.* An attack through the mean of 5 draws of its own "
        f"takes more from what is smoothed, at {HARDEST:g}, in dB: {'; '.join(cells)}. By so much "
        "transfer attacks overstate robustness here."
    )


def fragility(found: Found) -> str:
    """Say how much the standard network loses, on which all gains depend."""
    cells = []
    for scale in SCALES:
        scores = statistics.means(found[scale])[row_of("standard", scale)]
        clean, *attacked = (scores[condition(each, "transfer"), "psnr"].value for each in BUDGETS)
        own = " and ".join(f"{clean - value:.1f}" for value in attacked)
        clean, *attacked = THEIRS[scale]["standard"]
        theirs = " and ".join(f"{clean - value:.1f}" for value in attacked)
        cells.append(f"{own} dB at x{scale} (theirs {theirs})")
    return (
        f"\nAt budgets {BUDGETS[1]:g} and {BUDGETS[2]:g} the standard network loses "
        f"{'; '.join(cells)}. Where it loses less, there is less to gain."
    )


def how(found: Found, minutes: dict[Method, float]) -> Iterator[str]:
    """Yield what was done, and what is different from theirs."""
    images = len({record.image for record in found[SCALES[0]]})
    yield "\n## How\n"
    yield (
        f"- Budgets {', '.join(f'{each:g}' for each in BUDGETS)} are root mean square changes of "
        f"normalised values, as theirs are; in [0, 1] they are {STD:g} times as large "
        f"({', '.join(f'{255 * STD * each:.1f}' for each in BUDGETS)} of 255). Sigma .1 (x2) and "
        f".3 (x4) of theirs are {NOISE[2]:g} and {NOISE[4]:g}."
    )
    yield (
        "- Transfer: l2 PGD of 10 steps on the network without noise, away from the ground truth, "
        "from a random point and from a uniform shift, with steps that shrink; theirs has equal "
        f"steps. Adaptive: the same through the mean of 5 fresh draws. {DRAWS} independent draws; "
        "each is clamped to [0, 1], while they clamp the mean."
    )
    yield (
        f"- {images} central crops of B100, {CROP}x{CROP}, which no training saw; PSNR of RGB in 8 "
        "bits, without a border of one pixel. ± is the standard error over pictures; a gain counts "
        "as one at 95%, by Student's t."
    )
    spent = ", ".join(f"{method} {value:.1f}" for method, value in minutes.items())
    yield (
        f"- Training (`examples/train_unet.py`): equally many steps by each method, {BATCH} crops "
        f"of {SIDE}x{SIDE} a step, of 37 photographs; Adam, its rate falling from {PEAK_RATE:g} to "
        "0 by a cosine; squared error. Adversarial training: l2 PGD of "
        f"{ATTACK_STEPS} steps on the network in eval mode, budget .02. Minutes on one shared core "
        f"for both scales: {spent}."
    )
    yield (
        "- Theirs: 50 epochs of Mini-ImageNet in batches of 128 crops of 160x160, rate 1e-3. With "
        "so few steps as here batch normalization wants batches of many pictures, hence the "
        "smaller crops, and the rate is larger."
    )


def figure_of(found: Found) -> Figure:
    """Draw PSNR against the attack's size, transfer and adaptive, a panel for each scale."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(SCALES), squeeze=False)[0]
    for axis, scale in zip(panels, SCALES, strict=True):
        means = statistics.means(found[scale])
        for number, name in enumerate(KINDS):
            scores = means[row_of(name, scale)]
            for aim, style in zip(AIMS, ("-", "--"), strict=True):
                values = [scores[condition(budget, aim), "psnr"].value for budget in BUDGETS]
                label = name if aim == "transfer" else None
                axis.plot(BUDGETS, values, style, marker=".", color=f"C{number}", label=label)
        axis.set(title=f"x{scale}", xlabel="attack; dashed: adaptive", xticks=BUDGETS)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR in dB")
    panels[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
