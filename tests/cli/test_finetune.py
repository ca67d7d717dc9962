"""smoothsr finetune: weights that load everywhere, runs that are killed, one line for mistakes."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from process_runs import started
from safetensors import safe_open
from safetensors.torch import load_file
from training_networks import in_two_processes

from smoothsr import adapters
from smoothsr.cli import main
from smoothsr.cli.errors import UserError
from smoothsr.cli.finetune import saved_by, seconds_of_step
from smoothsr.cli.finetune_options import FineTuneOptions
from smoothsr.cli.finetune_parser import FINETUNE_METHODS
from smoothsr.cli.parser import parser
from smoothsr.files import images
from smoothsr.files.images import Picture
from smoothsr.training.methods import METHODS

CAT = str(Path(__file__).parents[2] / "examples/cat_hr.png")


def finetune(out, *options, method="noise", steps=4):
    given = ["finetune", "-m", "builtin-clean", "--data", CAT, "--out", str(out), "--patch", "12"]
    given += ["--batch", "2", "--method", method, "--device", "cpu"]
    length = ["--steps", str(steps)] if steps else []
    return [*given, *length, *map(str, options)]


def test_the_parser_knows_every_method():
    assert set(FINETUNE_METHODS) == set(METHODS)


@pytest.mark.parametrize("method", FINETUNE_METHODS)
def test_every_method_changes_the_weights(method, tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, method=method, steps=2)) == 0
    before, after = adapters.load("builtin-clean").model.state_dict(), load_file(out)
    assert before.keys() == after.keys()
    assert any((before[key] != after[key]).any() for key in after)
    assert all(value.isfinite().all() for value in after.values())
    printed = capsys.readouterr().out
    assert "The loss went from " in printed
    assert f"Wrote {out} after 2 steps and " in printed
    assert not out.with_suffix(".state").exists()


@pytest.mark.parametrize("method", ["mrs", "consistency", "adv-fgsm", "penalty"])
def test_a_discriminator_learns_beside_every_method(method, tmp_path):
    out, plain = tmp_path / "net.safetensors", tmp_path / "plain.safetensors"
    assert main(finetune(out, "--loss", "l1+0.5*gan", method=method, steps=2)) == 0
    assert main(finetune(plain, "--loss", "l1", method=method, steps=2)) == 0
    one, two = load_file(out), load_file(plain)
    assert any((one[key] != two[key]).any() for key in one)
    assert all(value.isfinite().all() for value in one.values())


def test_the_file_tells_its_recipe_and_loads(tmp_path):
    out = tmp_path / "net.safetensors"
    options = ["--val", CAT, "--crop", "16", "--metrics", "psnr_y,mse", "--validations", 2]
    assert main(finetune(out, *options, method="smoothed", steps=2)) == 0
    with safe_open(out, "pt") as file:
        recipe, scores = json.loads(file.metadata()["recipe"]), file.metadata()["scores"]
    assert (recipe["method"], recipe["steps"], recipe["images"]) == ("smoothed", 2, 1)
    assert recipe["sha256"] == adapters.load("builtin-clean").sha256
    assert "psnr_y, smoothed" in scores
    assert "mse, bare" in scores
    assert adapters.load(out).name == adapters.load("builtin-clean").name
    assert images.read(tmp_path / "net_curves.png").pixels.shape[1] == 3  # the curves


def test_basicsr_reads_a_pth(tmp_path):
    out = tmp_path / "net.pth"
    assert main(finetune(out, steps=2)) == 0
    state = torch.load(out, weights_only=True)
    assert {"params", "params_ema"} <= state.keys()
    served = adapters.load(out).model.state_dict()
    assert all(torch.equal(value, served[key]) for key, value in state["params_ema"].items())


@pytest.mark.parametrize(("method", "loss"), [("smoothed", "l1"), ("noise", "l1+0.005*gan")])
def test_a_run_that_is_killed_five_times_ends_with_the_same_weights(method, loss, tmp_path):
    options = ["--val", CAT, "--crop", "12", "--validations", "30", "--ema", ".9", "--loss", loss]
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert _ended(started(finetune(whole, *options, method=method, steps=60))) == 0
    rng = random.Random(0)
    for _ in range(5):  # killed once it has got one to four checkpoints on
        process = started(finetune(cut, *options, method=method, steps=60))
        _wait_for(cut.with_suffix(".state"), process, rng.randrange(1, 5))
        process.kill()
        assert _ended(process) == -signal.SIGKILL
    assert _ended(started(finetune(cut, *options, method=method, steps=60))) == 0
    one, two = load_file(whole), load_file(cut)
    assert all(torch.equal(one[key], two[key]) for key in one)


def _ended(process):
    """Wait for a process to end, and return its exit status."""
    process.communicate()
    return process.returncode


def _wait_for(state, process, times):
    """Wait until a file was written so many times more, or the process has ended."""
    seen = set()
    while len(seen) <= times and process.poll() is None:
        if state.exists():
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.005)


def test_numbers_of_other_methods_in_an_older_recipe_are_no_hindrance(tmp_path):
    """Before, recipes told all of them."""
    args = parser().parse_args(finetune(tmp_path / "net.safetensors", method="plain"))
    options = FineTuneOptions.of(args)
    recipe = options.recipe(adapters.load("builtin-clean"), 1)
    old = {**recipe, "draws": 4, "eps": 4 / 255, "sigmas": [0.03, 0.2]}
    for stored in (old, {**old, "sigma": 0.1}):
        torch.save({"recipe": json.dumps(stored), "steps": 4}, options.state)
        if stored is old:
            assert saved_by(options, recipe)["steps"] == 4
    with pytest.raises(UserError, match=r"is of a run with sigma 0\.1, not 0\.05"):
        saved_by(options, recipe)


def test_another_recipe_is_no_continuation(tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    process = started(finetune(out, "--val", CAT, "--crop", "12", steps=2000))
    _wait_for(out.with_suffix(".state"), process, 1)
    process.kill()
    process.communicate()
    assert main(finetune(out, "--sigma", "0.1", steps=2000)) == 2
    assert "is of a run with sigma 0.05, not 0.1" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net_curves.png"])
def test_nothing_is_overwritten(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert main(finetune(tmp_path / "net.safetensors")) == 2
    assert f"{name} is there already: name another --out" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


def test_a_dry_run_says_what_it_takes_and_writes_nothing_else(tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, "--dry-run", "--cache", tmp_path / "cache")) == 0
    said = capsys.readouterr().out
    assert "4 steps of 2 patches" in said
    assert "MiB at the peak" in said
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_minutes_become_steps(tmp_path):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, "--minutes", "0.01", steps=None)) == 0
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["recipe"])["steps"] >= 1


class Steps:
    """A training whose steps take what a list says."""

    device = torch.device("cpu")

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.left = 0.0, list(seconds)

    def learn(self) -> None:
        self.seconds += self.left.pop(0)


def test_a_step_is_timed_after_the_slow_ones():
    few, more = Steps(9, 5, 1, 3, 7), Steps(2, 1, 1, 1, 1, 1, 3, 9)
    assert (seconds_of_step(few), few.left) == (2, [7])
    assert seconds_of_step(more, trial=9.5) == pytest.approx((1 + 1 + 1 + 3) / 4)
    assert more.left == [9]


def timed(rank: int) -> torch.Tensor:
    """How long a step takes, and how many were tried, where processes have other clocks."""
    steps = Steps(*[1 + 2 * rank] * 20)
    return torch.tensor([seconds_of_step(steps, trial=10), len(steps.left)])


def test_processes_plan_as_many_steps():
    assert [each.tolist() for each in in_two_processes(timed)] == [[2, 15], [2, 15]]


def test_degradations_reach_the_inputs(tmp_path):
    plain, dark = tmp_path / "plain.safetensors", tmp_path / "blurred.safetensors"
    assert main(finetune(plain, method="plain", steps=2)) == 0
    assert main(finetune(dark, "--degrade", "blur:2+jpeg:20", method="plain", steps=2)) == 0
    one, two = load_file(plain), load_file(dark)
    assert any((one[key] != two[key]).any() for key in one)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--patch", "999"], "none of 1 images"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--lr", "0"], "--lr must be greater than 0, got 0"),
        (["--ema", "1"], "--ema must be at least 0 and less than 1, got 1"),
        (["--degrade", "pgd:1/255"], "attacks are methods of their own"),
        (["--loss", "l3"], "a loss is l1, mse, lpips, vgg, gan or a sum"),
        (["--loss", "vgg"], "the vgg loss needs the file of torchvision's VGG19"),
        (["--val", CAT, "--metrics", "psnr_z"], "unknown metric 'psnr_z'"),
        (["--val", CAT, "--metrics", "certified:"], "'certified:' needs a radius"),
        (["--vgg-weights", CAT, "--loss", "vgg"], "holds no weights of torchvision's VGG19"),
        (["--weight", "-1"], "weight must be a finite number >= 0, got -1"),
        (["--metrics", "psnr"], "--metrics is of the validation: add --val FOLDER"),
        (["--crop", "9"], "--crop is of the validation"),
        (["--agg", "mean"], "--agg is of the validation"),
        (["-n", "6"], "-n is of the validation"),
        (["--no-antithetic"], "--antithetic is of the validation"),
        (["--val-lr", "lr"], "--val-lr is of the validation"),
    ],
)
def test_mistakes_are_one_line(options, complaint, tmp_path, capsys):
    assert main(finetune(tmp_path / "net.safetensors", *options, method="consistency")) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "option", "value", "takers"),
    [
        ("mrs", "--eps", "1/255", "adv-fgsm, adv-bim, adv-pgd, adv-cw"),
        ("plain", "--sigmas", "0.1", "mrs"),
        ("penalty", "--draws", "2", "smoothed, consistency"),
        ("adv-pgd", "--weight", "1", "smoothed, consistency, penalty"),
        ("noise", "--kind", "top", "smoothed, consistency"),
        ("smoothed", "--norm", "l2", "adv-fgsm, adv-bim, adv-pgd, adv-cw"),
        ("smoothed", "--eps", "1/255", "adv-fgsm, adv-bim, adv-pgd, adv-cw"),
        ("mrs", "--attack-steps", "2", "adv-fgsm, adv-bim, adv-pgd, adv-cw"),
    ],
)
def test_numbers_that_a_method_does_not_take_are_refused(
    method, option, value, takers, tmp_path, capsys
):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, option, value, method=method)) == 2
    error = capsys.readouterr().err
    assert f"--method {method} takes no {option}: leave it out, or take one of {takers}\n" in error
    assert not out.exists()


def test_a_tile_of_a_penalty_that_has_none_is_refused(tmp_path, capsys):
    assert main(finetune(tmp_path / "net.safetensors", "--penalty-tile", 4, method="smoothed")) == 2
    assert "--penalty-tile is the tile of --kind top: add that" in capsys.readouterr().err


def test_the_recipe_tells_the_numbers_of_the_method_and_no_others(tmp_path):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, "--attack-steps", 2, "--norm", "l2", method="adv-pgd", steps=1)) == 0
    with safe_open(out, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert (recipe["steps"], recipe["attack_steps"], recipe["norm"]) == (1, 2, "l2")
    assert recipe["eps"] == pytest.approx(4 / 255)
    assert not {"sigmas", "draws", "weight", "kind", "penalty_tile"} & recipe.keys()


def test_validating_on_what_is_learned_is_told(tmp_path, capsys):
    options = ["--val", CAT, "--crop", "12", "--validations", 1]
    assert main(finetune(tmp_path / "net.safetensors", *options, steps=1)) == 0
    assert "cat_hr.png is learned and validated on" in capsys.readouterr().err


def test_gray_images_validate_colour_networks(tmp_path):
    """As those that are learned are."""
    images.write(tmp_path / "gray.png", Picture(torch.rand(1, 1, 48, 48)))
    options = ["--val", tmp_path / "gray.png", "--validations", 1, "--metrics", "psnr"]
    assert main(finetune(tmp_path / "net.safetensors", *options, steps=1)) == 0


@pytest.mark.parametrize("content", [b"", b"something else", None])
def test_a_state_that_is_something_else_is_told(content, tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    state = out.with_suffix(".state")
    if content is None:
        torch.save({"weight": torch.ones(1)}, state)
    else:
        state.write_bytes(content)
    before = state.read_bytes()
    assert main(finetune(out)) == 2
    assert "is not what a run goes on from, or not all of it" in capsys.readouterr().err
    assert state.read_bytes() == before


def test_smoothed_has_a_loss_of_its_own(tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    assert main(finetune(out, "--loss", "l1+0.005*gan", method="smoothed")) == 2
    assert "leave out --loss l1+0.005*gan" in capsys.readouterr().err
    assert not out.exists()


def test_the_name_must_tell_the_format(tmp_path, capsys):
    assert main(finetune(tmp_path / "net.onnx")) == 2
    assert "--out must end in .safetensors or .pth" in capsys.readouterr().err
