"""The package's shape: which room may import which, what an import costs, and the public names."""

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
# The rooms on their floors, from the ground up. A room imports from floors below its own alone.
FLOORS = (
    {"metrics", "adapters"},
    {"engine", "files"},
    {"certificates"},
    {"certifying"},
    {"smoothing"},
    {"attacks"},
    {"training"},
    {"evaluation"},
    {"reports"},
    {"cli"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACE = {"__init__", "__version__"}  # the package's face hands on names of rooms
MODULES = [
    path
    for path in sorted((ROOT / "smoothsr").rglob("*.py"))
    if "adapters" not in path.relative_to(ROOT).parts and path != ROOT / "smoothsr/__init__.py"
]


def code(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree but for what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from code(child)


def imported(path: Path, module: str) -> set[str]:
    """The modules of ours that a file imports, anywhere in it: "engine.tiles", "adapters".

    Args:
        path: The file.
        module: Its dotted name, against which relative imports are resolved.
    """
    found = set()
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in code(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {resolve(origin, alias.name) for alias in node.names}
    ours = {name for name in found if name.split(".")[0] == "smoothsr"}
    homes = {f"smoothsr.{name}": home for name, home in smoothsr._HOMES.items()}
    return {homes.get(name, name).removeprefix("smoothsr").lstrip(".") for name in ours} - {""}


def resolve(origin: str, name: str) -> str:
    """Name the module that `from origin import name` reads."""
    folder = ROOT / origin.replace(".", "/")
    is_module = (folder / name).is_dir() or (folder / f"{name}.py").exists()
    return f"{origin}.{name}" if origin == "smoothsr" or is_module else origin


def dotted(path: Path) -> str:
    """The dotted name of a file under the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Which module of the package imports which, without the faces of rooms."""
    return {
        dotted(path).removeprefix("smoothsr."): imported(path, dotted(path)) for path in MODULES
    }


def test_every_room_is_on_a_floor():
    rooms = {path.relative_to(ROOT / "smoothsr").parts[0].removesuffix(".py") for path in MODULES}
    assert rooms | {"adapters"} == {*FLOOR}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_rooms_import_only_from_floors_below(path):
    module = dotted(path)
    room = module.split(".")[1]
    others = {name.split(".")[0] for name in imported(path, module)} - {room} - FACE
    assert not [other for other in others if FLOOR[other] >= FLOOR[room]]


def test_no_module_imports_itself_in_a_circle():
    imports = graph()
    left = {name: found & imports.keys() for name, found in imports.items()}
    while ground := [name for name, found in left.items() if not found & left.keys()]:
        for name in ground:
            del left[name]
    assert not left


def test_adapters_know_nothing_of_smoothing():
    for path in (ROOT / "adapters").rglob("*.py"):
        if path.parent.name != "basicsr":  # the plugin, which joins the two
            module = f"smoothsr.{dotted(path)}"
            assert all(name.split(".")[0] == "adapters" for name in imported(path, module)), path


def test_the_checks_above_see_an_import(tmp_path):
    text = "from smoothsr import SmoothedSR, metrics\nimport smoothsr.cli\n"
    text += "def f():\n    from .noise import x\n    from ..files import images\n    import torch"
    (tmp_path / "a.py").write_text(text)
    seen = imported(tmp_path / "a.py", "smoothsr.engine.a")
    assert seen == {"smoothing", "metrics", "cli", "engine.noise", "files.images"}


def lines_of_code(function: ast.FunctionDef) -> int:
    """How many lines a function has without its head and its docstring."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    return function.end_lineno - function.body[int(documented)].lineno + 1


def test_no_line_is_wide_and_no_function_long():
    """A reader takes in a function at one look; the formatter can't break strings and comments."""
    wide, long = [], []
    folders = [ROOT / name for name in ("adapters", "benchmarks", "examples")]
    for path in [*MODULES, *(path for folder in folders for path in folder.rglob("*.py"))]:
        text = path.read_text("utf-8")
        wide += [f"{path}: {line}" for line in text.splitlines() if len(line) > 100]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and lines_of_code(node) > 50:
                long.append(f"{path}:{node.name}")
    assert not wide
    assert not long


def modules_after(statement: str, first: str = "pass") -> set[str]:
    script = (
        f"import sys\n{first}\nbefore = {{*sys.modules}}\n{statement}\nprint(); "
        f"print(*({{*sys.modules}} - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {*done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import smoothsr",
        "import smoothsr.cli\ntry:\n    smoothsr.cli.main(['--help'])\nexcept SystemExit:\n  "
        "  pass",
    ],
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
    for path in MODULES:
        if path.stem != "__main__":
            loaded = importlib.import_module(dotted(path))
            assert all(hasattr(loaded, name) for name in getattr(loaded, "__all__", ())), path
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        smoothsr.nothing  # noqa: B018


def test_signatures_that_others_rely_on():
    smoothed, certificate = smoothsr.SmoothedSR, smoothsr.Certificate
    assert parameters(smoothed) == [
        "model",
        "sigma",
        "n",
        "agg",
        "tile",
        "halo",
        "batch_size",
        "denoiser",
        "seed",
        "lattice",
        "recompute",
        "memory",
        "antithetic",
        "halo_noise",
        "denoiser_sigma",
        "side_by_side",
    ]
    assert parameters(smoothed.certify)[:5] == ["lr", "n", "alpha", "levels", "scope"]
    assert parameters(certificate.bounds) == ["radius", "predictor", "beta", "per", "rounded"]
    assert parameters(certificate.psnr)[:5] == [
        "radius",
        "reference",
        "method",
        "predictor",
        "norm",
    ]
    assert parameters(certificate.radius_map)[:3] == ["tolerance", "predictor", "beta"]
    assert parameters(certificate.contains)[:2] == ["output", "radius"]
    fields = {field.name for field in dataclasses.fields(certificate)}
    assert {
        "sigma",
        "n_serve",
        "n_cert",
        "alpha",
        "scope",
        "tile",
        "halo",
        "agg",
        "z",
        "upper",
        "lower",
    } <= fields
    assert {
        "sr",
        "scale",
        "multiplicity",
        "max_radius",
        "trivial_share",
        "summary",
        "save",
        "load",
    } <= {*dir(certificate)}
    with pytest.raises(TypeError, match="positional"):
        smoothed(None, 0.1, 21, "median", 8)  # tile is a keyword
