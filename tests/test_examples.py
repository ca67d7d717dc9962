import itertools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from smoothsr import SmoothedSR, adapters, attacks
from smoothsr.adapters.fitted import extend
from smoothsr.evaluation.records import Record, Row
from smoothsr.files import images
from smoothsr.metrics import to_8bit
from smoothsr.training.fine_tuning import DivergedError

ROOT = Path(__file__).parents[1]


def test_finetune_with_noise(tmp_path, monkeypatch):
    out = tmp_path / "tuned.safetensors"
    arguments = [str(ROOT / "examples/cat_hr.png"), "--steps", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["finetune_with_noise.py", *arguments])
    runpy.run_path(str(ROOT / "examples/finetune_with_noise.py"), run_name="__main__")
    before = adapters.load("builtin-clean").model.state_dict()
    tuned = load_file(out)
    assert tuned.keys() == before.keys()
    assert any((tuned[key] != before[key]).any() for key in tuned)
    assert adapters.load(out).scale == 4


def test_finetune_is_short():
    assert len((ROOT / "examples/finetune_with_noise.py").read_text().splitlines()) < 50


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Give the names of one of the recipes, with three photographs made of one."""
    photos = []
    for index in range(3):
        cat = images.read(ROOT / "examples/cat_hr.png").pixels
        path = tmp_path / f"{index}.png"
        images.write(path, images.Picture(cat.repeat(1, 1, 4, 4).flip(index)))
        photos.append(str(path))
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delenv("SMOOTHSR_DATA", raising=False)

    def names(name):
        found = runpy.run_path(str(ROOT / f"examples/{name}.py"))
        monkeypatch.setitem(found["main"].__globals__, "fetch", lambda _: photos)
        return found

    return names


def trained(names, out, monkeypatch, *options):
    """Run a recipe; return the weights that it wrote."""
    monkeypatch.setattr(sys, "argv", ["recipe", "--out", str(out), *options])
    names["main"]()
    return load_file(out)


def test_train_builtin_resumes(recipe, tmp_path, monkeypatch, capsys):
    """It trains as many steps as it is told, in both phases, and goes on where it was."""
    taken, out = [], tmp_path / "net.safetensors"
    names = recipe("train_builtin")
    real = names["train_step"]

    def train_step(run, batch, *, polish, share):
        taken.append((run.step, polish, share))
        return real(run, batch, polish=polish, share=share)

    monkeypatch.setitem(names["main"].__globals__, "train_step", train_step)
    for more in (["1"], ["2", "--polish", "2"]):
        trained(names, out, monkeypatch, "--steps", *more)
    assert taken == [(0, False, 0), (1, False, 0.5), (2, True, 0), (3, True, 0.5)]
    assert re.findall(r"step (\d+)", capsys.readouterr().out)[-1] == "4"
    assert adapters.load(out).name.startswith("SRVGGNetCompact")
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"].endswith("--sigma 0 0.1 --steps 2 --polish 2")


def test_train_builtin_counts_minutes_of_training(recipe, tmp_path):
    """Its learning rate follows the time that was trained, which a state brings along."""
    names = recipe("train_builtin")
    run = names["Run"].begin(names["new_network"](), tmp_path / "none.state")
    length = {"length": 2.0, "polish": 1.0, "unit": "minutes"}
    options = names["Options"](
        tmp_path / "net.safetensors", (0.0, 0.1), photos=tmp_path, data=None, **length
    )
    found = []
    for run.seconds in (0.0, 60.0, 120.0, 150.0):
        found.append(names["phase"](options, run))
    assert found == [(False, 0), (False, 0.5), (True, 0), (True, 0.5)]


def test_train_denoiser_resumes(recipe, tmp_path, monkeypatch, capsys):
    """It trains as many steps as it is told, and goes on where it was."""
    names, out = recipe("train_denoiser"), tmp_path / "net.safetensors"
    first = trained(names, out, monkeypatch, "--steps", "1")
    second = trained(names, out, monkeypatch, "--steps", "3")
    assert re.findall(r"step (\d+)", capsys.readouterr().out) == ["1", "3"]
    assert any((first[key] != second[key]).any() for key in first)
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"] == "examples/train_denoiser.py --steps 3"
    loaded = adapters.load_denoiser(out)
    assert loaded.name == adapters.load_denoiser("builtin").name
    noisy = torch.rand(1, 3, 5, 7)  # near the identity, as it begins
    assert (loaded.model(noisy, torch.tensor(0.05)) - noisy).abs().max() < 0.5


@pytest.mark.parametrize("side", [6, 24, 48])
def test_train_denoiser_draws_strengths(recipe, side):
    """One for each whole patch; on tiles a rim that is no weaker."""
    levels = recipe("train_denoiser")["levels"](40, side, np.random.default_rng(0))
    assert levels.shape == (40, 1, side, side)
    assert levels.min() >= 0
    assert levels.max() <= 0.15
    middle, rim = levels[:, 0, side // 2, side // 2], levels[:, 0, 0, side // 2]
    assert middle.std() > 0.03
    assert (rim == middle).all() if side == 48 else (rim > middle).all()
    assert all(len(level.unique()) == (1 if side == 48 else 2) for level in levels)


@pytest.mark.parametrize("side", [6, 16, 48])
def test_train_denoiser_cuts_patches_into_all_their_tiles(recipe, side):
    patches = torch.rand(2, 3, 48, 48)
    tiles = recipe("train_denoiser")["tiles_of"](patches, side)
    count = 48 // side
    rows = [torch.cat([*tiles[at * count : (at + 1) * count]], dim=-1) for at in range(2 * count)]
    joined = [torch.cat(rows[image * count : (image + 1) * count], dim=-2) for image in range(2)]
    assert torch.equal(torch.stack(joined), patches)


def test_unet_keeps_the_size_of_images_whose_sides_are_multiples_of_16(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    network = runpy.run_path(str(ROOT / "examples/unet.py"))["UNet"]().eval()
    lr = torch.rand(2, 3, 32, 48)
    assert network(lr).shape == lr.shape
    with pytest.raises(RuntimeError, match="Sizes"):
        network(torch.rand(1, 3, 40, 48))
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 16, 16, 8, 8, 3]
    with torch.no_grad():  # the last layer's values are normalised ones, as the first one's are
        network.last.weight.zero_()
        network.last.bias.fill_(1.0)
        assert torch.allclose(network(lr), torch.tensor(0.45 + 0.27))
        network.down[0][0].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        seen = []
        network(lr)
    assert torch.allclose(seen[0], (lr - 0.45) / 0.27)


def test_unet_is_loaded_smoothed_attacked_and_certified_as_any_network(tmp_path):
    """It is of scale 1, and images of other sides are padded to multiples of 16 and cropped."""
    arch = f"{ROOT / 'examples/unet.py'}:UNet"
    own = runpy.run_path(str(ROOT / "examples/unet.py"))["UNet"]().eval()
    torch.save(own.state_dict(), tmp_path / "unet.pth")
    loaded = adapters.load(tmp_path / "unet.pth", arch=arch)
    assert (loaded.scale, loaded.multiple_of, loaded.value_range) == (1, 16, 1)
    model, lr = loaded.model.requires_grad_(False), torch.rand(1, 3, 20, 28)
    padded = extend(extend(lr, 2, 32), 3, 32)
    assert torch.allclose(model(lr), own(padded)[..., :20, :28], atol=1e-6)

    smoothed = SmoothedSR(model, 0.03, 4, "mean")
    attacked = attacks.pgd(smoothed, lr, eps=1.0, norm="l2", steps=2)
    assert 0 < (attacked - lr).norm() <= 1
    certified = SmoothedSR(model, 0.03, 4, "mean", tile=14, halo=1).certify(lr, n=40)
    assert certified.sr.shape == lr.shape


def unet_run(names, state):
    """Start a run of train_unet.py, of small crops; return it, and the photographs."""
    globals_ = names["train_step"].__globals__
    globals_["SIDE"], globals_["BATCH"] = 16, 3
    cat = images.read(ROOT / "examples/cat_hr.png").pixels
    photographs = [(to_8bit(cat)[0].byte(),)]
    return names["Run"].begin(names["new_network"](), state), photographs


@pytest.mark.parametrize("method", ["plain", "noise", "adversarial"])
def test_train_unet_goes_on_as_if_it_had_not_been_cut_off(recipe, method, tmp_path):
    names, crops = recipe("train_unet"), []
    real = names["inputs"]

    def inputs(model, hr, *options):
        crops.append(hr.mean().item())
        return real(model, hr, *options)

    names["train_step"].__globals__["inputs"] = inputs

    def train(state, *parts):
        for count in parts:
            run, photographs = unet_run(names, tmp_path / state)
            for _ in range(count):
                names["train_step"](run, photographs, np.ones(1), method, 4, "steps", 3)
            run.save()
        return run.model.state_dict()

    whole, in_parts = train("whole.state", 3), train("parts.state", 1, 2)
    assert all(torch.equal(whole[key], in_parts[key]) for key in whole)
    assert crops[:3] == crops[3:]
    assert len({*crops}) == 3
    before = names["new_network"]().state_dict()
    assert any((whole[key] != before[key]).any() for key in whole)


def test_train_unet_writes_what_the_adapters_load(recipe, tmp_path, monkeypatch):
    names, out = recipe("train_unet"), tmp_path / "unet.safetensors"
    unet_run(names, tmp_path / "none.state")
    trained(names, out, monkeypatch, "--steps", "1", "--method", "noise", "--scale", "4")
    loaded = adapters.load(out, arch=f"{ROOT / 'examples/unet.py'}:UNet")
    assert loaded.scale == 1
    with safe_open(out, "pt") as file:
        assert file.metadata()["recipe"].endswith("--method noise --scale 4 --steps 1")


@pytest.mark.parametrize("scale", [2, 4])
def test_train_unet_reduces_and_enlarges_bilinearly(recipe, scale):
    """As Pillow does, whose bilinear reduction is antialiased, within roundings to 8 bits."""
    hr = images.read(ROOT / "examples/cat_hr.png").pixels[..., :160, :160]
    picture = Image.fromarray(to_8bit(hr)[0].byte().permute(1, 2, 0).numpy())
    for side in (160 // scale, 160):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    found = to_8bit(recipe("train_unet")["enlarged"](hr, scale))
    wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    assert (found - wanted).abs().max() <= 2
    assert (found - 255 * hr).abs().max() > 30


@pytest.mark.parametrize(("scale", "sigma"), [(2, 0.027), (4, 0.081)])
def test_train_unet_adds_noise_in_our_units(recipe, scale, sigma):
    names, hr = recipe("train_unet"), torch.rand(2, 3, 64, 64)
    noisy = names["inputs"](None, hr, "noise", scale, np.random.default_rng(0))
    noise = noisy - names["enlarged"](hr, scale)
    assert abs(noise.std() / sigma - 1) < 0.03
    assert abs(noise.mean()) < sigma / 20


def test_train_unet_attacks_within_the_budget_and_leaves_the_network_alone(recipe):
    """In eval mode: what batch normalization has seen so far is as before."""
    names, hr = recipe("train_unet"), torch.rand(2, 3, 32, 32)
    network = names["new_network"]().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plain = names["inputs"](network, hr, "plain", 4, np.random.default_rng(0))
    changed = names["inputs"](network, hr, "adversarial", 4, np.random.default_rng(0))
    rms = (changed - plain).square().mean((1, 2, 3)).sqrt()
    assert ((rms > 0.005) & (rms <= 0.0054)).all()
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    network.eval()
    errors = [(network(lr) - hr).square().mean((1, 2, 3)) for lr in (plain, changed)]
    assert (errors[1] > errors[0]).all()


def second_study(monkeypatch, gains):
    """Give the names of the study's benchmark, and records of 3 pictures in which its methods gain
    so many decibels on the standard network.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = runpy.run_path(str(ROOT / "benchmarks/second_study.py"))
    found = {scale: [] for scale in names["SCALES"]}
    for scale, name in itertools.product(found, names["KINDS"]):
        row = names["row_of"](name, scale)
        for aim, budget, picture in itertools.product(names["AIMS"], names["BUDGETS"], range(3)):
            condition = names["condition"](budget, aim)
            score = 20 + picture + gains.get(name, 0) * (1 + picture / 10)
            found[scale].append(Record(str(picture), row, condition, {"psnr": score}))
    return names, found


def test_second_study_measures_as_the_study_did(monkeypatch):
    names, _ = second_study(monkeypatch, {})
    transfer, adaptive = (names["condition"](0.02, aim) for aim in ("transfer", "adaptive"))
    assert transfer == "pgd:rms:0.0054:steps=10@bare"
    assert adaptive == "pgd:rms:0.0054:steps=10:via=mean:draws=5"
    assert names["condition"](0.0, "transfer") == names["condition"](0.0, "adaptive") == "none"
    assert names["row_of"]("smoothing", 4)[:3] == ("noise", pytest.approx(0.081), 50)
    assert names["row_of"]("adversarial training", 4)[:2] == ("adversarial", 0)


@pytest.mark.parametrize(("gained", "word"), [(2.0, "confirmed"), (-2.0, "not confirmed")])
def test_second_study_judges_by_gains(monkeypatch, gained, word):
    names, found = second_study(monkeypatch, {"smoothing": gained})
    claim = names["gain_verdict"](names["CLAIMS"][0], found)
    assert f"Here: {word}. " in claim
    assert f"x4 at 0.05: {1.1 * gained:+.2f} ± " in claim
    table = "\n".join(names["gains_table"](found, 4))
    assert "| smoothing | transfer, theirs | +0.15 | +1.54 | +1.72 |" in table
    assert table.count(f"{1.1 * gained:+.2f} ± ") == 6


def training_study(monkeypatch, gains, ablation):
    """Give the names of the page of the training benchmark, and what was measured of one network:
    3 pictures, on which the mean of a training gains so many decibels, and LPIPS of an ablation.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = runpy.run_path(str(ROOT / "benchmarks/training_page.py"))
    minutes = dict.fromkeys(names["METHODS"], 1.5) | {"adv-cw": None}
    empty = names["Found"]([], {}, minutes, [])
    conditions = [*names["CLEAN"].values(), *names["ATTACKS"].values()]
    records = [
        Record(str(picture), row, condition, {"psnr_y": score, "ssim_y": 0.8, "lpips": 5 / score})
        for training, served, row in names["rows"](empty)
        for condition, picture in itertools.product(conditions, range(3))
        for score in [25 + picture + (gains.get(training, 0) if served == "mean" else 0)]
    ]
    scores = [
        Record(str(picture), Row(method, sigma, 21 if sigma else 1), condition, scores)
        for (method, sigma), value in ablation.items()
        for condition, picture in itertools.product(names["ABLATION"], range(3))
        for scores in [{"psnr_y": 25.0, "ssim_y": 0.8, "lpips": value + sigma * (picture - 1) / 2}]
    ]
    trainings = {training for training, _, _ in names["rows"](empty)}
    stable = {each: dict.fromkeys(names["RADII"], 30.0 + gains.get(each, 0)) for each in trainings}
    return names, names["Found"](records, stable, minutes, scores)


def test_the_training_page_names_the_best_and_shows_what_diverged(monkeypatch):
    names, found = training_study(monkeypatch, {"smoothed": 2.0, "noise": 1.0}, {})
    lines = [*names["in_short"]("net", found)]
    assert lines[0] == "- net, its mean on clean pictures: **smoothed**, 28 (+2.00 ± 0.00)."
    assert "**smoothed**, 0.179 (-0.014 ± " in lines[2]  # the lowest LPIPS
    assert lines[-1].endswith("**smoothed**, 32.0 dB (+2.0 on the untrained one).")
    table = "\n".join(names["attack_table"]("net", found))
    assert "| adv-cw | diverged |" in table
    assert "| adv-cw | mean |" not in table
    cells = " | ".join(["28.00"] * 4)
    assert f"| smoothed | mean | {cells} | 32.0 | 32.0 | 1.5 |" in table


def test_a_training_that_diverged_is_an_answer_and_not_tried_again(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("SMOOTHSR_DATA", str(tmp_path))
    trained = runpy.run_path(str(ROOT / "benchmarks/training.py"))["trained"]
    monkeypatch.setitem(trained.__globals__, "fetch", lambda photos: ["photo.jpg"])
    tried = []

    def diverge(args):
        tried.append((args.method, args.loss, args.steps))
        raise DivergedError("the loss is nan at step 3: it has diverged")

    monkeypatch.setattr("smoothsr.cli.finetune.run", diverge)
    out = tmp_path / "parts/net.safetensors"
    for _ in range(2):
        assert not trained("builtin-clean", "mrs", "l1", tmp_path, out).exists()
    assert tried == [("mrs", "l1", 400)]
    assert "step 3" in out.with_suffix(".diverged").read_text()


@pytest.mark.parametrize(
    ("both", "won", "sure"), [(0.1, 4, 4), (0.19, 4, 0), (0.25, 0, 0), (0.35, 0, 0)]
)
def test_the_training_page_compares_both_with_each_alone(monkeypatch, both, won, sure):
    lpips = {("plain", 0.0): 0.5, ("mrs", 0.0): 0.2, ("plain", 0.02): 0.3, ("plain", 0.05): 0.4}
    lpips |= {("mrs", 0.02): 0.6, ("mrs", 0.05): both}  # the best sigma counts
    names, found = training_study(monkeypatch, {}, lpips)
    (verdict,) = names["ablation_verdict"]({"net": found})
    assert f"each alone under {won} of 4 degradations ({sure} of them significant" in verdict
    table = "\n".join(names["ablation_table"]({"net": found}))
    assert f"| both | {' | '.join([f'25.00 / 0.800 / {both:.3f} (0.05)'] * 5)} |" in table
    assert f"| MRS inference | {' | '.join(['25.00 / 0.800 / 0.300 (0.02)'] * 5)} |" in table


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("sse2 avx512_bf16 avx512f", "bfloat16 by avx512_bf16"),
        ("amx_bf16 avx512_bf16", "bfloat16 by amx_bf16 and avx512_bf16"),
        ("sse2 avx512f", "no bfloat16 of its own"),
    ],
)
def test_a_page_tells_of_the_processor(flags, said, monkeypatch):
    found = runpy.run_path(str(ROOT / "benchmarks/processor.py"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : {flags}")
    assert found["bfloat16_units"]() == said


SHARED = {"datasets", "processor", "training_page"}  # what benchmarks import, and no commands


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - SHARED)
)
def test_benchmarks_explain_themselves(name):
    done = subprocess.run(
        [sys.executable, ROOT / f"benchmarks/{name}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # of this tree, whatever is installed
    )
    assert "usage" in done.stdout
