"""The options of every command."""

import argparse
import difflib
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from smoothsr.cli import shared_options as shared
from smoothsr.cli.finetune_parser import finetune_options
from smoothsr.cli.option_types import deviations, integers, number, numbers

GOES_ON = (
    "Killed and started again, it goes on where it was; processes of torchrun share the images."
)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without the list of all options, which --help has."""

    def error(self, message: str) -> NoReturn:
        """End with exit status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """Refuse at once what this command does not know, and say what comes near."""
        found, unknown = super().parse_known_args(*given, **named)
        if unknown:
            known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            if not unknown[0].startswith("-"):
                self.error(f"{unknown[0]} is one input too many, or apart from the others")
            near = difflib.get_close_matches(unknown[0].partition("=")[0].strip("-"), known, 1)
            advice = f", did you mean --{near[0]}?" if near else ""
            self.error(f"{unknown[0]} is nothing that this command knows{advice}")
        return found, unknown


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
    shared.common(command, sigma=0.03, tile="auto", halo=4, precisions=shared.FOUND_OUT)
    shared.memory(command)
    shared.profile(command)
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
    shared.early_looks(command)
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
    shared.common(command, sigma=0.05, tile=4, halo=1, halo_noise=2.0, precisions=shared.FOUND_OUT)
    shared.memory(command)
    shared.profile(command)
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
        "-a", "--attack", default="pgd:4/255", help=f"(default pgd:4/255) {shared.CONDITION}"
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
        help="NAME.npz of certify, whose options are used, but for -m, -s, --arch and --denoiser: "
        "did the output stay inside? Exit status 1 if it did not",
    )
    command.add_argument(
        "--beta",
        type=number,
        default=1e-3,
        help="failure probability of a served value (default .001)",
    )
    shared.seed(command)
    shared.common(command, sigma=0.03, tile=0, halo=4, lattice="as the certificate, or not")
    command.set_defaults(lattice=False)  # or an attack could only take whole steps
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
    shared.draws(command)
    shared.evaluation(command, conditions="none,noise:0.03,pgd:4/255")
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
    shared.evaluation(command, conditions="none,noise:0.03,pgd:4/255", several=True)
    _certification(command)
    scored = ("attack", "metrics", "lpips_weights", "seed")  # None unless given: not certified
    command.set_defaults(
        command="sweep", scored={name: command.get_default(name) for name in scored}
    )
    command.set_defaults(**dict.fromkeys(scored))


def _certification(command: argparse.ArgumentParser) -> None:
    """Options of a sweep over certificates, whose defaults `study_options` knows."""
    command.add_argument("--radius", type=numbers, help="certified: l2 radii (default .05,.1)")
    command.add_argument(
        "--linf",
        type=numbers,
        help="certified: radii of changes of every value (default .5/255,1/255)",
    )
    command.add_argument("--n-cert", type=int, help="certified: draws (default 1000)")
    command.add_argument(
        "--alpha",
        type=number,
        help="certified: failure probability of all candidates (default .001)",
    )
    command.add_argument(
        "--levels", type=int, help="certified: bounds stored for each value (default 32)"
    )
    command.add_argument(
        "--predictor", choices=("served", "ideal"), help="certified: of what (default ideal)"
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
    finetune_options(command)
    command.set_defaults(command="finetune")


def _models(commands: Commands) -> None:
    command = commands.add_parser("models", help="list what can be loaded, or tell what files are")
    command.add_argument("file", nargs="*", help="checkpoint files or names")
    shared.network(command)
    command.set_defaults(command="models")
