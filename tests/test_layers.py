"""The package's shape: who imports whom, how long files are, what an import costs, and the public names."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smoothsr

ROOT = Path(__file__).parents[1]
ANY = None
# What each module may import of ours: arrows point down, from files and images to integers and formulas.
LAYERS: dict[str, set[str] | None] = {
    "bounds": set(),
    "tiles": set(),
    "noise": set(),
    "batching": set(),
    "archive": set(),
    "images": set(),
    "metrics": set(),
    "attacks": set(),
    "degradations": set(),
    "training": set(),
    "ranks": set(),
    "draws": {"batching", "noise", "ranks", "tiles"},
    "error_bounds": {"bounds", "metrics", "tiles"},
    "certificate": {"archive", "bounds", "error_bounds", "tiles"},
    "smoothing": {"archive", "batching", "bounds", "certificate", "draws", "tiles"},
    "memory": {"batching", "smoothing", "tiles"},
    "conditions": {"attacks", "degradations", "memory", "smoothing"},
    "evaluation": {"__version__", "archive", "conditions", "metrics", "smoothing"},
    "verdict": {"certificate", "report", "tiles"},
    "attack_report": {"metrics"},
    "tables": set(),
    "curves": {"tables"},
    "report": {"archive", "certificate"},
    "cli": {"commands"},
    "__init__": {"certificate", "smoothing"},
}
PACKAGES = ("smoothsr", "smoothsr.adapters")
SOURCES = [path for folder in ("smoothsr", "adapters", "examples", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]


def code(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree but for what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from code(child)


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it: "tiles", "adapters.files"."""
    found = set()
    package = "smoothsr.adapters" if "adapters" in path.parts else "smoothsr"
    for node in code(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module in PACKAGES else {module}
    homes = {f"smoothsr.{name}": home for name, home in smoothsr._HOMES.items()}
    return {homes.get(name, name).removeprefix("smoothsr.") for name in found if name.split(".")[0] == "smoothsr"}


def test_every_module_is_in_a_layer():
    assert {path.stem for path in (ROOT / "smoothsr").glob("*.py")} == {*LAYERS}


@pytest.mark.parametrize("module", [module for module, allowed in LAYERS.items() if allowed is not ANY])
def test_modules_import_only_from_layers_below(module):
    assert imported(ROOT / "smoothsr" / f"{module}.py") <= LAYERS[module]


def test_the_command_line_is_imported_by_nothing():
    above = ("tests", "examples", "benchmarks", "commands")
    others = [path for path in SOURCES if path.parts[-2] not in above and path.stem != "cli"]
    assert not [path.name for path in others if imported(path) & {"cli", "commands"}]


def test_adapters_know_nothing_of_smoothing():
    for path in (ROOT / "adapters").rglob("*.py"):
        if path.parent.name != "basicsr":  # the plugin, which joins the two
            assert all(name.split(".")[0] == "adapters" for name in imported(path)), path


def test_the_checks_above_see_an_import(tmp_path):
    text = "from smoothsr import SmoothedSR, tiles\nimport smoothsr.cli\ndef f():\n    from .noise import x\n    import torch"
    (tmp_path / "a.py").write_text(text)
    assert imported(tmp_path / "a.py") == {"smoothing", "tiles", "cli", "noise"}
    (tmp_path / "adapters").mkdir()
    text = "from . import files\nfrom .. import tiles\nfrom ..noise import source\nfrom .gray import a"
    (tmp_path / "adapters" / "a.py").write_text(text)
    assert imported(tmp_path / "adapters" / "a.py") == {"adapters.files", "tiles", "noise", "adapters.gray"}


def test_no_file_is_long():
    long = {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := len(path.read_text("utf-8").splitlines())) > 300}
    assert not long


def modules_after(statement: str, first: str = "pass") -> set[str]:
    script = f"import sys\n{first}\nbefore = {{*sys.modules}}\n{statement}\nprint(); print(*({{*sys.modules}} - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {*done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "statement", ["import smoothsr", "import smoothsr.cli\ntry:\n    smoothsr.cli.main(['--help'])\nexcept SystemExit:\n    pass"]
)
def test_import_and_help_need_no_torch(statement):
    found = modules_after(statement)
    assert "smoothsr" in found
    assert not found & {"torch", "numpy", "scipy", "PIL", "tqdm", "matplotlib"}


def test_smoothing_loads_nothing_heavier_than_torch_numpy_and_scipy():
    extra = modules_after("import smoothsr.smoothing", first="import torch, numpy, scipy.special")
    assert "smoothsr.smoothing" in extra
    assert {name.split(".")[0] for name in extra} <= {"smoothsr", *sys.stdlib_module_names}


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_public_names():
    assert smoothsr.__all__ == dir(smoothsr) == ["Certificate", "SmoothedSR", "__version__"]
    for module in LAYERS:
        if module != "__init__":
            loaded = importlib.import_module(f"smoothsr.{module}")
            assert all(hasattr(loaded, name) for name in getattr(loaded, "__all__", ())), module
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        smoothsr.nothing  # noqa: B018


def test_signatures_that_others_rely_on():
    smoothed, certificate = smoothsr.SmoothedSR, smoothsr.Certificate
    assert parameters(smoothed) == ["model", "sigma", "n", "agg", "tile", "halo", "batch_size", "denoiser", "seed", "recompute"]
    assert parameters(smoothed.certify)[:5] == ["lr", "n", "alpha", "levels", "scope"]
    assert parameters(certificate.bounds) == ["radius", "predictor", "beta", "per", "rounded"]
    assert parameters(certificate.psnr)[:5] == ["radius", "reference", "method", "predictor", "norm"]
    assert parameters(certificate.radius_map)[:3] == ["tolerance", "predictor", "beta"]
    assert parameters(certificate.contains)[:2] == ["output", "radius"]
    fields = {field.name for field in dataclasses.fields(certificate)}
    assert {"sigma", "n_serve", "n_cert", "alpha", "scope", "tile", "halo", "agg", "z", "upper", "lower"} <= fields
    assert {"sr", "scale", "multiplicity", "max_radius", "trivial_share", "summary", "save", "load"} <= {*dir(certificate)}
    with pytest.raises(TypeError, match="positional"):
        smoothed(None, 0.1, 21, "median", 8)  # tile is a keyword
