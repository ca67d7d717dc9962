"""What does noise in training bring? Certifies a crop of the repository's cat with both built-in
networks.

python benchmarks/noise_training.py [--sigma 0.05]
"""

import argparse
from pathlib import Path

from smoothsr import SmoothedSR, adapters
from smoothsr.files import images


def main() -> None:
    """Print the certified PSNR to the own output: ideal predictor, tile 8, halo 2, n=1000,
    alpha=.001.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sigma", type=float, default=0.05)
    args = parser.parse_args()
    lr = images.read(Path(__file__).parents[1] / "examples/cat.png").pixels[..., 16:40, 16:40]
    for name in ("builtin", "builtin-clean"):
        certificate = SmoothedSR(adapters.load(name).model, args.sigma, tile=8, halo=2).certify(lr)
        l2 = certificate.psnr(args.sigma, predictor="ideal")
        linf = certificate.psnr(1 / 255, predictor="ideal", norm="linf")
        print(f"{name}: {l2:.1f} dB at l2 radius {args.sigma:g}, {linf:.1f} dB at linf 1/255")


if __name__ == "__main__":
    main()
