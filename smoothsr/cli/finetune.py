"""`smoothsr finetune`: train a network on, so that it is better under smoothing."""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn
from tqdm import tqdm

from smoothsr import adapters
from smoothsr.adapters import LoadedSR
from smoothsr.cli.errors import UserError
from smoothsr.cli.finetune_options import OF_METHODS, FineTuneOptions
from smoothsr.cli.image_pairs import find_images, read_pair
from smoothsr.cli.processes import place
from smoothsr.evaluation import conditions
from smoothsr.evaluation.records import Image
from smoothsr.evaluation.steps import Degradation
from smoothsr.evaluation.validation import Validation
from smoothsr.files import images
from smoothsr.files.atomic import output_folder, replacing
from smoothsr.reports.figures import save_figure
from smoothsr.reports.training_report import scores_text, training_figure
from smoothsr.training import methods
from smoothsr.training.fine_tuning import FineTuning, Schedule
from smoothsr.training.losses import base_loss
from smoothsr.training.patches import Degrade, Patches, cache
from smoothsr.training.processes import averaged

TIMED = 4  # steps at least that tell how long one takes
SHARE = 0.02  # of the minutes, for these steps
SAVED = 60.0  # seconds between checkpoints


@dataclass(frozen=True)
class Job:
    """What is trained, how it is measured, and what the weights depend on."""

    options: FineTuneOptions
    training: FineTuning
    validation: Validation | None
    recipe: dict[str, Any]
    architecture: str


def run(args: argparse.Namespace) -> int:
    """Train, and write the weights."""
    options = FineTuneOptions.of(args)
    with output_folder(options.out.parent), _process_group(options.device):
        job = prepare(options)
        if args.dry_run:
            print(estimate(job))
        else:
            train(job)
    return 0


def prepare(options: FineTuneOptions) -> Job:
    """Load the network and its data, and go on where an earlier run was."""
    args = options.args
    loaded = adapters.load(args.model, arch=args.arch, scale=args.scale, device=options.device)
    weights = {"lpips": args.lpips_weights, "vgg": args.vgg_weights}
    base = base_loss(args.loss, weights, channels=loaded.channels, seed=args.seed)
    objective = methods.objective(args.method, base, options.numbers).to(options.device)
    validation = validation_of(options, loaded)
    patches = patches_of(options, loaded)
    recipe = options.recipe(loaded, len(patches.pairs))
    saved = saved_by(options, recipe)
    model = loaded.model.to(memory_format=torch.channels_last)
    steps = saved["steps"] if saved else planned_steps(options, model, objective, patches)
    training = FineTuning(model, objective, patches, schedule_of(options, steps))
    if saved:
        training.load_state(saved["training"])
    return Job(options, training, validation, recipe, loaded.name)


def patches_of(options: FineTuneOptions, loaded: LoadedSR) -> Patches:
    """Decode the images that are learned; small ones are left out, which is said.

    Raises:
        UserError: If none is large enough.
    """
    args, first = options.args, place()[0] == 0
    paths = images.find(args.data)
    shape = {"scale": loaded.scale, "channels": loaded.channels, "factors": args.reduce}
    if first:  # one process decodes, the others read
        found = cache(paths, options.cache, **shape)
        count = len(paths) * len(args.reduce)
        pairs = list(tqdm(found, "decoding", count, unit="image", disable=None, leave=False))
    if dist.is_initialized():
        dist.barrier()
    if not first:
        pairs = list(cache(paths, options.cache, **shape))
    large = [pair for pair in pairs if min(pair.lr.shape[1:]) >= args.patch]
    if not large:
        side = args.patch * loaded.scale
        raise UserError(
            f"none of {len(paths)} images in {', '.join(args.data)} has {side} pixels a side: pass "
            f"a smaller --patch than {args.patch}, or larger images"
        )
    if first and len(large) < len(pairs):
        print(f"{len(pairs) - len(large)} of {len(pairs)} images are smaller than a patch")
    return Patches(large, args.patch, args.seed, [degradation(text) for text in args.degrade])


def degradation(text: str) -> Degrade:
    """Return what a condition does to a patch.

    Raises:
        UserError: If there is an attack in it.
    """
    condition = conditions.parse(text)
    if not all(isinstance(step, Degradation) for step in condition.steps):
        raise UserError(f"--degrade {text}: attacks are methods of their own, as --method adv-pgd")
    return lambda lr, seed: condition.apply(lr, None, nn.Identity(), seed)


def validation_of(options: FineTuneOptions, loaded: LoadedSR) -> Validation | None:
    """Read the images that are validated on; None where there are none."""
    args = options.args
    if not args.hr:
        return None
    paths = find_images(args)
    pairs = [
        _of_channels(read_pair(args, path, loaded, options.device), loaded.channels)
        for path in paths
    ]
    how = (args.sigma, args.n, args.agg, args.antithetic)
    validation = Validation(pairs, *how, args.metrics, args.lpips_weights)
    learned = {path.resolve() for path in images.find(args.data)}
    both = [path for path in paths if path.resolve() in learned]
    if both and place()[0] == 0:
        print(
            f"Caution: {both[0]} is learned and validated on, so its scores say little of other "
            "images",
            file=sys.stderr,
        )
    return validation


def _of_channels(image: Image, channels: int) -> Image:
    """Repeat a gray image to the network's channels, as it is where it is learned."""
    lr, hr = (picture.expand(-1, channels, -1, -1) for picture in (image.lr, image.hr))
    return image._replace(lr=lr, hr=hr)


def schedule_of(options: FineTuneOptions, steps: int) -> Schedule:
    """How long and how fast the network learns."""
    args = options.args
    return Schedule(steps, args.batch, args.rate, args.ema, options.precision)


def planned_steps(
    options: FineTuneOptions, model: nn.Module, objective: nn.Module, patches: Patches
) -> int:
    """Return --steps, or as many as fit into --minutes, by timing some on copies."""
    if options.args.steps is not None:
        return int(options.args.steps)
    trial = FineTuning(*copy.deepcopy((model, objective)), patches, schedule_of(options, TIMED))
    seconds = 60 * options.args.minutes
    return max(1, int(seconds / seconds_of_step(trial, SHARE * seconds)))


def seconds_of_step(training: FineTuning, trial: float = 0.0) -> float:
    """Time steps for `trial` seconds, but at least TIMED, and return the mean of the later half:
    the first ones are slow. Processes take as many steps, by the mean of their clocks.
    """
    taken: list[float] = []
    while len(taken) < TIMED or sum(taken) < trial:
        before = training.seconds
        training.learn()
        mean = averaged(torch.tensor(training.seconds - before, device=training.device))
        taken.append(mean.item())
    return statistics.mean(taken[len(taken) // 2 :])


def estimate(job: Job) -> str:
    """Try a few steps, and say what time and memory all will take."""
    training = job.training
    seconds, steps = seconds_of_step(training), training.schedule.steps
    weights = sum(weight.numel() for weight in training.model.parameters())
    return (
        f"{steps} steps of {training.schedule.batch} patches, {seconds:.2f} s each: about "
        f"{steps * seconds / 60:.3g} minutes, besides {job.options.args.validations + 1} "
        f"validations; {_peak(training.device)} at the peak. {weights:,} weights learn from "
        f"{len(training.patches.pairs)} images. Nothing was written but {job.options.cache}."
    )


def _peak(device: torch.device) -> str:
    """Say how much of the device's memory this process took at most."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    elif sys.platform == "win32":
        return "unknown memory"
    else:
        import resource  # which Windows lacks

        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / 2**20:.0f} MiB"


def train(job: Job) -> None:
    """Take all steps; checkpoint, validate and draw on the way, and write the weights at the end.

    Raises:
        DivergedError: If the loss is no number; the checkpoint and the figure stay.
    """
    training, first = job.training, place()[0] == 0
    steps = training.schedule.steps
    every = max(1, steps // job.options.args.validations)
    if first and not training.step:
        measure(job)
    saved = time.monotonic()
    hidden = None if first else True
    with tqdm(total=steps, initial=training.step, unit="step", disable=hidden) as bar:
        while not training.done:
            loss = training.learn()
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update()
            if first and (training.done or training.step % every == 0):
                measure(job)
            elif first and time.monotonic() - saved > SAVED:
                checkpoint(job)
                saved = time.monotonic()
    if first:
        write(job)


def measure(job: Job) -> None:
    """Score the network, keep what the run goes on from, and draw the curves."""
    training, options = job.training, job.options
    if job.validation:
        training.score(job.validation)
    checkpoint(job)
    title = f"{options.args.method}, step {training.step} of {training.schedule.steps}"
    curves = training.curves
    figure = training_figure(curves.loss, curves.scores, training.schedule.steps, title)
    save_figure(figure, options.figure)


def checkpoint(job: Job) -> None:
    """Keep what the run goes on from."""
    training = job.training
    state = {"recipe": _text(job.recipe), "steps": training.schedule.steps}
    with replacing(job.options.state) as part:
        torch.save({**state, "training": training.state()}, part)


def saved_by(options: FineTuneOptions, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Read what an earlier run kept; None where there is nothing.

    Raises:
        UserError: If that was told something else, or the file is no such thing.
    """
    if options.args.dry_run or not options.state.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(
            options.state, map_location=options.device, weights_only=True
        )
        old = json.loads(saved["recipe"])
    except OSError:
        raise
    except Exception as error:  # torch and pickle raise many kinds for a file of something else
        raise UserError(
            f"{options.state} is not what a run goes on from, or not all of it: name another "
            "--out, or remove it"
        ) from error
    new = json.loads(_text(recipe))
    for name in (*new, *(name for name in old if name not in OF_METHODS)):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{options.state} is of a run with {name} {old.get(name)}, not {new.get(name)}: "
                "name another --out, or remove it"
            )
    return saved


def write(job: Job) -> None:
    """Write the weights, and say what became of the scores."""
    training, options = job.training, job.options
    recipe = _text({**job.recipe, "steps": training.step})
    if options.out.suffix == ".safetensors":
        found = _contiguous(training.network)
        about = {"architecture": job.architecture, "recipe": recipe}
        about |= {"scores": scores_text(training.curves.scores)}
        about |= {"minutes": f"{training.seconds / 60:.1f}"}
        with replacing(options.out) as part:
            part.write_bytes(as_safetensors(found, about))
    else:  # as BasicSR keeps them
        both = {"params": training.model, "params_ema": training.network}
        weights = {name: _contiguous(network) for name, network in both.items()}
        with replacing(options.out) as part:
            torch.save({**weights, "recipe": recipe}, part)
    options.state.unlink()
    if job.validation:
        print(scores_text(training.curves.scores))
    first, last = training.curves.loss[0][1], training.curves.loss[-1][1]
    print(f"The loss went from {first:.3g} to {last:.3g}")
    print(
        f"Wrote {options.out} after {training.step} steps and {_duration(training.seconds)}, and "
        f"{options.figure}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"


def _contiguous(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _text(recipe: dict[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True, default=str)


@contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    """Let torchrun's processes average their gradients."""
    if place()[1] == 1:
        yield
        return
    own = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
    # They wait while the first of them decodes images, or validates.
    dist.init_process_group(timeout=timedelta(days=1), **own)
    try:
        yield
    finally:
        dist.destroy_process_group()
