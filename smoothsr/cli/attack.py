"""`smoothsr attack`: attack an image, and show what becomes of the bare and the smoothed output,
and of a certificate.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothsr import Certificate, SmoothedSR, __version__
from smoothsr.attacks import gradient_memory
from smoothsr.attacks.views import seed_of, serve
from smoothsr.certificates import check
from smoothsr.cli.devices import autocast, reproducible
from smoothsr.cli.errors import UserError, message
from smoothsr.cli.loading import NetworkOptions, Networks, load
from smoothsr.cli.reference import read_reference
from smoothsr.cli.smoother import SmootherOptions, smoother
from smoothsr.engine.batching import out_of_memory
from smoothsr.engine.lattice import on_lattice, snapped
from smoothsr.engine.noise import sigma_text
from smoothsr.evaluation import conditions
from smoothsr.evaluation.conditions import Attack, Condition
from smoothsr.files import images
from smoothsr.files.atomic import output_folder, require_own, staged
from smoothsr.files.digests import digest, fingerprint
from smoothsr.files.images import Picture
from smoothsr.reports import attack_report, figures
from smoothsr.reports.attack_report import Outcome
from smoothsr.smoothing import variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRECISIONS = {  # of certificates, as --precision names them
    "float32": "float32",
    "bfloat16 (autocast)": "bfloat16",
    "float16 (autocast)": "float16",
}
ENDS = (  # of the names of what is written
    "_attacked.png",
    "_bare.png",
    "_bare_attacked.png",
    "_smoothed.png",
    "_smoothed_attacked.png",
    "_attack.png",
    "_attack.json",
)
STEPS = 65535  # of the 16 bits that the attacked image is written with


@dataclass(frozen=True)
class AttackOptions:
    """What `attack` is told, once the certificate has had its say.

    Args:
        input: The image's file.
        folder: Of the results.
        condition: What is done to the image.
        reference: File of the ground truth, if any.
        certificate: File of the certificate, if any.
        beta: Failure probability of a served value.
        seed: Of the attack and of serving.
        smoother: What defines the predictor.
        predictor: The options that do, by name, for the record.
    """

    input: Path
    folder: Path
    condition: Condition
    reference: Path | None
    certificate: Path | None
    beta: float
    seed: int
    smoother: SmootherOptions
    predictor: Mapping[str, Any]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "AttackOptions":
        """Take the options from what was parsed.

        Raises:
            UserError: If beta is out of its range.
            ValueError: If there is no such condition.
        """
        condition, smoothing = conditions.parse(args.attack), SmootherOptions.of(args)
        if not 0 < args.beta < 1:
            raise UserError(f"--beta must be between 0 and 1, got {args.beta:g}")
        settled = {"n": smoothing.n, "antithetic": smoothing.antithetic}
        return cls(
            input=args.input,
            folder=args.output or Path(f"{args.input.stem}_attacked"),
            condition=condition,
            reference=args.reference,
            certificate=args.certificate,
            beta=args.beta,
            seed=args.seed,
            smoother=smoothing,
            predictor={name: getattr(args, name) for name in args.defaults} | settled,
        )


class Attacked(NamedTuple):
    """What became of an image; all tensors are on the CPU.

    Args:
        lr: The clean input (1,C,h,w).
        attacked: The same under attack.
        bare: The bare network's outputs.
        served: The smoother's outputs.
        alone: The smoother's outputs for the clean input, twice: what fresh noise does.
    """

    lr: Tensor
    attacked: Tensor
    bare: Outcome
    served: Outcome
    alone: Outcome


class Report(NamedTuple):
    """What is to be said of it: the rows of the table, the text's paragraphs, and the change's
    size.
    """

    rows: list[attack_report.Row]
    text: list[str]
    size: dict[str, float]


def run(args: argparse.Namespace) -> int:
    """Attack one image; write the attacked input, outputs, panel and figures. Return 1 if a
    certificate did not hold.
    """
    certificate = Certificate.load(args.certificate) if args.certificate else None
    _settle(args, certificate)
    options = AttackOptions.of(args)
    written = [options.folder / f"{options.input.stem}{end}" for end in ENDS]
    require_own(written[-1], written)
    picture = images.read(options.input)
    networks = load(NetworkOptions.of(args))
    smoothed, device = smoother(options.smoother, networks, picture), networks.device
    if certificate:
        _require_fit(certificate, options, networks, picture, smoothed)
    reference = read_reference(options.reference, picture, networks.sr.scale)

    print(f"{networks.text}; predictor: {options.smoother.text}")
    with output_folder(options.folder):  # tried before the work, which would be lost
        found = _attack(options, smoothed, picture.pixels.to(device), reference)
    verdict = None
    if certificate:
        attacked, lr = found.attacked.cpu().double(), found.lr.cpu().double()
        # What a smoother on the lattice sees.
        change = snapped(attacked) - snapped(lr) if certificate.lattice else attacked - lr
        verdict = check.judge(certificate, change, found.served.attacked, options.beta)
    report = _report(options, found, reference, networks.sr.scale)
    if certificate and verdict:
        report.text.append(verdict.text(certificate, options.beta))
    print("\n" + "\n\n".join(report.text) + "\n")
    record = _record(options, networks, picture, report, verdict)
    record["versions"] = {
        "smoothsr": __version__,
        "torch": torch.__version__,
        "device": str(device),
    }
    _write(options, picture, found, _panel(found, reference, verdict), record)
    return 0 if verdict is None or verdict.holds(options.beta) else 1


def _attack(
    options: AttackOptions, smoothed: SmoothedSR, lr: Tensor, reference: Tensor | None
) -> Attacked:
    """Attack lr, on its device, and run both networks on what becomes of it."""
    device = lr.device
    with autocast(options.smoother.precision, device), reproducible(), _counter(smoothed.model):
        _require_memory(options.condition, smoothed, lr)
        _require_runs(smoothed, lr)
        truth = None if reference is None else reference.to(device)
        whole = smoothed.lattice and on_lattice(lr)
        attacked = options.condition.apply(lr, truth, smoothed, options.seed, whole)
        if not whole:
            attacked = _in_16_bits(lr, attacked)
        with torch.no_grad():
            # Fresh noise for each output, as in use, and none that the attacker has met.
            clean, harmed, again = (
                serve(smoothed, image, seed_of(options.seed, "serving", word)).cpu()
                for image, word in ((lr, "clean"), (attacked, "attacked"), (lr, "again"))
            )
            bare = [serve(smoothed.model, image, 0).float().cpu() for image in (lr, attacked)]
    return Attacked(
        lr.cpu(),
        attacked.cpu(),
        Outcome("bare", *bare),
        Outcome(f"smoothed by {sigma_text(smoothed.sigma)}", clean, harmed),
        Outcome("smoothed, no attack", clean, again),
    )


def _require_runs(smoothed: SmoothedSR, lr: Tensor) -> None:
    """Try one draw.

    Raises:
        UserError: If the network fails, as one may on small tiles.
    """
    options: dict[str, Any] = {"n": 1, "agg": "mean", "antithetic": False}
    try:
        with torch.no_grad():
            variant(smoothed, **options)(lr)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"the network fails on this image ({message(error)}): if its patches are too small, "
            "pass a larger --tile or --halo, or --tile 0"
        ) from error


def _report(
    options: AttackOptions, found: Attacked, reference: Tensor | None, scale: int
) -> Report:
    """Say by how much the input changed, and what that made of the outputs."""
    rows = attack_report.rows([found.bare, found.served, found.alone], reference, scale)
    change = (found.attacked - found.lr).cpu().double()
    size = {"linf_8bit": 255 * change.abs().max().item(), "l2": change.norm().item()}
    nothing = ""
    if options.condition.steps and not change.any():
        nothing = " Nothing: what it does is less than a file can hold."
    text = [
        f"{options.condition.text} changed the input by {size['linf_8bit']:.4g}/255 (linf), "
        f"{size['l2']:.4g} (l2).{nothing}",
        attack_report.table(rows),
        f"{attack_report.words(*rows)} {_aim(options.condition)}".rstrip(),
    ]
    return Report(rows, text, size)


def _record(
    options: AttackOptions,
    networks: Networks,
    picture: Picture,
    report: Report,
    verdict: check.Verdict | None,
) -> dict[str, Any]:
    """What NAME_attack.json holds of the attack."""
    checked = None
    if verdict:
        checked = {"file": str(options.certificate), **verdict.record(options.beta)}
    return {
        "attack": options.condition.text,
        "seed": options.seed,
        "input": {"file": str(options.input), "digest": digest([picture.pixels])},
        "size": report.size,
        "predictor": options.predictor,
        **networks.record,
        "outputs": report.rows,
        "text": report.text,
        "certificate": checked,
    }


def _panel(found: Attacked, reference: Tensor | None, verdict: check.Verdict | None) -> "Figure":
    outside = verdict.outside if verdict else None
    outcomes = [found.bare, found.served]
    return attack_report.panel(found.lr, found.attacked, outcomes, reference, outside)


def _write(
    options: AttackOptions,
    picture: Picture,
    found: Attacked,
    figure: "Figure",
    record: Mapping[str, Any],
) -> None:
    """Write all files, or none."""
    stem = options.input.stem
    existed = (options.folder / f"{stem}_attack.json").exists()
    with output_folder(options.folder), staged(options.folder) as stage:
        # Without alpha: what is read of an image depends on it where it is transparent, and this
        # file must be read as it was attacked.
        attacked = Picture(found.attacked, None, 16, picture.icc)
        images.write(stage / f"{stem}_attacked.png", attacked)
        for word, outcome in (("bare", found.bare), ("smoothed", found.served)):
            for output, end in ((outcome.clean, ""), (outcome.attacked, "_attacked")):
                images.write(
                    stage / f"{stem}_{word}{end}.png", images.with_pixels(picture, output, 8)
                )
        figures.save_figure(figure, stage / f"{stem}_attack.png")
        text = json.dumps(record, indent=2) + "\n"
        (stage / f"{stem}_attack.json").write_text(text, encoding="utf-8")
    name = options.folder / stem
    outputs = "_bare.png, _bare_attacked.png, _smoothed.png, _smoothed_attacked.png"
    print(
        f"Wrote {name}_attacked.png (16 bits), {outputs}, _attack.png (all of them), _attack.json"
        f"{' (overwritten)' if existed else ''}"
    )


def _settle(args: argparse.Namespace, certificate: Certificate | None) -> None:
    """Take the options that define the predictor from the certificate, or the defaults where the
    user gave none.

    Raises:
        UserError: If an option that was given contradicts the certificate.
    """
    known = dict(args.defaults)
    if certificate:
        known |= _certified(certificate, args.certificate)
        if certificate.denoiser_sigma is not None:  # which one it is, its digest tells
            if args.denoiser in (None, "none"):
                raise UserError(
                    f"{args.certificate} was made with a denoiser: name it by --denoiser"
                )
            known["denoiser"] = args.denoiser
    for name, value in known.items():
        given = getattr(args, name)
        if certificate and given not in (None, value):
            raise UserError(
                f"{_typed(name, given)} contradicts {args.certificate}, which was made with "
                f"{_typed(name, value)}: leave it out"
            )
        setattr(args, name, value if given is None else given)


def _typed(name: str, value: object) -> str:
    """Write an option as it is typed."""
    option = name.replace("_", "-")
    if value is None:
        return f"no --{option}"
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"-n {value}" if name == "n" else f"--{option} {value}"


def _certified(certificate: Certificate, file: Path) -> dict[str, Any]:
    """The options of the predictor that a certificate is about.

    Raises:
        UserError: If there are none for it.
    """
    made = None
    if certificate.scope != "image":
        made = f"of one pixel only (scope {certificate.scope!r})"
    elif certificate.dtype not in PRECISIONS:
        made = f"in {certificate.dtype}"
    if made:
        raise UserError(
            f"{file} was made {made}, which this command can't follow: certify the image again"
        )
    known: dict[str, Any] = {"sigma": certificate.sigma, "n": certificate.n_serve}
    known |= {"agg": certificate.agg, "antithetic": certificate.antithetic}
    known |= {"precision": PRECISIONS[certificate.dtype], "lattice": certificate.lattice}
    known |= {"tile": certificate.tile or 0, "denoiser_sigma": certificate.denoiser_sigma}
    if certificate.tile:
        known |= {"halo": certificate.halo, "halo_noise": certificate.halo_noise}
    return known


def _require_fit(
    certificate: Certificate,
    options: AttackOptions,
    networks: Networks,
    picture: Picture,
    smoothed: SmoothedSR,
) -> None:
    """Refuse a certificate of another image, network or denoiser."""
    if digest([picture.pixels]) != certificate.input_digest:
        raise UserError(
            f"{options.certificate} certifies another image than {options.input}: the digests of "
            "their pixels differ"
        )
    if fingerprint(*smoothed.children()) != certificate.weights_digest:
        found = [networks.sr.source, *([networks.denoiser.source] if networks.denoiser else [])]
        another = "another network or denoiser" if networks.denoiser else "another network"
        raise UserError(
            f"{options.certificate} certifies {another} than {' and '.join(found)}: the digests of "
            "their weights or structures differ; pass what certify was given"
        )


def _require_memory(condition: Condition, smoothed: SmoothedSR, lr: Tensor) -> None:
    """Refuse an attack one pass of which would fill the computer's memory, which ends a process
    without a word.
    """
    steps = [step for step in condition.steps if isinstance(step, Attack)]
    if lr.device.type != "cpu" or not steps:
        return  # on other devices, memory that runs out is an error
    whole = any(
        step.bare or step.name == "strongest" for step in steps
    )  # through the bare network, which has no tiles
    pixels = lr.shape[2] * lr.shape[3] if whole else gradient_memory.patches(smoothed, lr)[1]
    needed = gradient_memory.gradient_bytes(smoothed, lr) * pixels
    if needed > gradient_memory.LIMIT:
        tile = "a smaller --tile or --halo" if smoothed.tile else "--tile 64"
        advice = "attack a crop" if whole else f"attack a crop, or pass {tile}"
        raise UserError(
            f"the gradient of one pass, {pixels} pixels, would take {needed / 2**30:.1f} "
            f"GiB: {advice}"
        )


def _in_16_bits(lr: Tensor, attacked: Tensor) -> Tensor:
    """Round the change towards zero to what a 16-bit file holds, so that it stays within its
    budget.
    """
    start, change = lr.cpu().double(), attacked.cpu().double() - lr.cpu().double()
    return (((start * STEPS).round() + (change * STEPS).trunc()).float() / STEPS).to(lr.device)


def _aim(condition: Condition) -> str:
    """Say whom the attacks know."""
    aims = {step.bare for step in condition.steps if isinstance(step, Attack)}
    if aims == {True}:
        return (
            "The attack knows the bare network only; one that knows the smoother may harm its "
            "output more (leave out @bare)."
        )
    if aims == {False} and not any(step.name == "strongest" for step in condition.steps):
        return (
            "The attack is made for the smoothed output; one that is made for the bare network "
            "may harm that more (add @bare)."
        )
    return ""


@contextmanager
def _counter(network: nn.Module) -> Iterator[None]:
    """Show how many images have passed the network, after two seconds."""
    with tqdm(
        desc="through the network", unit=" images", delay=2, disable=None, leave=False
    ) as bar:

        def count(_network: nn.Module, _inputs: object, outputs: Tensor) -> None:
            bar.update(len(outputs))

        hook = network.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()
