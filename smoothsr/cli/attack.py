"""`smoothsr attack`: attack an image, and show what becomes of the bare and the smoothed output,
and of a certificate.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothsr import Certificate, SmoothedSR, __version__
from smoothsr.attacks import gradient_memory
from smoothsr.attacks.views import seed_of, serve
from smoothsr.certificates import check
from smoothsr.cli.smoother import UserError, like, load, precision, predictor, reproducible, smooth
from smoothsr.evaluation import conditions
from smoothsr.evaluation.conditions import Attack, Condition
from smoothsr.files import images
from smoothsr.files.atomic import replacing
from smoothsr.files.digests import digest
from smoothsr.files.images import Picture
from smoothsr.reports import attack_report, certificate_report
from smoothsr.reports.attack_report import Outcome

STEPS = 65535  # of the 16 bits that the attacked image is written with


def run(args: argparse.Namespace) -> int:
    """Attack one image; write the attacked input, outputs, panel and figures. Return 1 if a
    certificate did not hold.
    """
    condition = conditions.parse(args.attack)
    if not 0 < args.beta < 1:
        raise UserError(f"--beta must be between 0 and 1, got {args.beta:g}")
    certificate = Certificate.load(args.certificate) if args.certificate else None
    _settle(args, certificate)
    picture = images.read(args.input)
    loaded, device = load(args)
    smoothed = smooth(args, loaded, picture).requires_grad_(
        False
    )  # of the weights, where it would cost memory
    if certificate:
        _require_fit(certificate, args, picture, smoothed)
    reference = _reference(args, picture, loaded.scale)

    print(f"{loaded.name}, x{loaded.scale}; predictor: {predictor(args)}")
    lr = picture.pixels.to(device)
    with precision(args, device), reproducible(), _counter(smoothed.model):
        _require_memory(condition, smoothed, lr)
        folder = args.output or Path(f"{args.input.stem}_attacked")
        folder.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost
        truth = None if reference is None else reference.to(device)
        attacked = _in_16_bits(lr, condition.apply(lr, truth, smoothed, args.seed))
        with torch.no_grad():
            # Fresh noise for each output, as in use, and none that the attacker has met.
            pairs = ((lr, "clean"), (attacked, "attacked"), (lr, "again"))
            clean, harmed, again = (
                serve(smoothed, image, seed_of(args.seed, "serving", word)).cpu()
                for image, word in pairs
            )
            bare = Outcome(
                "bare", *(serve(smoothed.model, image, 0).float().cpu() for image in (lr, attacked))
            )
    served = Outcome(f"smoothed by {args.sigma:g}", clean, harmed)
    rows = attack_report.rows(
        [bare, served, Outcome("smoothed, no attack", clean, again)], reference, loaded.scale
    )
    change = (attacked - lr).cpu().double()
    size = {"linf_8bit": 255 * change.abs().max().item(), "l2": change.norm().item()}
    judged = check.judge(certificate, change, harmed, args.beta) if certificate else None
    nothing = ""
    if condition.steps and not change.any():
        attacks = any(isinstance(step, Attack) for step in condition.steps)
        reason = (
            "the budget is below what a 16-bit file holds" if attacks else "this image is as it was"
        )
        nothing = f" Nothing: {reason}."
    said = [
        f"{condition.text} changed the input by {size['linf_8bit']:.4g}/255 (linf), "
        f"{size['l2']:.4g} (l2).{nothing}",
        attack_report.table(rows),
        f"{attack_report.words(*rows)} {_aim(condition)}".rstrip(),
    ]
    if certificate and judged:
        said.append(judged.text(certificate, args.beta))
    print("\n" + "\n\n".join(said) + "\n")

    name = str(folder / args.input.stem)
    # Without alpha: what is read of an image depends on it where it is transparent, and this file
    # must be read as it was attacked.
    images.write(f"{name}_attacked.png", Picture(attacked, None, 16, picture.icc))
    for (_, *pair), word in ((bare, "bare"), (served, "smoothed")):
        for output, end in zip(pair, ("", "_attacked"), strict=True):
            images.write(f"{name}_{word}{end}.png", like(picture, output, 8))
    figure = attack_report.panel(
        picture.pixels,
        attacked.cpu(),
        [bare, served],
        reference,
        judged.outside if judged else None,
    )
    certificate_report.save_figure(figure, Path(f"{name}_attack.png"))
    record = {
        "attack": condition.text,
        "seed": args.seed,
        "input": {"file": str(args.input), "digest": digest([picture.pixels])},
        "size": size,
        "predictor": {key: getattr(args, key) for key in args.defaults},
        "model": {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256},
        "outputs": rows,
        "text": said,
        "certificate": judged and {"file": str(args.certificate), **judged.record(args.beta)},
        "versions": {"smoothsr": __version__, "torch": torch.__version__, "device": str(device)},
    }
    with replacing(f"{name}_attack.json") as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    outputs = "_bare.png, _bare_attacked.png, _smoothed.png, _smoothed_attacked.png"
    print(
        f"Wrote {name}_attacked.png (16 bits), {outputs}, _attack.png (all of them), _attack.json"
    )
    return 0 if judged is None or judged.holds(args.beta) else 1


def _settle(args: argparse.Namespace, certificate: Certificate | None) -> None:
    """Take the options that define the predictor from the certificate, or the defaults where the
    user gave none.
    """
    known = dict(args.defaults)
    if certificate:
        precisions = {
            "float32": "float32",
            "bfloat16 (autocast)": "bfloat16",
            "float16 (autocast)": "float16",
        }
        if certificate.scope != "image" or certificate.dtype not in precisions:
            what = (
                f"of one pixel only (scope {certificate.scope!r})"
                if certificate.scope != "image"
                else f"in {certificate.dtype}"
            )
            raise UserError(
                f"{args.certificate} was made {what}, which this command can't follow: "
                "certify the image again"
            )
        known |= {"sigma": certificate.sigma, "n": certificate.n_serve, "agg": certificate.agg}
        known |= {"tile": certificate.tile or 0, "precision": precisions[certificate.dtype]}
        known |= {"halo": certificate.halo} if certificate.tile else {}
    for name, value in known.items():
        given = getattr(args, name)
        if certificate and given not in (None, value) and (name != "halo" or certificate.tile):
            option = f"-{'' if name == 'n' else '-'}{name} {given}"
            raise UserError(
                f"{option} contradicts {args.certificate}, which was made with {value}: "
                "leave it out"
            )
        setattr(args, name, value if given is None else given)


def _require_fit(
    certificate: Certificate, args: argparse.Namespace, picture: Picture, smoothed: SmoothedSR
) -> None:
    """Refuse a certificate of another image or network."""
    if digest([picture.pixels]) != certificate.input_digest:
        raise UserError(
            f"{args.certificate} certifies another image than {args.input}: the digests of "
            "their pixels differ"
        )
    if digest(smoothed.state_dict().values()) != certificate.weights_digest:
        raise UserError(
            f"{args.certificate} certifies another network than {args.model}: the digests of "
            "their weights differ"
        )


def _reference(args: argparse.Namespace, picture: Picture, scale: int) -> Tensor | None:
    if not args.reference:
        return None
    pixels = images.read(args.reference).pixels
    wanted = (
        1,
        picture.pixels.shape[1],
        scale * picture.pixels.shape[2],
        scale * picture.pixels.shape[3],
    )
    if pixels.shape != wanted:
        found, needed = (
            f"{width}x{height} pixels, {channels} channels"
            for _, channels, height, width in (pixels.shape, wanted)
        )
        raise UserError(f"{args.reference} is {found}; the output has {needed}")
    return pixels


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
