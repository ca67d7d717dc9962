"""The ComfyUI node without ComfyUI: a folder that is imported by its path, spandrel's descriptors,
images (B,H,W,C).
"""

import importlib.util
import inspect
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from smoothsr import SmoothedSR

spandrel = pytest.importorskip("spandrel", reason="needs spandrel")
ROOT = Path(__file__).parents[2]
OPTIONS = {"sigma": 0.05, "n": 5, "agg": "median", "tile": 8, "halo": 3, "seed": 7}


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_smoothsr", ROOT / "examples" / "comfyui" / "__init__.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def node(nodes):
    return nodes.NODE_CLASS_MAPPINGS["SmoothUpscaleWithModel"]()


@pytest.fixture(scope="module")
def descriptor():
    """What ComfyUI's "Load Upscale Model" gives for the built-in network's file."""
    state = load_file(ROOT / "adapters" / "weights" / "builtin.safetensors")
    return spandrel.ModelLoader().load_from_state_dict(state).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 11, 14, 3, generator=torch.Generator().manual_seed(0))


def test_what_comfyui_reads_of_a_node(nodes, node):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert [*nodes.NODE_DISPLAY_NAME_MAPPINGS.values()] == ["Smooth upscale (model)"]
    inputs = {name: entry for kind in node.INPUT_TYPES().values() for name, entry in kind.items()}
    assert [*inspect.signature(getattr(node, node.FUNCTION)).parameters] == [*inputs]
    assert node.RETURN_TYPES == ("IMAGE",)
    assert inputs["upscale_model"] == ("UPSCALE_MODEL",)
    assert inputs["image"] == ("IMAGE",)
    for kind, options in (entry for entry in inputs.values() if len(entry) == 2):
        assert type(options["default"]) is {"INT": int, "FLOAT": float}[kind]
        assert options["min"] <= options["default"] <= options["max"]
    assert (inputs["n"][1]["min"] % 2, inputs["n"][1]["step"]) == (1, 2)  # stays odd
    assert inputs["seed"][1]["control_after_generate"] is False  # else 0 would not stay 0


def test_defaults_are_accepted(node, descriptor, image):
    inputs = node.INPUT_TYPES()["required"]
    widgets = {
        name: entry[1]["default"] if len(entry) == 2 else entry[0][0]
        for name, entry in [*inputs.items()][2:]
    }
    (sr,) = node.upscale(descriptor, image[:1, :5, :6], **widgets)
    assert sr.shape == (1, 20, 24, 3)
    assert not sr.requires_grad


@pytest.mark.parametrize("options", [OPTIONS, {**OPTIONS, "agg": "mean"}, {**OPTIONS, "tile": 0}])
def test_output_is_that_of_smoothing_the_network(node, descriptor, image, options):
    with torch.inference_mode():  # as ComfyUI runs its nodes
        (sr,) = node.upscale(descriptor, image, **options)
    smoothed = SmoothedSR(descriptor.model, **{**options, "tile": options["tile"] or None})
    with torch.no_grad():
        expected = smoothed(image.permute(0, 3, 1, 2))
    assert sr.shape == (2, 44, 56, 3)
    torch.testing.assert_close(sr.permute(0, 3, 1, 2), expected, atol=1e-5, rtol=0)
    assert (sr - torch.roll(sr, 1, 0)).abs().max() > 0.1  # the two images are told apart
    bare = descriptor(image.permute(0, 3, 1, 2)[:1])
    assert (sr[:1].permute(0, 3, 1, 2) - bare).abs().max() > 1e-3  # and it is not the bare output


def test_seed_0_is_fresh_noise_and_is_run_again(node, descriptor, image):
    fresh = {**OPTIONS, "seed": 0}
    first, second = (node.upscale(descriptor, image, **fresh)[0] for _ in range(2))
    assert (first - second).abs().max() > 1e-3
    assert math.isnan(node.IS_CHANGED(upscale_model=None, image=None, **fresh))
    assert node.IS_CHANGED(upscale_model=None, image=None, **OPTIONS) == 7


class Picky(nn.Module):
    """Refuses sides that are no multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        if lr.shape[2] % 4 or lr.shape[3] % 4:
            raise ValueError("sides must be multiples of 4")
        return self.weight * F.interpolate(lr, scale_factor=2, mode="nearest")


def described(network: nn.Module, channels: int = 3) -> "spandrel.ImageModelDescriptor":
    return spandrel.ImageModelDescriptor(
        network,
        network.state_dict(),
        architecture=spandrel.MAIN_REGISTRY.architectures("detection")[0].architecture,
        purpose="SR",
        tags=[],
        supports_half=True,
        supports_bfloat16=True,
        scale=2,
        input_channels=channels,
        output_channels=channels,
        size_requirements=spandrel.SizeRequirements(multiple_of=4),
    )


def test_networks_get_the_sides_that_they_want(node, image):
    (sr,) = node.upscale(described(Picky()), image, **{**OPTIONS, "sigma": 1e-4, "tile": 0})
    nearest = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(sr, nearest, atol=1e-3, rtol=0)


def test_another_number_of_channels_is_refused(node, image):
    with pytest.raises(ValueError, match="takes images of 1 channels, got one of 3"):
        node.upscale(described(Picky(), channels=1), image, **OPTIONS)


def test_comfyui_chooses_the_device_and_sees_progress(node, descriptor, image, monkeypatch):
    seen, asked = [], []
    comfy = ModuleType("comfy")
    comfy.model_management, comfy.utils = (
        ModuleType("comfy.model_management"),
        ModuleType("comfy.utils"),
    )
    comfy.model_management.get_torch_device = lambda: asked.append("device") or torch.device("cpu")
    comfy.model_management.module_size = lambda network: sum(p.nbytes for p in network.parameters())
    comfy.model_management.free_memory = lambda size, device: asked.append((size, device))

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int | None = None) -> None:
            seen.append((value, total))

    comfy.utils.ProgressBar = ProgressBar
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    with_comfy = node.upscale(descriptor, image, **OPTIONS)[0]
    monkeypatch.delitem(sys.modules, "comfy")
    torch.testing.assert_close(
        with_comfy, node.upscale(descriptor, image, **OPTIONS)[0], atol=1e-5, rtol=0
    )
    assert asked == [
        "device",
        (sum(p.nbytes for p in descriptor.model.parameters()), torch.device("cpu")),
    ]
    assert [entry for entry in seen if entry[0] == entry[1]] == [
        (20, 20)
    ] * 2  # 4 tiles of 5 draws, for each of two images


def test_a_denoiser_comes_first(node, descriptor, image):
    """By name, as strong as is said; workflows that say nothing of it are as they were."""
    told = {"none": {}, "builtin": {"denoiser": "builtin", "denoiser_sigma": 0.04}}
    found = []
    for denoiser, options in told.items():
        (sr,) = node.upscale(descriptor, image, **OPTIONS, denoiser=denoiser, denoiser_sigma=0.04)
        smoothed = SmoothedSR(descriptor.model, 0.05, 5, tile=8, halo=3, seed=7, **options)
        torch.testing.assert_close(sr, smoothed(image.movedim(-1, 1)).movedim(1, -1))
        found.append(sr)
    assert (found[0] - found[1]).abs().max() > 0.01
    (usual,) = node.upscale(descriptor, image, **OPTIONS, denoiser="builtin")
    smoothed = SmoothedSR(descriptor.model, 0.05, 5, tile=8, halo=3, seed=7, denoiser="builtin")
    torch.testing.assert_close(usual, smoothed(image.movedim(-1, 1)).movedim(1, -1))
    assert torch.equal(node.upscale(descriptor, image, **OPTIONS)[0], found[0])
