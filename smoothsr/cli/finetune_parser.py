"""The options of `smoothsr finetune`."""

import argparse
from pathlib import Path

from smoothsr.cli import shared_options as shared
from smoothsr.cli.option_types import deviation, deviations, integers, number, words

FINETUNE_METHODS = (
    "plain",
    "noise",
    "mrs",
    "smoothed",
    "consistency",
    "adv-fgsm",
    "adv-bim",
    "adv-pgd",
    "adv-cw",
    "penalty",
)


def finetune_options(command: argparse.ArgumentParser) -> None:
    """Add them."""
    command.add_argument(
        "-m", "--model", required=True, help="a checkpoint file or name (see: smoothsr models)"
    )
    shared.network(command)
    command.add_argument("--data", nargs="+", required=True, help="HR images or folders to learn")
    command.add_argument(
        "--method",
        required=True,
        choices=FINETUNE_METHODS,
        help="what is learned: the usual loss (plain), on noise up to twice --sigma (noise), "
        "CertSR's fine-tuning (mrs), the expected output (smoothed), equal outputs of all draws "
        "(consistency), attacked inputs (adv-...), small gradients of the input (penalty)",
    )
    command.add_argument(
        "--out", type=Path, required=True, help="the weights' file, .safetensors or .pth"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="try a few steps, say what time and memory all take, and write nothing but the cache",
    )
    _learning(command)
    _methods(command)
    _validation(command)
    shared.seed(command)
    shared.machine(command)


def _learning(command: argparse.ArgumentParser) -> None:
    """How long and fast a network learns, and from what."""
    length = command.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=number,
        default=10.0,
        help="about how long to train: the first steps are timed, and tell how many there will be "
        "(default 10)",
    )
    length.add_argument("--steps", type=int, help="how many steps to train instead")
    command.add_argument("--batch", type=int, default=8, help="patches of a step (default 8)")
    command.add_argument(
        "--lr", type=number, dest="rate", default=1e-4, help="peak rate of Adam (default 1e-4)"
    )
    command.add_argument(
        "--patch", type=int, default=48, help="side of a patch in input pixels (default 48)"
    )
    command.add_argument(
        "--ema",
        type=number,
        default=0.999,
        help="decay of the average of weights that is written (default .999)",
    )
    command.add_argument(
        "--degrade",
        type=words,
        default=[],
        help="what is done to inputs, one of several for each patch, joined by commas: none, "
        "jpeg:50, blur:1+noise:0.02 (default: nothing)",
    )
    command.add_argument(
        "--reduce",
        type=integers,
        default=[1],
        help="factors by which images are reduced first, as 2,3,4, each for a copy of its own: it "
        "removes what JPEG left (default 1)",
    )
    command.add_argument(
        "--cache", type=Path, help="folder of decoded images, which stays (default: OUT.cache)"
    )


def _methods(command: argparse.ArgumentParser) -> None:
    """Numbers of the methods, whose defaults the methods know."""
    add = command.add_argument
    add(
        "--sigma",
        type=deviation,
        default=0.05,
        help="noise that the network will be smoothed with (default .05)",
    )
    add("--sigmas", type=deviations, help="of mrs (default .03,.2)")
    add("--draws", type=int, help="of smoothed and consistency (default 4)")
    add(
        "--weight",
        type=number,
        help="of a penalty: on what differs between draws (default .05 for smoothed, .7 for "
        "consistency), or on gradients (default .001)",
    )
    add(
        "--kind",
        choices=("trace", "top"),
        help="what of the draws' differences is penalized: all, or in each tile the direction of "
        "most, which the certificate of the mean measures (default trace)",
    )
    add("--penalty-tile", type=int, help="of --kind top: side in output pixels (default 16)")
    add("--eps", type=number, help="budget of an attack (default 4/255)")
    add("--norm", choices=("linf", "l2", "rms"), help="of it (default linf)")
    add("--attack-steps", type=int, help="of an attack (default: its own)")
    add(
        "--loss",
        default="l1",
        help="what errors cost, but for smoothed, where it is their square: l1, mse, lpips, vgg, "
        "gan (a discriminator that learns with the network), or a sum as "
        "l1+0.1*lpips+0.005*gan (default l1)",
    )
    add("--lpips-weights", type=Path, help="file of LPIPS weights, for --loss and --metrics")
    add("--vgg-weights", type=Path, help="file of VGG19 weights, for --loss vgg")


def _validation(command: argparse.ArgumentParser) -> None:
    """What is measured while a network is trained."""
    add = command.add_argument
    add("--val", nargs="+", dest="hr", default=[], help="HR images or folders, not learned from")
    add("--val-lr", type=Path, dest="lr", help="folder of their inputs (default: reduced)")
    add("--crop", type=int, help="validate on the central crop of so many input pixels")
    add(
        "--metrics",
        type=words,
        help="of psnr, psnr_y, ssim, ssim_y, mse, lpips, certified:RADIUS (default psnr_y)",
    )
    add("--validations", type=int, default=10, help="how many, after the first (default 10)")
    add("--agg", help="smoothing of validation: mean, median, p10 (default mean)")
    shared.draws(command)
    shared.antithetic(command)
