"""SmoothedSR around networks that torch has compiled or exported; docs/torch_native.md says what
works and how.
"""

import copy
import shutil

import pytest
import torch
from torch.export import Dim, ExportedProgram

from smoothsr import SmoothedSR
from smoothsr.adapters.compact import Compact

# torch's tracer reads the .grad of noisy patches when gradients flow, and means to hide what torch
# itself says to that.
hidden = "ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(hidden)]
OPTIONS = {"sigma": 0.05, "n": 5, "seed": 1}
# The same sums in another order.
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(autouse=True)
def no_earlier_compilations():
    """Torch compiles one piece of code 8 times at most, whatever module it is of, and then silently
    runs it as it is.
    """
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def network() -> Compact:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Compact(3, 8, 2, 2).eval()


@pytest.fixture(scope="module")
def lr() -> torch.Tensor:
    return torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(network) -> ExportedProgram:
    dynamic = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    return torch.export.export(network, (torch.zeros(2, 3, 12, 10),), dynamic_shapes=(dynamic,))


def agrees(smoothed: SmoothedSR, network: Compact, lr: torch.Tensor) -> None:
    """Compare the output, its gradient and the certificate with those around the network as it
    is.
    """
    bare = SmoothedSR(network, **OPTIONS)
    torch.testing.assert_close(smoothed(lr), bare(lr), **CLOSE)
    weight = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    gradients = []
    for each in (smoothed, bare):
        x = lr.clone().requires_grad_()
        (each(x) * weight).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    found, expected = (
        each.certify(lr, n=300, levels=4, void_guarantee_seed=3) for each in (smoothed, bare)
    )
    for name in ("upper", "lower"):  # in 8-bit steps, where a last bit may round the other way
        steps = (
            torch.from_numpy(getattr(found, name)).int()
            - torch.from_numpy(getattr(expected, name)).int()
        )
        assert steps.abs().max() <= 1
    assert found.max_radius == expected.max_radius > 0


def test_compiled_eager(network, lr):
    smoothed = SmoothedSR(torch.compile(network, backend="eager"), **OPTIONS)
    agrees(smoothed, network, lr)
    assert all(
        key.startswith("_orig_mod.") for key in smoothed.state_dict()
    )  # torch's own name for it


def test_compiled_in_place_keeps_the_keys(network, lr):
    compiled = copy.deepcopy(network)
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph

    compiled.compile(backend=backend)
    smoothed = SmoothedSR(compiled, **OPTIONS)
    agrees(smoothed, network, lr)
    assert calls
    assert smoothed.state_dict().keys() == network.state_dict().keys()
    smoothed.load_state_dict(network.state_dict())


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_compiled_by_inductor(network, lr):
    agrees(SmoothedSR(torch.compile(network), **OPTIONS, batch_size=5), network, lr)


@pytest.mark.parametrize("size", [(1, 3, 12, 10), (2, 3, 9, 17)])
def test_exported_and_unflattened(network, exported, size):
    smoothed = SmoothedSR(torch.export.unflatten(exported).eval(), **OPTIONS)
    x = torch.rand(size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(smoothed(x), SmoothedSR(network, **OPTIONS)(x), **CLOSE)
    assert smoothed.state_dict().keys() == network.state_dict().keys()


def test_exported_agrees_in_all(network, exported, lr):
    agrees(SmoothedSR(torch.export.unflatten(exported).eval(), **OPTIONS), network, lr)


def test_exported_saved_and_loaded(network, exported, lr, tmp_path):
    torch.export.save(exported, tmp_path / "network.pt2")
    loaded = torch.export.unflatten(torch.export.load(tmp_path / "network.pt2")).eval()
    agrees(SmoothedSR(loaded, **OPTIONS), network, lr)


def test_exported_module_is_in_train_mode(network, exported, lr):
    """The graph is that of eval mode, but the module that exported.module() makes says train, and
    can't be told otherwise.
    """
    module = exported.module()
    with pytest.warns(UserWarning, match="train mode"):
        sr = SmoothedSR(module, **OPTIONS)(lr)
    assert SmoothedSR(module, **OPTIONS).state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(sr, SmoothedSR(network, **OPTIONS)(lr), **CLOSE)
    with pytest.raises(ValueError, match="train mode"):
        SmoothedSR(module, **OPTIONS).certify(lr)
    with pytest.raises(NotImplementedError):
        module.eval()


@pytest.mark.parametrize("in_place", [True, False])
def test_it_is_compiled_once_for_each_shape_of_patches(network, lr, in_place):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = copy.deepcopy(network)
    if in_place:
        compiled.compile(backend=backend)
    else:
        compiled = torch.compile(compiled, backend=backend)
    smoothed = SmoothedSR(compiled, 0.05, tile=4, halo=1)
    with torch.no_grad():
        for _ in range(3):
            smoothed(lr)
    assert len(graphs) <= 2  # of one length of batches, and of any
