"""`smoothsr certify`: bound what any attack on an image can do to its output."""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from smoothsr import Certificate, SmoothedSR
from smoothsr.cli import memory_budget
from smoothsr.cli.devices import autocast
from smoothsr.cli.errors import FAILURES, UserError, message
from smoothsr.cli.loading import NetworkOptions, Networks, load
from smoothsr.cli.processes import by_torchrun, meet, parts_of, place
from smoothsr.cli.progress import draws_bar, print_profile
from smoothsr.cli.reference import read_reference
from smoothsr.cli.smoother import SmootherOptions, print_padding_advice, settled, smoother
from smoothsr.engine.memory import Demand
from smoothsr.files import images
from smoothsr.files.atomic import output_folder, replacing, require_own
from smoothsr.files.images import Picture
from smoothsr.files.parts import NotLastError, Parts
from smoothsr.reports import (
    certificate_figures,
    certificate_report,
    deviation_report,
    figures,
    tables,
)
from smoothsr.reports.certificate_report import Answers, Questions

LOOKS = 5
ENDS = ("_sr.png", ".json", "_lower.png", "_upper.png", "_radius.png", "_panel.png")  # beside .npz
FRAGILE = 8.0  # steps by which a change of one step a value may move the mean: of SPAN's kind
Product = Callable[[Path], None]


@dataclass(frozen=True)
class Options:
    """What to certify of which smoother, and where results go."""

    input: Path
    folder: Path
    network: NetworkOptions
    smoother: SmootherOptions
    n_cert: int
    looks: int
    enough: float | None  # in 8-bit steps; None draws all
    alpha: float
    beta: float
    levels: int
    radii: Sequence[float]
    tolerance: float  # in 8-bit steps
    reference: Path | None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Options":
        """Take them from the command line.

        Raises:
            UserError: If a number is out of its range.
        """
        if args.radius and min(args.radius) < 0:
            raise UserError(f"--radius must be at least 0, got {min(args.radius):g}")
        _check_numbers(args)
        _check_looks(args.looks, args.enough)
        return cls(
            input=args.input,
            folder=args.output or Path(f"{args.input.stem}_certified"),
            network=NetworkOptions.of(args),
            smoother=SmootherOptions.of(args),
            n_cert=args.n_cert,
            looks=args.looks or (LOOKS if args.enough else 1),
            enough=args.enough,
            alpha=args.alpha,
            beta=args.beta,
            levels=args.levels,
            radii=args.radius or [share * args.sigma for share in (0.25, 0.5, 1, 1.5)],
            tolerance=args.tolerance,
            reference=args.reference,
        )

    @property
    def parts(self) -> Parts:
        """Where tiles are kept until all are there, and this process's place among those that
        share them.
        """
        return parts_of(Path(f"{self.stem}_parts"))

    @property
    def stem(self) -> str:
        """What the names of all results begin with."""
        return str(self.folder / self.input.stem)

    @property
    def file(self) -> Path:
        """The certificate's."""
        return Path(f"{self.stem}.npz")


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that are out of their range, or that were meant in another unit.

    Raises:
        UserError: If so.
    """
    for name in ("alpha", "beta"):
        if not 0 < getattr(args, name) < 1:
            raise UserError(f"--{name} must be between 0 and 1, got {getattr(args, name):g}")
    if args.n_cert < 2:
        raise UserError(f"--n-cert must be at least 2, got {args.n_cert}")
    if args.tolerance and not 1 <= args.tolerance <= 255:
        raise UserError(
            "--tolerance must be 0, or from 1 to 255, in 8-bit steps: write 8 for 8/255, got "
            f"{args.tolerance:g}"
        )


def _check_radii(radii: Sequence[float], lr: Tensor) -> None:
    """Refuse radii that no change of an image (1,C,h,w) in [0, 1] can have.

    Raises:
        UserError: If there is one.
    """
    largest = math.sqrt(lr.numel())
    if max(radii) > largest:
        raise UserError(
            f"--radius {max(radii):g} is an l2 norm that no change of this image has: values are "
            f"in [0, 1], so the largest is {largest:.4g}; 8 steps of one value are 8/255"
        )


def _check_looks(looks: int | None, enough: float | None) -> None:
    """Refuse a number of looks, or what they are for, that makes no sense.

    Raises:
        UserError: If so.
    """
    if enough is not None and place()[1] > 1 and not by_torchrun():
        raise UserError(
            "--enough over several processes takes torchrun, by which they wait for each other: "
            "start them by it, or leave --enough out"
        )
    if enough is not None and not 0 < enough < 255:
        raise UserError(f"--enough must be between 0 and 255 steps, got {enough:g}")
    if looks is not None and enough is None:
        raise UserError("--looks is how often to look whether --enough is reached: add --enough 5")
    if looks is not None and looks < 2:
        raise UserError(f"--looks must be at least 2, got {looks}")


class Job(NamedTuple):
    """What is certified, and what will be asked of the certificate."""

    options: Options
    picture: Picture
    lr: Tensor  # on the networks' device
    networks: Networks
    smoothed: SmoothedSR
    questions: Questions

    @classmethod
    def of(cls, options: Options) -> "Job":
        """Read and load what the options name.

        Raises:
            OSError: If a file can't be read.
            ValueError: If the image can't be certified as asked.
        """
        picture = images.read(options.input)
        _check_radii(options.radii, picture.pixels)
        networks = load(options.network)
        options = replace(options, smoother=settled(options.smoother, networks))
        reference = read_reference(options.reference, picture, networks.sr.scale)
        return cls(
            options,
            picture,
            picture.pixels.to(networks.device),
            networks,
            _smoother(options, networks, picture),
            Questions(options.radii, options.tolerance / 255, options.beta, reference),
        )


def run(args: argparse.Namespace) -> int:
    """Certify one image; write certificate and output, then what follows from them."""
    options = Options.of(args)
    require_own(options.file, (Path(f"{options.stem}{end}") for end in ENDS))
    job = Job.of(options)
    print(f"{job.networks.text}; predictor: {job.options.smoother.text}")
    print_padding_advice(job.options.smoother, job.networks.sr)
    certificate = _made(job)
    status = 0
    if certificate:
        status = _told(job, certificate)
        if status:
            print(f"{options.parts.folder} stays: the same command goes on with what is drawn")
        else:
            options.parts.remove()
    print_profile(job.options.network.passes)
    return status


def _made(job: Job) -> Certificate | None:
    """Make the certificate and save it with its output; None where another process does so.

    Raises:
        OSError: If they can't be written.
    """
    options = job.options
    with output_folder(options.folder):
        if options.parts.folder.exists():
            print(f"What is in {options.parts.folder} of these options is not drawn again")
        meet()
        try:
            certificate = _certify(options, job.smoothed, job.lr)
        except NotLastError as error:
            print(f"{error}; the process that is last to end writes the certificate")
            return None
        if options.file.exists():
            print(f"The certificate that was in {options.folder} before is overwritten.")
        # At once: what follows may fail, and the draws are the work.
        certificate.save(options.file)
        images.write(f"{options.stem}_sr.png", images.with_pixels(job.picture, certificate.sr, 8))
    return certificate


def _told(job: Job, certificate: Certificate) -> int:
    """Say what the certificate guarantees, write tables and figures, and return the exit status."""
    options, picture = job.options, job.picture
    if options.enough:
        print(_outcome(options.enough, certificate))
    with autocast(options.smoother.precision, job.lr.device):
        bare = _bare(job.smoothed, job.lr)
    answers = certificate_report.answer(certificate, job.questions, bare)
    shown, beta = job.questions.shown, job.questions.beta
    guaranteed = certificate_report.sentences(certificate, shown, beta)
    print("\n" + "\n\n".join([*certificate_report.sections(answers), "\n".join(guaranteed)]))
    if options.smoother.denoiser == "none" and not _is_enough(FRAGILE, certificate):
        print(
            "This network's outputs differ much from noise to noise: with --denoiser builtin they "
            "may differ less, and more be certified."
        )
    if picture.bits == 16:
        print("The file has 16 bits; the certified output is the one rounded to 8 bits.")
    record = _record(options, job.networks, answers, guaranteed)
    return _write(options.stem, _products(picture, bare, answers, record))


def _smoother(options: Options, networks: Networks, picture: Picture) -> SmoothedSR:
    """Wrap the network, if its certificate fits into memory."""
    smoothed = smoother(options.smoother, networks, picture)
    advice = "pass fewer --levels, or certify a crop" if smoothed.tile else "leave --tile at 4"

    def held(demand: Demand, tile: int | None) -> float:
        return memory_budget.certifying_bytes(demand, tile, options.n_cert, options.levels)

    return memory_budget.fitted(smoothed, picture.pixels.to(networks.device), held, advice)


def _certify(options: Options, smoothed: SmoothedSR, lr: Tensor) -> Certificate:
    with (
        autocast(options.smoother.precision, lr.device),
        draws_bar(options.input.name, smoothed.batching, options.network.passes) as progress,
    ):
        return smoothed.certify(
            lr,
            n=options.n_cert,
            alpha=options.alpha,
            levels=options.levels,
            kind="both",
            looks=options.looks,
            enough=partial(_is_enough, options.enough) if options.enough else None,
            progress=progress,
            parts=options.parts,
        )


def _is_enough(steps: float, certificate: Certificate) -> bool:
    """Whether the first sentence of the report promises no more than so many steps."""
    return 255 * certificate.deviation(deviation_report.SHOWN, "linf") <= steps


def _outcome(steps: float, certificate: Certificate) -> str:
    """Tell how the looks ended."""
    if _is_enough(steps, certificate):
        return f"{steps:g} steps are certified by {certificate.n_cert} draws, and that is enough"
    return f"{certificate.n_cert} draws do not certify {steps:g} steps; what they do is below"


def _bare(smoothed: SmoothedSR, lr: Tensor) -> Tensor | None:
    """Run the bare network, in tiles where it doesn't fit whole; None, with a word, if it fails,
    since the certificate does without.
    """
    try:
        return memory_budget.bare_output(smoothed, lr).cpu()
    except FAILURES as error:
        print(f"smoothsr: the bare network's output is left out: {message(error)}", file=sys.stderr)
        return None


def _record(
    options: Options, networks: Networks, answers: Answers, guaranteed: tuple[str, str]
) -> str:
    """What was found, as JSON."""
    given, absent = guaranteed
    whole = {
        "certificate": answers.certificate.summary(),
        **networks.record,
        "table": answers.rows,
        "linf": answers.linf_rows,
        "deviations": [row._asdict() for row in answers.deviations],
        "psnr_to_reference": answers.actual,
        "enough_8bit": options.enough,
        "beta": options.beta,
        "tolerance_8bit": options.tolerance,
        "bounds_radius": answers.questions.shown,
        "guaranteed": given,
        "not_guaranteed": absent,
    }
    return tables.json_text(whole)


def _products(
    picture: Picture, bare: Tensor | None, answers: Answers, record: str
) -> Mapping[str, Product]:
    """What is written besides certificate and output: the end of each name, and how."""
    certificate, questions = answers.certificate, answers.questions
    bounds = certificate.bounds(questions.shown, certificate.predictors[0], questions.beta)

    def write_record(path: Path) -> None:
        with replacing(path) as part:
            part.write_text(record, encoding="utf-8")

    def write_bound(side: int) -> Product:
        return lambda path: images.write(path, Picture(bounds[side], None, 8, picture.icc))

    def write_radii(path: Path) -> None:
        figures.save_figure(certificate_figures.radius_figure(answers), path)

    def write_panel(path: Path) -> None:
        figure = certificate_figures.panel(picture.pixels, bare, answers)
        figures.save_figure(figure, path)

    return {
        ".json": write_record,
        "_lower.png": write_bound(0),
        "_upper.png": write_bound(1),
        "_radius.png": write_radii,
        "_panel.png": write_panel,
    }


def _write(stem: str, products: Mapping[str, Product]) -> int:
    """Write each product; one that fails costs no other. Return the exit status."""
    written, failed = [".npz", "_sr.png"], 0
    for end, write in products.items():
        try:
            write(Path(stem + end))
            written.append(end)
        except FAILURES as error:
            failed += 1
            print(f"smoothsr: {stem}{end} is not written: {message(error)}", file=sys.stderr)
    print(f"Wrote {stem}{', '.join(written)}")
    return 2 if failed else 0
