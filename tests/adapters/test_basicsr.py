"""The BasicSR plugin, under BasicSR's own pipelines, from the example YAMLs."""

import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module, reload
from pathlib import Path

import pytest
import torch

from smoothsr import adapters, metrics
from smoothsr.adapters.basicsr_archs import PIP, mend_torchvision
from smoothsr.files import images
from smoothsr.training import NoiseAugmentation

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
@pytest.mark.parametrize("model", ["SmoothedSRGANModel", "SmoothedESRGANModel"])
def test_gans_train(model, run, tmp_path):
    yaml = pytest.importorskip("yaml")
    options = yaml.safe_load((ROOT / "examples/basicsr/train_smoothed.yml").read_text())
    options.update(
        model_type=model, network_d={"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    )
    options["train"].update(
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


def test_noise_meets_training_only(plugin):
    from basicsr.models.sr_model import SRModel

    class Seen(SRModel):
        def optimize_parameters(self, _iteration):
            self.seen = self.lq

    class Mixed(plugin.SmoothedSRModel, Seen):
        pass

    model = Mixed.__new__(Mixed)
    model.device, model.noise = "cpu", NoiseAugmentation(0.1, seed=0)
    gray = torch.full((4, 3, 32, 32), 0.5)
    model.feed_data({"lq": gray})
    assert torch.equal(model.lq, gray)  # as validation sees it
    model.optimize_parameters(1)
    assert float((model.seen - gray).std()) == pytest.approx(0.1, rel=0.05)


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


def test_options_are_checked(plugin):
    model = plugin.SmoothedSRModel.__new__(plugin.SmoothedSRModel)
    for options in ({}, {"smoothing": {"sgima": 0.1}}):
        model.opt = {"train": {"pixel_opt": None, **options}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                plugin.SmoothedSRModel.__mro__[1], "init_training_settings", lambda _: None
            )
            with pytest.raises(
                ValueError,
                match=(
                    r"SmoothedSRModel trains with train.smoothing: \{sigma: S or \[LO, HI\]\}, "
                    r"got"
                ),
            ):
                model.init_training_settings()


def test_without_basicsr_the_error_names_the_pip_line(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("smoothsr.adapters.basicsr")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "basicsr", None)
    with pytest.raises(ImportError, match=r"needs the package basicsr .*: " + re.escape(PIP)):
        import_module("smoothsr.adapters.basicsr")
    assert f"\n    {PIP.replace('smoothsr[', '.[')}\n" in (ROOT / "docs/basicsr.md").read_text()


def test_registered_once(plugin):
    from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

    reload(plugin)  # BasicSR asserts that nothing is registered twice
    assert ARCH_REGISTRY.get("SmoothedSR") is plugin.SmoothedSR
    assert {name for name, _ in MODEL_REGISTRY if name.startswith("Smoothed")} == {
        *plugin.__all__
    } - {"SmoothedSR"}
