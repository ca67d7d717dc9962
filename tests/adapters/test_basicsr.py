"""The BasicSR plugin, under BasicSR's own pipelines, from the example YAMLs."""

import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module, reload
from pathlib import Path

import pytest
import torch
from training_networks import in_two_processes

from smoothsr import adapters, metrics
from smoothsr.adapters.basicsr_archs import PIP, mend_torchvision
from smoothsr.files import images
from smoothsr.training import (
    AdversarialAugmentation,
    NoiseAugmentation,
    SmoothedLoss,
    StepSeed,
    methods,
)
from smoothsr.training.objective import gaussian

ROOT = Path(__file__).parents[2]
EDSR = {
    "type": "EDSR",
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 16,
    "num_block": 2,
    "upscale": 4,
    "rgb_mean": [0.5] * 3,
}
RRDB = {
    "type": "RRDBNet",
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 8,
    "num_block": 1,
    "num_grow_ch": 4,
    "scale": 4,
}
Runner = Callable[..., str]


@pytest.fixture(scope="module")
def plugin():
    pytest.importorskip("torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about BasicSR's own code
        mend_torchvision()
        pytest.importorskip("basicsr", reason="needs the package basicsr")
        return import_module("smoothsr.adapters.basicsr")


@pytest.fixture
def run(plugin, tmp_path) -> Runner:
    """Run the entry point in a folder that looks like the repository's root."""
    (tmp_path / "examples/basicsr").mkdir(parents=True)
    for path in [*ROOT.glob("examples/*.png"), *ROOT.glob("examples/basicsr/*")]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))

    def pipeline(
        phase: str, *forced: str, yml: str | None = None, packages: tuple[str, ...] = ()
    ) -> str:
        command = [
            sys.executable,
            "-m",
            "smoothsr.adapters.basicsr",
            phase,
            *(f"--import={name}" for name in packages),
        ]
        command += [
            "-opt",
            yml or f"examples/basicsr/{phase}_smoothed.yml",
            *(("--force_yml", *forced) if forced else ()),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    return pipeline


def logged(log: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"# {re.escape(name)}: (-?[\d.]+)", log)]


def stock(arch: dict, path: Path) -> torch.nn.Module:
    """A checkpoint as BasicSR saves them, of the bare network with random weights."""
    from basicsr.archs import build_network

    torch.manual_seed(0)
    network = build_network(arch).eval()
    torch.save({"params": network.state_dict()}, path)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("arch", [EDSR, RRDB], ids=lambda arch: arch["type"])
def test_a_stock_checkpoint_in_and_our_metrics_out(arch, run, tmp_path):
    yaml = pytest.importorskip("yaml")
    network = stock(arch, tmp_path / "stock.pth")
    options = yaml.safe_load((ROOT / "examples/basicsr/test_smoothed.yml").read_text())
    options["network_g"].update(
        arch=arch, sigma=1e-6, n=3
    )  # next to no noise: the output must be the bare network's
    options["path"].update(pretrain_network_g="stock.pth", param_key_g="params")
    options["network_g"]["tile"] = None
    del options["val"]["certify"]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(options))
    log = run("test", yml="test.yml")
    saved = images.read(
        tmp_path / "results/smoothed_edsr/visualization/cat/cat_smoothed_edsr.png"
    ).pixels
    reference = images.read(ROOT / "examples/cat_hr.png").pixels
    assert logged(log, "psnr") == pytest.approx(
        [metrics.psnr(saved, reference, border=4, y=True).item()], abs=1e-3
    )
    assert logged(log, "ssim") == pytest.approx(
        [metrics.ssim(saved, reference, border=4, y=True).item()], abs=1e-3
    )
    with torch.no_grad():
        bare = network(images.read(ROOT / "examples/cat.png").pixels).clamp(0, 1)
    torch.testing.assert_close(saved, bare, atol=0.51 / 255, rtol=0)


@pytest.mark.slow
def test_train_then_test(run, tmp_path):
    # A spawned worker has nothing but what the main module imports first of all.
    (tmp_path / "spawning.py").write_text(
        "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n"
    )
    log = run("train", packages=("spawning",))
    psnr = logged(log, "psnr")
    assert len(psnr) == 3  # after 15 and 30 iterations, and at the end
    assert psnr[1] > psnr[0] + 1
    models = tmp_path / "experiments/smoothed_edsr/models"
    assert {path.name for path in models.iterdir()} == {
        "net_g_15.pth",
        "net_g_30.pth",
        "net_g_latest.pth",
    }
    saved = torch.load(models / "net_g_latest.pth", weights_only=True)
    assert saved.keys() == {"params", "params_ema"}
    bare = stock(EDSR, tmp_path / "stock.pth")
    for state in saved.values():
        bare.load_state_dict(state)  # strictly: the checkpoint is plain
    assert adapters.load(models / "net_g_latest.pth").scale == 4

    log = run("test", "val:certify:n=50")
    assert logged(log, "psnr") == pytest.approx(
        psnr[2:], abs=0.2
    )  # another sigma, other tiles, other noise
    for what in ("stability", "psnr against gt"):
        (near,), (far,) = (
            logged(log, f"certified {what} (ideal, radius {radius})") for radius in ("0.01", "0.05")
        )
        assert near >= far >= 0
        assert near > 10
    (against_gt,) = logged(log, "certified psnr against gt (ideal, radius 0.01)")
    assert against_gt < logged(log, "psnr")[0] + 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "smoothing"),
    [
        ("SmoothedSRGANModel", {"method": "adv-fgsm", "eps": "4/255"}),
        ("SmoothedESRGANModel", {"method": "mrs"}),
    ],
)
def test_gans_train(model, smoothing, run, tmp_path):
    yaml = pytest.importorskip("yaml")
    options = yaml.safe_load((ROOT / "examples/basicsr/train_smoothed.yml").read_text())
    options.update(
        model_type=model, network_d={"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    )
    options["train"].update(
        smoothing=smoothing,
        total_iter=2,
        optim_d={"type": "Adam", "lr": 1e-4},
        gan_opt={
            "type": "GANLoss",
            "gan_type": "vanilla",
            "real_label_val": 1.0,
            "fake_label_val": 0.0,
            "loss_weight": 0.1,
        },
    )
    options["train"]["ema_decay"] = (
        0  # so that the network itself is certified, in the midst of its training
    )
    options["val"].update(val_freq=1, certify={"radius": 0.001, "n": 40})
    options["datasets"]["train"]["num_worker_per_gpu"] = 0
    options["logger"]["print_freq"] = 1
    (tmp_path / "train.yml").write_text(yaml.safe_dump(options))
    log = run("train", yml="train.yml")
    assert f"Model [{model}] is created" in log
    assert log.count("l_g_gan") == 2
    assert (
        len(logged(log, "psnr"))
        == len(logged(log, "certified stability (ideal, radius 0.001)"))
        == 3
    )
    assert {path.name for path in tmp_path.glob("experiments/*/models/*")} == {
        "net_g_latest.pth",
        "net_d_latest.pth",
    }


TAKEN = {  # numbers of each method, some as YAML has them
    "noise": {"sigma": [0, 0.1]},
    "mrs": {"sigmas": [0.03, "1/5"]},
    "smoothed": {"sigma": 0.05, "draws": 3, "weight": "1e-1"},
    "consistency": {"sigma": 0.05, "draws": 2, "weight": 0.7, "kind": "top", "tile": 8},
    "adv-fgsm": {"eps": "4/255"},
    "adv-bim": {"eps": 0.02, "steps": 2},
    "adv-pgd": {"eps": 0.02, "norm": "rms", "steps": 2},
    "adv-cw": {"eps": 0.02, "norm": "l2", "steps": 2},
    "penalty": {"weight": 0.01},
}
SERVED = [
    *(("SmoothedSRModel", method) for method in TAKEN),
    *(
        (name, method)
        for name in ("SmoothedSRGANModel", "SmoothedESRGANModel")
        for method in ("noise", "mrs", "adv-pgd")
    ),
]
AT = 7  # the iteration of the tests' step


def settings_of(name: str, method: str, **smoothing: object) -> dict:
    """What BasicSR reads from a YAML, of a tiny network and a pixel loss."""
    gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
    pixel = "MSELoss" if method == "smoothed" else "L1Loss"
    train = {
        "smoothing": {"method": method, **(smoothing or TAKEN[method])},
        "ema_decay": 0.5,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "optim_d": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.5},
        "pixel_opt": {"type": pixel, "loss_weight": 1.0, "reduction": "mean"},
        "gan_opt": {**gan, "real_label_val": 1.0, "fake_label_val": 0.0},
    }
    return {
        "model_type": name,
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "rank": 0,
        "manual_seed": 5,
        "path": {},
        "network_g": {"type": "SmoothedSR", "arch": EDSR, "sigma": 0.3, "n": 3},
        "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
        "train": train,
    }


def built(name: str, method: str, rank: int = 0, **smoothing: object):
    """A model on a batch, with gradients of the step before, and what the tests compare with: a
    copy of the bare network as it is, lq and gt.
    """
    from basicsr.models import build_model

    torch.manual_seed(0)
    model = build_model({**settings_of(name, method, **smoothing), "rank": rank})
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(2, 3, 8, 8, generator=generator)
    gt = torch.rand(2, 3, 32, 32, generator=generator)
    model.feed_data({"lq": lq, "gt": gt})
    for weight in model.net_g.parameters():
        weight.grad = torch.ones_like(weight)
    return model, deepcopy(model.net_g.model), lq, gt


def at(first: int = 0) -> StepSeed:
    return StepSeed(5 * 2**32 + AT, first)


def slopes(network: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in network.parameters()]


def expected_slopes(network: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return slopes(network)


@pytest.mark.parametrize(("name", "method"), SERVED)
def test_a_step_moves_the_weights_and_validation_is_as_ever(name, method, plugin):
    model, before, lq, gt = built(name, method)
    average = deepcopy(model.net_g_ema.model)
    model.optimize_parameters(AT)
    for network, old, rate in ((model.net_g, before, 1e-3), (model.net_g_ema, average, 5e-4)):
        pairs = zip(network.model.parameters(), old.parameters(), strict=True)
        moves = torch.stack([(new - old).abs().max() for new, old in pairs])
        # Adam's first step is the rate, and the average goes half of it.
        assert moves.max().item() == pytest.approx(rate, rel=0.01)
    assert model.net_g.training
    assert all(value == value for value in model.get_current_log().values())
    model.feed_data({"lq": lq, "gt": gt})
    model.net_g_ema.seed = 0
    served = plugin.SmoothedSR(EDSR, sigma=0.3, n=3).eval()
    served.load_state_dict(model.net_g_ema.state_dict())
    served.seed = 0
    model.test()
    assert torch.equal(model.output, served(lq))  # neither noise, nor an attack, nor a hook


@pytest.mark.parametrize("rank", [0, 1])
def test_mrs_is_the_smoothed_loss(rank, plugin):
    model, bare, lq, gt = built("SmoothedSRModel", "mrs", rank=rank)
    model.optimize_parameters(AT)
    loss = SmoothedLoss(torch.nn.L1Loss(), [0.03, 0.2], draws=2)(bare, lq, gt, at(2 * rank))
    assert model.get_current_log()["l_pix"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(slopes(model.net_g.model), expected_slopes(bare, loss))


@pytest.mark.parametrize("name", ["SmoothedSRGANModel", "SmoothedESRGANModel"])
def test_the_losses_of_a_gan_judge_the_mean_of_the_draws(name, plugin):
    model, bare, lq, gt = built(name, "mrs")
    model.optimize_parameters(AT)
    noise = gaussian(lq, 4, at())
    with torch.no_grad():
        outputs = [
            bare(lq + s * one) for s, one in zip((0.03,) * 2 + (0.2,) * 2, noise, strict=True)
        ]
    means = torch.cat([(outputs[0] + outputs[1]) / 2, (outputs[2] + outputs[3]) / 2])
    torch.testing.assert_close(model.output.detach(), means)
    assert torch.equal(model.gt, torch.cat([gt, gt]))
    assert model.get_current_log()["l_g_pix"] == pytest.approx(
        (means - model.gt).abs().mean().item(), rel=1e-5
    )


def test_what_a_step_is_given_besides_is_averaged_and_repeated_too(plugin):
    from basicsr.models.sr_model import SRModel

    class Real(SRModel):  # as Real-ESRGAN with LDL
        def optimize_parameters(self, _iteration):
            self.shapes = self.net_g(self.lq).shape, self.net_g_ema(self.lq).shape

    class Mixed(plugin.SmoothedSRModel, Real):
        pass

    model = Mixed(settings_of("SmoothedSRModel", "mrs"))
    model.lq, model.gt = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    model.gt_usm = model.gt
    model.optimize_parameters(AT)
    assert {*model.shapes, model.gt.shape, model.gt_usm.shape} == {(2, 3, 32, 32)}
    with pytest.raises(ValueError, match="Mixed has a step of its own: take noise, mrs or adv-"):
        Mixed(settings_of("SmoothedSRModel", "penalty"))


@pytest.mark.parametrize("method", ["smoothed", "consistency", "penalty"])
def test_a_term_of_its_own_is_that_of_finetune(method, plugin):
    model, bare, lq, gt = built("SmoothedSRModel", method)
    model.optimize_parameters(AT)
    numbers = {**TAKEN[method], "weight": float(TAKEN[method]["weight"])}
    objective = methods.objective(method, torch.nn.L1Loss(), methods.Numbers(**numbers))
    loss = objective(bare, lq, gt, at())
    assert model.get_current_log() == {"l_total": pytest.approx(loss.item(), rel=1e-5)}
    torch.testing.assert_close(slopes(model.net_g.model), expected_slopes(bare, loss))


@pytest.mark.parametrize("name", ["SmoothedSRModel", "SmoothedESRGANModel"])
def test_an_attack_is_on_the_bare_network(name, plugin):
    model, bare, lq, gt = built(name, "adv-pgd")
    model.optimize_parameters(AT)
    attack = AdversarialAugmentation("pgd", 0.02, "rms", steps=2)
    torch.testing.assert_close(model.lq, attack.attacked(bare, lq, gt, at()))
    assert torch.equal(model.gt, gt)


def slopes_of_a_share(rank: int | None, method: str) -> torch.Tensor:
    """The gradients of a step on one of two images under DistributedDataParallel; None: of both."""
    import_module("smoothsr.adapters.basicsr")
    model, _, lq, gt = built("SmoothedSRModel", method, rank=rank or 0)
    network = model.net_g.model
    if rank is not None:
        model.opt.update(dist=True, world_size=2)
        model.net_g = torch.nn.parallel.DistributedDataParallel(model.net_g)
        model.feed_data({"lq": lq[rank : rank + 1], "gt": gt[rank : rank + 1]})
    model.optimize_parameters(AT)
    return torch.cat([slope.flatten() for slope in slopes(network)])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mrs", "adv-fgsm", "consistency"])
def test_two_processes_take_the_step_of_one(method, plugin):
    first, second = in_two_processes(slopes_of_a_share, method)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, slopes_of_a_share(None, method))


def test_the_page_names_every_method_with_its_numbers():
    page = (ROOT / "docs/basicsr.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|[^|]*\| (`[^|]*) \| (all|SRModel's step) \|$", page, re.M)
    named = {
        method: (set(re.findall(r"`(\w+)", numbers)), models)
        for methods_, numbers, models in rows
        for method in re.findall(r"`([\w-]+)`", methods_)
    }
    own_term = ("smoothed", "consistency", "penalty")
    assert named == {
        method: ({*methods.TAKES[method]}, "SRModel's step" if method in own_term else "all")
        for method in TAKEN
    }


def test_every_loss_that_is_there_is_summed(plugin):
    model, *_ = built("SmoothedSRModel", "penalty")
    one = torch.ones(1, 3, 4, 4)
    model.cri_perceptual = lambda sr, hr: ((sr - hr).sum(), None)
    assert model.sum_of_losses(2 * one, one).item() == 1 + 48
    model.cri_perceptual = lambda sr, hr: (None, (sr - hr).sum() / 2)
    assert model.sum_of_losses(2 * one, one).item() == 1 + 24
    model.cri_pix = None
    assert model.sum_of_losses(2 * one, one).item() == 24


def test_noise_meets_training_only(plugin):
    from basicsr.models.sr_model import SRModel

    class Seen(SRModel):
        def optimize_parameters(self, _iteration):
            self.seen = self.lq

    class Mixed(plugin.SmoothedSRModel, Seen):
        pass

    settings = settings_of("SmoothedSRModel", "noise")
    settings["train"]["smoothing"] = {"sigma": 0.1}  # noise, where no method is named
    model = Mixed({**settings, "rank": 1})
    gray = torch.full((4, 3, 32, 32), 0.5)
    model.feed_data({"lq": gray})
    assert torch.equal(model.lq, gray)  # as validation sees it
    model.optimize_parameters(1)
    assert float((model.seen - gray).std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(model.seen, NoiseAugmentation(0.1, seed=5 + 1).add_noise(gray))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of BasicSR's SwinIR
def test_the_architecture_is_the_bare_network_in_train_mode(plugin):
    arch = {
        "type": "SwinIR",
        "upscale": 2,
        "img_size": 8,
        "window_size": 4,
        "depths": [1],
        "num_heads": [1],
        "embed_dim": 4,
    }
    network = plugin.SmoothedSR(
        {**arch, "mlp_ratio": 2, "upsampler": "pixelshuffledirect"}, sigma=0.1, n=3
    )
    assert not any(key.startswith(("model.", "network.")) for key in network.state_dict())
    lr = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.train()(lr), network(lr))
    assert not torch.equal(network.eval()(lr), network(lr))
    assert network(lr[..., :7, :10]).shape == (1, 3, 14, 20)  # sides that its windows don't fit
    del arch["upscale"]
    with pytest.raises(
        ValueError,
        match="SwinIR has a window_size, so SmoothedSR has to crop its output: add upscale",
    ):
        plugin.SmoothedSR(arch, sigma=0.1)


def test_a_denoiser_is_before_the_network_in_eval_mode_and_in_no_checkpoint(plugin):
    lr = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    plain = plugin.SmoothedSR(EDSR, sigma=0.1, n=3)
    network = plugin.SmoothedSR(EDSR, sigma=0.1, n=3, denoiser="builtin", denoiser_sigma=0.05)
    assert network.state_dict().keys() == plain.state_dict().keys()
    network.load_state_dict(plain.state_dict())
    assert not any(each.requires_grad for each in network.denoiser.parameters())
    plain.seed = network.seed = 0
    assert torch.equal(network.train()(lr), plain.train()(lr))
    assert (network.eval()(lr) - plain.eval()(lr)).abs().max() > 1e-3
    assert network.denoiser_sigma == 0.05


def test_certified_psnr_says_of_what(plugin):
    network = plugin.SmoothedSR(EDSR, sigma=0.1, n=3).eval()
    lr = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    certify = import_module("smoothsr.adapters.basicsr.model").certified_psnr
    found = certify(
        network, lr, torch.zeros(1, 3, 24, 24), [0, 0.05], n=100, alpha="1e-3", predictor="served"
    )
    near, far, near_gt, far_gt = found.values()
    assert [*found] == [
        f"certified {what} (served, radius {radius})"
        for what in ("stability", "psnr against gt")
        for radius in ("0", "0.05")
    ]
    assert near > far > far_gt > 0
    assert near > near_gt > far_gt
    assert [*certify(network, lr, None, 0.05, n=100)] == [
        "certified stability (ideal, radius 0.05)"
    ]


@pytest.mark.parametrize(
    ("smoothing", "message"),
    [
        (
            None,
            r"needs train.smoothing: \{sigma: S or \[LO, HI\]\} for noise, or \{method: noise\|",
        ),
        ({"method": "plain"}, "method must be one of noise, mrs, .*, penalty, got 'plain'"),
        ({"sgima": 0.1}, "noise takes sigma, got 'sgima'"),
        ({"method": "mrs", "sigma": 0.1}, "mrs takes sigmas, got 'sigma'"),
        ({"method": "adv-pgd", "weight": 1}, "adv-pgd takes eps, norm, steps, got 'weight'"),
        ({"method": "smoothed", "draws": 2}, "smoothed needs sigma, got"),
        ({"method": "penalty", "weight": "much"}, "weight must be a number, got 'much'"),
        ({"method": "adv-fgsm", "eps": "1/0"}, "eps must be a number, got '1/0'"),
        ({"method": "adv-pgd", "steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"method": "mrs", "sigmas": 0.1}, "sigmas must be a list of numbers, got 0.1"),
        ({"method": "smoothed", "sigma": [0, 0.1]}, r"sigma must be a number, got \[0, 0.1\]"),
        ({"sigma": [0.1, 0]}, "sigma must be a finite number >= 0 or a pair lo <= hi"),
        (
            {"method": "consistency", "sigma": 0.1, "draws": 1},
            "draws must be at least 2 here, got 1",
        ),
        ({"method": "adv-cw", "norm": "l1"}, "norm must be linf, l2 or rms, got 'l1'"),
    ],
)
def test_options_are_checked(smoothing, message, plugin):
    settings = settings_of("SmoothedSRModel", "noise")
    settings["train"]["smoothing"] = smoothing
    with pytest.raises(ValueError, match=message):
        plugin.SmoothedSRModel(settings)


@pytest.mark.parametrize("method", ["smoothed", "consistency", "penalty"])
@pytest.mark.parametrize("name", ["SmoothedSRGANModel", "SmoothedESRGANModel"])
def test_a_gan_has_no_place_for_another_term(name, method, plugin):
    message = f"{method} adds a term .* and {name} has a step of its own: take noise, mrs or adv-"
    with pytest.raises(ValueError, match=message):
        built(name, method)


@pytest.mark.parametrize(
    "pixel", [{"type": "L1Loss"}, {"type": "MSELoss", "loss_weight": 2.0}, None]
)
def test_smoothed_learns_the_squared_error_and_the_yaml_says_so(pixel, plugin, monkeypatch):
    settings = settings_of("SmoothedSRModel", "smoothed")
    if pixel:
        settings["train"]["pixel_opt"] = pixel
    else:
        other = lambda model: setattr(model, "cri_perceptual", torch.nn.L1Loss())
        monkeypatch.setattr(plugin.SmoothedSRModel.__mro__[1], "setup_optimizers", other)
        monkeypatch.setattr(plugin.SmoothedSRModel.__mro__[1], "setup_schedulers", lambda _: None)
    with pytest.raises(ValueError, match=r"set train.pixel_opt to \{type: MSELoss\}"):
        plugin.SmoothedSRModel(settings)


def test_without_basicsr_the_error_names_the_pip_line(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("smoothsr.adapters.basicsr")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "basicsr", None)
    with pytest.raises(ImportError, match=r"needs the package basicsr .*: " + re.escape(PIP)):
        import_module("smoothsr.adapters.basicsr")
    assert f"\n    {PIP}\n" in (ROOT / "docs/basicsr.md").read_text()


def test_registered_once(plugin):
    from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

    reload(plugin)  # BasicSR asserts that nothing is registered twice
    assert ARCH_REGISTRY.get("SmoothedSR") is plugin.SmoothedSR
    assert {name for name, _ in MODEL_REGISTRY if name.startswith("Smoothed")} == {
        *plugin.__all__
    } - {"SmoothedSR"}
