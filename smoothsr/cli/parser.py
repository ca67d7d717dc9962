"""The options of every command."""

import argparse
import re
from pathlib import Path
from typing import NoReturn, TypeAlias

from smoothsr.evaluation.numbers import number

GOES_ON = (
    "Killed and started again, it goes on where it was; processes of torchrun share the images."
)
CONDITION = (
    "e.g. none, noise:0.03, jpeg:50, blur:1, resize:0.5, blur:1+noise:0.02+jpeg:60, fgsm:1/255, "
    "pgd:l2:0.5, cw:4/255@bare"
)
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
PRECISIONS = ("float32", "bfloat16", "float16")
AUTO = ", auto: the whole image if it fits into memory, else the largest that shows no seams"


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without the list of all options, which --help has."""

    def error(self, message: str) -> NoReturn:
        """End with exit status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def parser() -> argparse.ArgumentParser:
    """Describe every command."""
    top = Parser(
        prog="smoothsr",
        description="Super-resolution that holds under attack and noise, certified.",
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_upscale, _certify, _attack, _evaluate, _sweep, _finetune, _models):
        add(commands)
    return top


def _upscale(commands: Commands) -> None:
    command = commands.add_parser(
        "upscale",
        help="upscale images or folders by a smoothed network",
        description=(
            "Write an output for every image. Processes of torchrun share the images, or the draws "
            "of a single one; one that was killed and is started again goes on where it was."
        ),
    )
    command.add_argument("input", nargs="+", help="image files or folders")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder, or a file for one input (default: beside the input)",
    )
    command.add_argument("--suffix", default="_sr", help='added to the name (default "_sr")')
    command.add_argument(
        "--ext", help="file type of the output, such as png (default: as the input)"
    )
    command.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave outputs that are there (default: overwrite)",
    )
    command.add_argument(
        "--agg",
        default="median",
        help='"median", "mean", or a percentile such as p10 (default median)',
    )
    command.add_argument(
        "--seed", type=int, help="make the noise the same every time (default: fresh)"
    )
    _common(command, sigma=0.03, tile="auto", halo=4, precisions=(*PRECISIONS, "auto"))
    _memory(command)
    _profile(command)
    command.set_defaults(command="upscale")


def _certify(commands: Commands) -> None:
    command = commands.add_parser(
        "certify",
        help="bound what any attack on an image can do to its output",
        description=(
            "Write a certificate, figures of it, and what it says. Killed and started again, it "
            "goes on where it was; processes of torchrun share the tiles."
        ),
    )
    command.add_argument("input", type=Path, help="an image file")
    command.add_argument(
        "-o", "--output", type=Path, help="folder for the results (default: NAME_certified)"
    )
    command.add_argument(
        "--agg", default="median", choices=("median", "mean"), help="(default median)"
    )
    command.add_argument(
        "--n-cert", type=int, default=1000, help="certification draws (default 1000)"
    )
    _early_looks(command)
    command.add_argument(
        "--alpha",
        type=number,
        default=1e-3,
        help="failure probability of the certificate (default .001)",
    )
    command.add_argument(
        "--beta",
        type=number,
        default=1e-3,
        help="failure probability of a served value (default .001)",
    )
    command.add_argument(
        "--levels", type=int, default=32, help="bounds stored for each value (default 32)"
    )
    command.add_argument(
        "--radius",
        type=number,
        nargs="+",
        help="l2 radii to tabulate (default: .25, .5, 1 and 1.5 sigma)",
    )
    command.add_argument(
        "--tolerance", type=number, default=8, help="of the radius map, in 8-bit steps (default 8)"
    )
    command.add_argument(
        "--reference", type=Path, help="ground truth image, for certified fidelity"
    )
    _common(command, sigma=0.05, tile=4, halo=1, halo_noise=2.0, precisions=(*PRECISIONS, "auto"))
    _memory(command)
    _profile(command)
    command.set_defaults(command="certify")


def _attack(commands: Commands) -> None:
    command = commands.add_parser(
        "attack", help="attack an image, and show what becomes of the bare and the smoothed output"
    )
    command.add_argument("input", type=Path, help="an image file")
    command.add_argument(
        "-o", "--output", type=Path, help="folder for the results (default: NAME_attacked)"
    )
    command.add_argument(
        "-a", "--attack", default="pgd:4/255", help=f"(default pgd:4/255) {CONDITION}"
    )
    command.add_argument(
        "--agg", default="median", choices=("median", "mean"), help="(default median)"
    )
    command.add_argument(
        "--reference",
        type=Path,
        help="ground truth to drive the output away from (default: the clean output)",
    )
    command.add_argument(
        "--certificate",
        type=Path,
        help="NAME.npz of certify, whose options are used: did the "
        "output stay inside? Exit status 1 if it did not",
    )
    command.add_argument(
        "--beta",
        type=number,
        default=1e-3,
        help="failure probability of a served value (default .001)",
    )
    _seed(command)
    _common(command, sigma=0.03, tile=0, halo=4)
    command.set_defaults(lattice=False)  # attacked inputs are no whole steps
    predictor = (
        "sigma",
        "n",
        "agg",
        "antithetic",
        "tile",
        "halo",
        "halo_noise",
        "denoiser",
        "denoiser_sigma",
        "precision",
        "lattice",
    )  # None unless given, since a certificate brings its own
    command.set_defaults(
        command="attack", defaults={name: command.get_default(name) for name in predictor}
    )
    command.set_defaults(**dict.fromkeys(predictor))


def _evaluate(commands: Commands) -> None:
    command = commands.add_parser(
        "evaluate",
        help="measure models, bare and smoothed, on images under attacks and degradations",
        description=(
            "Write a table: rows models and sigmas, columns conditions and metrics, means over "
            "images. "
        )
        + GOES_ON,
    )
    command.add_argument(
        "--sigma",
        type=deviations,
        default=[0.0, 0.03],
        help="noise of each row, separated by commas; 0 is bare (default 0,0.03)",
    )
    _draws(command)
    _evaluation(command, conditions="none,noise:0.03,pgd:4/255")
    command.set_defaults(command="evaluate")


def _sweep(commands: Commands) -> None:
    command = commands.add_parser(
        "sweep",
        help="choose sigma, n, tile and halo from data: tables, curves, and the best of each",
        description=(
            "Measure candidates, write table and curves, and say which is best under each "
            "condition. "
        )
        + GOES_ON,
    )
    command.add_argument(
        "--over",
        default="sigma",
        choices=("sigma", "n", "certified"),
        help="what to vary (default sigma); "
        "certified: certified PSNR over sigma, tile and halo, without --attack and --metrics",
    )
    command.add_argument(
        "--sigma",
        type=deviations,
        help="candidates, separated by commas (default 0,.01,.02,.03,.04,.06,.08; "
        "over n: .03; certified: .05,.1)",
    )
    command.add_argument(
        "-n",
        type=integers,
        help="candidates over n (default 1,3,5,11,21,51,101, or 2,4,6,10,20,50,100 in pairs), "
        "otherwise one number (21, or 6 in pairs)",
    )
    _evaluation(command, conditions="none,noise:0.03,pgd:4/255", several=True)
    _certification(command)
    command.set_defaults(command="sweep")


def _certification(command: argparse.ArgumentParser) -> None:
    """Options of a sweep over certificates."""
    command.add_argument(
        "--radius", type=numbers, default=[0.05, 0.1], help="certified: l2 radii (default .05,.1)"
    )
    command.add_argument(
        "--linf",
        type=numbers,
        default=[0.5 / 255, 1 / 255],
        help="certified: radii of changes of every value (default .5/255,1/255)",
    )
    command.add_argument("--n-cert", type=int, default=1000, help="certified: draws (default 1000)")
    command.add_argument(
        "--alpha",
        type=number,
        default=1e-3,
        help="certified: failure probability of all candidates (default .001)",
    )
    command.add_argument(
        "--levels",
        type=int,
        default=32,
        help="certified: bounds stored for each value (default 32)",
    )
    command.add_argument(
        "--predictor",
        default="ideal",
        choices=("served", "ideal"),
        help="certified: of what (default ideal)",
    )


def _finetune(commands: Commands) -> None:
    command = commands.add_parser(
        "finetune",
        help="train a network on, so that it is better under smoothing",
        description=(
            "Train a network on patches of images, and write its weights under the names that they "
            "had. Killed and started again, it goes on from OUT.state; processes of torchrun share "
            "each batch."
        ),
    )
    command.add_argument(
        "-m", "--model", required=True, help="a checkpoint file or name (see: smoothsr models)"
    )
    _network(command)
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
    _seed(command)
    _machine(command)
    command.set_defaults(command="finetune")


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
    """Numbers of the methods."""
    add = command.add_argument
    add(
        "--sigma",
        type=deviation,
        default=0.05,
        help="noise that the network will be smoothed with (default .05)",
    )
    add("--sigmas", type=deviations, default=[0.03, 0.2], help="of mrs (default .03,.2)")
    add("--draws", type=int, default=4, help="of smoothed and consistency (default 4)")
    add(
        "--weight",
        type=number,
        help="of a penalty: on what differs between draws (default .05 for smoothed, .7 for "
        "consistency), or on gradients (default .001)",
    )
    add(
        "--kind",
        default="trace",
        choices=("trace", "top"),
        help="what of the draws' differences is penalized: all, or in each tile the direction of "
        "most, which the certificate of the mean measures (default trace)",
    )
    add("--penalty-tile", type=int, default=16, help="side in output pixels (default 16)")
    add("--eps", type=number, default=4 / 255, help="budget of an attack (default 4/255)")
    add("--norm", default="linf", choices=("linf", "l2", "rms"), help="of it (default linf)")
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
        default=["psnr_y"],
        help="of psnr, psnr_y, ssim, ssim_y, mse, lpips, certified:RADIUS (default psnr_y)",
    )
    add("--validations", type=int, default=10, help="how many, after the first (default 10)")
    add("--agg", default="mean", help="smoothing of validation: mean, median, p10 (default mean)")
    _draws(command)
    _antithetic(command)


def _models(commands: Commands) -> None:
    command = commands.add_parser("models", help="list what can be loaded, or tell what files are")
    command.add_argument("file", nargs="*", help="checkpoint files or names")
    _network(command)
    command.set_defaults(command="models")


def _common(
    command: argparse.ArgumentParser,
    sigma: float,
    tile: int | str,
    halo: int,
    halo_noise: float = 1.0,
    precisions: tuple[str, ...] = PRECISIONS,
) -> None:
    """Options of the commands that run one smoothed model."""
    command.add_argument(
        "-m",
        "--model",
        default="builtin",
        help='"builtin" or a checkpoint file (see: smoothsr models)',
    )
    _network(command)
    command.add_argument(
        "--sigma",
        type=deviation,
        default=sigma,
        help=f"noise standard deviation, 0.03 or 8/255 (default {sigma})",
    )
    _draws(command)
    _antithetic(command)
    command.add_argument(
        "-t",
        "--tile",
        type=int if isinstance(tile, int) else side,
        default=tile,
        help=f"tile side in input pixels, 0: none{AUTO if tile == 'auto' else ''} (default {tile})",
    )
    command.add_argument(
        "--halo", type=int, default=halo, help=f"input pixels read beyond a tile (default {halo})"
    )
    command.add_argument(
        "--halo-noise",
        type=number,
        default=halo_noise,
        help="how many times sigma the noise beyond a tile is: stronger certificates for a little "
        f"quality (default {halo_noise:g})",
    )
    _denoiser(command)
    command.add_argument(
        "--batch-size", type=int, help="draws at once (default: the fastest, found out)"
    )
    command.add_argument(
        "--lattice",
        action=argparse.BooleanOptionalAction,
        help="round input and noise to a lattice, on which a certificate holds for floats too "
        "(default: for inputs of 8 bits)",
    )
    if "auto" in precisions:
        command.add_argument(
            "--compile",
            action="store_true",
            help="compile the network by torch first, which takes up to a minute: for many draws "
            "of patches of one shape",
        )
    _machine(command, precisions)


def _evaluation(command: argparse.ArgumentParser, conditions: str, several: bool = False) -> None:
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
    _network(command)
    command.add_argument(
        "-a",
        "--attack",
        type=words,
        default=words(conditions),
        help=f"conditions, joined by commas (default {conditions}) {CONDITION}",
    )
    _metrics(command)
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
    _antithetic(command)
    _tiles(command, several)
    _denoiser(command, several=True)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        help=f"folder of the results (default: {command.prog.split()[-1]})",
    )
    _seed(command)
    _machine(command)


def _draws(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n", type=int, help="draws of a smoothed output (default 21, or 6 in pairs)"
    )


def _antithetic(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--antithetic",
        action=argparse.BooleanOptionalAction,
        help="draw a mean in pairs of opposite noise, which takes fewer draws (default: yes)",
    )


def _denoiser(command: argparse.ArgumentParser, several: bool = False) -> None:
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


def _metrics(command: argparse.ArgumentParser) -> None:
    metrics = "of psnr, psnr_y, ssim, ssim_y, mse, lpips (default psnr_y,ssim_y,lpips)"
    command.add_argument(
        "--metrics", type=words, default=words("psnr_y,ssim_y,lpips"), help=metrics
    )
    command.add_argument(
        "--lpips-weights",
        type=Path,
        help="file of LPIPS weights (default: the lpips package downloads AlexNet)",
    )


def _tiles(command: argparse.ArgumentParser, several: bool) -> None:
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
            default=[1.0],
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
        command.add_argument(
            "--halo", type=int, default=4, help="input pixels read beyond a tile (default 4)"
        )


def _network(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-s", "--scale", type=int, help="for checkpoints that serve several scales"
    )
    command.add_argument(
        "--arch",
        help="for checkpoints that don't tell: torchsr:NAME, basicsr:NAME{option=value}, or a "
        "class of your own as in 'net.py:RFDN{nf=50, upscale=4}', whose file is run",
    )


def _seed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=0, help="of attacks, degradations and serving noise (default 0)"
    )


def _early_looks(command: argparse.ArgumentParser) -> None:
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


def _memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory",
        type=size,
        help="what the process may take of the device's memory, such as 2GiB (default: of what is "
        "free, half where tiles are chosen by it)",
    )


def _profile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile",
        action="store_true",
        help="tell at the end how many forward passes were made, of which patches, how many of "
        "them are the floor (the draws asked for), and which share of the time was the network's",
    )


def _machine(command: argparse.ArgumentParser, precisions: tuple[str, ...] = PRECISIONS) -> None:
    command.add_argument("--device", default="auto", help="cpu, cuda, mps ... (default: auto)")
    command.add_argument(
        "--precision",
        default="float32",
        choices=precisions,
        help="of the network's arithmetic"
        + ("; auto: bfloat16 if that is faster here and as good" if "auto" in precisions else "")
        + " (default float32)",
    )


def side(text: str) -> int | str:
    """Parse the side of a tile: 64, 0 or auto."""
    return text if text == "auto" else int(text)


def size(text: str) -> float:
    """Parse 2GiB, 1.5G, 800MB: bytes.

    Example:
        >>> size("2GiB"), size("1.5 MB")
        (2147483648.0, 1500000.0)
    """
    found = re.fullmatch(r"([0-9.]+) *([KMGT])(i?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"must be such as 2GiB or 800MB, got {text!r}")
    base = 1024 if found[3] else 1000
    return float(number(found[1]) * base ** ("KMGT".index(found[2].upper()) + 1))


def deviation(text: str) -> float:
    """Parse a sigma."""
    if number(text) > 1:
        raise argparse.ArgumentTypeError(
            f"{text} must be at most 1, since values are in [0, 1]: write 8/255, not 8"
        )
    return number(text)


def deviations(text: str) -> list[float]:
    """Parse 0,0.02,8/255, all of them sigmas."""
    try:
        return [deviation(word) for word in words(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers such as 0,0.02,8/255, got {text!r}"
        ) from None


def words(text: str) -> list[str]:
    """Parse none,noise:0.03."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise ValueError(text)
    return list(dict.fromkeys(found))


def numbers(text: str) -> list[float]:
    """Parse 0,0.02,8/255."""
    return [number(word) for word in words(text)]


def integers(text: str) -> list[int]:
    """Parse 1,5,21."""
    return [int(word) for word in words(text)]
