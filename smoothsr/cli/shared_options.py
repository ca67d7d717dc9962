"""Options that several commands have."""

import argparse
from pathlib import Path

from smoothsr.cli.option_types import (
    deviation,
    fixed_side,
    integers,
    number,
    numbers,
    side,
    size,
    words,
)

CONDITION = (
    "e.g. none, noise:0.03, jpeg:50, blur:1, resize:0.5, blur:1+noise:0.02+jpeg:60, fgsm:1/255, "
    "pgd:l2:0.5, cw:4/255@bare"
)
PRECISIONS = ("float32", "bfloat16", "float16")
FOUND_OUT = (*PRECISIONS, "auto")
AUTO = ", auto: the whole image if it fits into memory, else the largest that shows no seams"


def common(
    command: argparse.ArgumentParser,
    sigma: float,
    tile: int | str,
    halo: int,
    halo_noise: float = 1.0,
    precisions: tuple[str, ...] = PRECISIONS,
    lattice: str = "for inputs of 8 bits",
) -> None:
    """Options of the commands that run one smoothed model."""
    command.add_argument(
        "-m",
        "--model",
        default="builtin",
        help='"builtin" or a checkpoint file (see: smoothsr models)',
    )
    network(command)
    command.add_argument(
        "--sigma",
        type=deviation,
        default=sigma,
        help=f"noise standard deviation, 0.03 or 8/255 (default {sigma})",
    )
    draws(command)
    antithetic(command)
    command.add_argument(
        "-t",
        "--tile",
        type=fixed_side if isinstance(tile, int) else side,
        default=tile,
        help=f"tile side in input pixels, 0: none{AUTO if tile == 'auto' else ''} (default {tile})",
    )
    around(command, halo, halo_noise)
    denoiser(command)
    command.add_argument(
        "--batch-size", type=int, help="draws at once (default: the fastest, found out)"
    )
    command.add_argument(
        "--lattice",
        action=argparse.BooleanOptionalAction,
        help="round input and noise to a lattice, on which a certificate holds for floats too "
        f"(default: {lattice})",
    )
    if "auto" in precisions:
        command.add_argument(
            "--compile",
            action="store_true",
            help="compile the network by torch first, which takes up to a minute: for many draws "
            "of patches of one shape",
        )
    machine(command, precisions)


def evaluation(command: argparse.ArgumentParser, conditions: str, several: bool = False) -> None:
    """Options of the commands that measure on many images."""
    command.add_argument(
        "--hr", nargs="+", required=True, help="ground truth: image files or folders"
    )
    command.add_argument(
        "--lr",
        type=Path,
        help="folder of inputs, named as HR or NAMEx4 (default: HR reduced bicubically)",
    )
    command.add_argument(
        "-m",
        "--model",
        nargs="+",
        default=["builtin"],
        help="checkpoint files or names (see: smoothsr models)",
    )
    network(command)
    command.add_argument(
        "-a",
        "--attack",
        type=words,
        default=words(conditions),
        help=f"conditions, joined by commas (default {conditions}) {CONDITION}",
    )
    metrics(command)
    command.add_argument(
        "--crop",
        type=int,
        help="measure on the central crop of so many input pixels (default: whole images)",
    )
    command.add_argument(
        "--agg",
        default="median",
        help='"median", "mean", or a percentile such as p10 (default median)',
    )
    antithetic(command)
    tiles(command, several)
    denoiser(command, several=True)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        help=f"folder of the results (default: {command.prog.split()[-1]})",
    )
    seed(command)
    machine(command)


def draws(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n", type=int, help="draws of a smoothed output (default 21, or 6 in pairs)"
    )


def antithetic(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--antithetic",
        action=argparse.BooleanOptionalAction,
        help="draw a mean in pairs of opposite noise, which takes fewer draws (default: yes)",
    )


def denoiser(command: argparse.ArgumentParser, several: bool = False) -> None:
    """Options of commands that put a denoiser in front of the network, or of each row."""
    rows = "; several, separated by commas, for a row each" if several else ""
    command.add_argument(
        "--denoiser",
        type=words if several else str,
        default=["none"] if several else "none",
        help="what each noisy copy passes before the network: builtin, a file, or none (default "
        f"none){rows}",
    )
    command.add_argument(
        "--denoiser-sigma",
        type=deviation,
        help="how strong it takes the noise to be: less keeps more detail (default: .6 sigma)",
    )


def metrics(command: argparse.ArgumentParser) -> None:
    metrics = "of psnr, psnr_y, ssim, ssim_y, mse, lpips (default psnr_y,ssim_y,lpips)"
    command.add_argument(
        "--metrics", type=words, default=words("psnr_y,ssim_y,lpips"), help=metrics
    )
    command.add_argument(
        "--lpips-weights",
        type=Path,
        help="file of LPIPS weights (default: the lpips package downloads AlexNet)",
    )


def tiles(command: argparse.ArgumentParser, several: bool) -> None:
    """Tile and halo of commands that measure: one of each, or candidates."""
    if several:
        command.add_argument(
            "-t",
            "--tile",
            type=integers,
            help="tile side in pixels, 0: none (default 0, certified: 0,8,16)",
        )
        command.add_argument(
            "--halo",
            type=integers,
            help="input pixels read beyond a tile (default 4; certified: 2)",
        )
        command.add_argument(
            "--halo-noise",
            type=numbers,
            help="how many times sigma the noise beyond a tile is (default 1)",
        )
    else:
        command.add_argument(
            "-t",
            "--tile",
            type=side,
            default="auto",
            help=f"tile side in input pixels, 0: none{AUTO} (default auto)",
        )
        around(command, halo=4, halo_noise=1.0)


def around(command: argparse.ArgumentParser, halo: int, halo_noise: float) -> None:
    """What is beyond a tile; None unless given, since there may be no tiles."""
    command.add_argument(
        "--halo", type=int, help=f"with tiles: input pixels read beyond one (default {halo})"
    )
    command.add_argument(
        "--halo-noise",
        type=number,
        help="with tiles: how many times sigma the noise beyond one is; more makes certificates "
        f"stronger for a little quality (default {halo_noise:g})",
    )
    command.set_defaults(around={"halo": halo, "halo_noise": halo_noise})


def network(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-s", "--scale", type=int, help="for checkpoints that serve several scales"
    )
    command.add_argument(
        "--arch",
        help="for checkpoints that don't tell: torchsr:NAME, basicsr:NAME{option=value}, or a "
        "class of your own as in 'net.py:RFDN{nf=50, upscale=4}', whose file is run",
    )


def seed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=0, help="of attacks, degradations and serving noise (default 0)"
    )


def early_looks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--enough",
        type=number,
        metavar="STEPS",
        help="stop drawing once the average of the network's outputs is certified to stay within "
        "so many 8-bit steps (root mean square), whatever changes values by up to 1/255",
    )
    command.add_argument(
        "--looks",
        type=int,
        help="how often to look for that, at a third of the draws, a ninth ...: all looks together "
        "fail with probability alpha (default 5)",
    )


def memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory",
        type=size,
        help="what the process may take of the device's memory, such as 2GiB (default: of what is "
        "free, half where tiles are chosen by it)",
    )


def profile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile",
        action="store_true",
        help="tell at the end how many forward passes were made, of which patches, how many of "
        "them are the floor (the draws asked for), and which share of the time was the network's",
    )


def machine(command: argparse.ArgumentParser, precisions: tuple[str, ...] = PRECISIONS) -> None:
    command.add_argument("--device", default="auto", help="cpu, cuda, mps ... (default: auto)")
    command.add_argument(
        "--precision",
        default="float32",
        choices=precisions,
        help="of the network's arithmetic"
        + ("; auto: bfloat16 if that is faster here and as good" if "auto" in precisions else "")
        + " (default float32)",
    )
