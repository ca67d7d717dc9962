"""Is the attack on a smoother as strong as transfer from the bare network, on every image? And
which way through the noise is best?

    python benchmarks/adaptive.py [--model builtin-clean] [--sigma 0.03] [--crop 24] [--steps 50]

Crops of Set5, linf 4/255 away from the ground truth; the mean squared error (RGB, whole crop, in
1e-3) that each attack causes to the served output, the mean of 16 outputs with fresh noise that no
attack has met. "strongest" is compared with each transfer attack on the same noise: it is weaker
where the mean difference is below minus two of its standard errors.
"""

import argparse
import math

import datasets
import torch

from smoothsr import SmoothedSR, adapters
from smoothsr.attacks.views import serve
from smoothsr.evaluation import conditions

ATTACKS = {
    "none": "none",
    "FGSM, bare": "fgsm:4/255@bare",
    "BIM, bare": "bim:4/255:steps={steps}@bare",
    "PGD, bare": "pgd:4/255:steps={steps}@bare",
    "CW, bare": "cw:4/255:steps={steps}@bare",
    "PGD, mean": "pgd:4/255:steps={steps}:via=mean",
    "PGD, draws": "pgd:4/255:steps={steps}:via=draw",
    "PGD, median": "pgd:4/255:steps={steps}:via=served",
    "CW, mean": "cw:4/255:steps={steps}:via=mean",
    "strongest": "strongest:4/255:steps={steps}",
}
SERVED = 16


def main() -> None:
    """Print a row for each image, and whether strongest lost to a transfer attack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="builtin-clean", help="name, or file (default builtin-clean)"
    )
    parser.add_argument("--sigma", type=float, default=0.03)
    parser.add_argument("--crop", type=int, default=24, help="side in LR pixels (default 24)")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    smoothed = SmoothedSR(
        adapters.load(args.model, scale=4).model.requires_grad_(False), args.sigma
    )
    print(f"| image | {' | '.join(ATTACKS)} |\n|---|{'---|' * len(ATTACKS)}")
    lost = 0
    for pair in datasets.set5():
        image = datasets.cropped(pair, args.crop)
        harm = {}
        for name, text in ATTACKS.items():
            attacked = conditions.parse(text.format(steps=args.steps)).apply(
                image.lr, image.hr, smoothed, seed=0
            )
            with torch.no_grad():
                outputs = torch.cat([serve(smoothed, attacked, seed) for seed in range(SERVED)])
            harm[name] = 1e3 * (outputs - image.hr).square().mean((1, 2, 3))
        lost += any(
            weaker(harm["strongest"], harm[name]) for name in ATTACKS if name.endswith("bare")
        )
        print(
            f"| {image.name} | {' | '.join(f'{errors.mean():.3f}' for errors in harm.values())} |",
            flush=True,
        )
    print(f"\nstrongest was weaker than a transfer attack on {lost} of 5 images.")


def weaker(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Tell whether the first attack does less harm, by outputs of the same noise."""
    difference = first - second
    return bool(difference.mean() < -2 * difference.std() / math.sqrt(len(difference)))


if __name__ == "__main__":
    main()
