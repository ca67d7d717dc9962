"""Draw a network's bare and smoothed outputs under one attack, and say how each fares under the
attack made for it.

    python examples/attack_panel.py [--out docs/attack_panel.png]

The attack that is drawn knows the smoothed network and drives it away from the ground truth,
through the mean of three draws.
"""

import argparse
from pathlib import Path

import torch

from smoothsr import SmoothedSR, adapters
from smoothsr.attacks.views import serve
from smoothsr.evaluation import conditions
from smoothsr.files import images
from smoothsr.reports import attack_report, figures
from smoothsr.reports.attack_report import Outcome

HERE = Path(__file__).parent


def main() -> None:
    """Attack the repository's cat twice; print both results and draw the second."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin-clean")
    parser.add_argument("--sigma", type=float, default=0.05)
    parser.add_argument("--attack", default="pgd:8/255:via=mean:draws=3:steps=20")
    parser.add_argument("--crop", type=int, default=64, help="side of the input, in pixels")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs/attack_panel.png")
    args = parser.parse_args()
    network = adapters.load(args.model).model.requires_grad_(False)
    smoothed = SmoothedSR(network, args.sigma)
    lr = images.read(HERE / "cat.png").pixels[..., : args.crop, : args.crop]
    hr = images.read(HERE / "cat_hr.png").pixels[..., : 4 * args.crop, : 4 * args.crop]
    torch.use_deterministic_algorithms(True)  # no timing: the same picture every time

    for aim in ("@bare", ""):
        attacked = conditions.parse(args.attack + aim).apply(lr, hr, smoothed, seed=0)
        with torch.no_grad():
            models = {"bare": network, f"smoothed by {args.sigma:g}": smoothed}
            outcomes = [
                Outcome(
                    name,
                    *(serve(model, image, seed) for image, seed in ((lr, 1), (attacked, 2))),
                )
                for name, model in models.items()
            ]
        print(
            f"\n{args.attack}{aim}",
            attack_report.table(attack_report.rows(outcomes, hr, scale=4)),
            sep="\n",
            flush=True,
        )
    figures.save_figure(attack_report.panel(lr, attacked, outcomes, hr), args.out, dpi=72)


if __name__ == "__main__":
    main()
