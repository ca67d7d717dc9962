"""What do early looks save? Steps that each look certifies, and the passes up to it.

    python benchmarks/looks.py [--images cat.png] [--sigma 0.1] [--n 1000] [--crop 64]

Each picture is certified once through all looks, of which none is enough, and once by n draws
alone: how many 8-bit steps (root mean square) the ideal mean moves at most under a change of every
value by 1/255, and passes up to the look as a share of n, without those of serving. The options
but sigma are those of `smoothsr certify`.
"""

import argparse
from pathlib import Path

from smoothsr import Certificate, SmoothedSR, adapters
from smoothsr.files import images

CAT = Path(__file__).parents[1] / "examples" / "cat.png"


def main() -> None:
    """Print a row for each picture and look."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", nargs="+", type=Path, default=[CAT], help="(default: the cat)")
    parser.add_argument("--model", default="builtin", help="name, or file (default builtin)")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--n", type=int, default=1000, help="draws of the last look (default 1000)")
    parser.add_argument("--crop", type=int, help="side in LR pixels (default: all of it)")
    args = parser.parse_args()
    model = adapters.load(args.model).model
    smoothed = SmoothedSR(model, args.sigma, tile=4, halo=1, halo_noise=2, lattice=True)
    print("| picture | look | passes / n | certified steps |\n|---|---|---|---|")
    for path in args.images:
        lr = images.read(path).pixels[..., : args.crop, : args.crop]
        name, made = f"{path.stem}, {lr.shape[3]}x{lr.shape[2]}", 0

        def show(certificate: Certificate, name: str = name) -> bool:
            nonlocal made
            made += certificate.n_cert
            steps = 255 * certificate.deviation(1 / 255, "linf")
            print(f"| {name} | {certificate.n_cert} | {made / args.n:.3f} | {steps:.2f} |")
            return False

        show(smoothed.certify(lr, n=args.n, kind="both", looks=5, enough=show))
        alone = smoothed.certify(lr, n=args.n, kind="both")
        made = 0
        show(alone, f"{name}, no looks")


if __name__ == "__main__":
    main()
