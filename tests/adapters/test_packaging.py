"""adapters/ lies at the top level and is installed as smoothsr.adapters: found at the checkout's
root, where its smoothsr/ hides an installed one, and packed once.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_found_at_the_checkouts_root():
    link = ROOT / "smoothsr" / "adapters"
    assert link.readlink() == Path("../adapters")
    code = "import smoothsr.adapters as a; print(a.__file__, a.load('builtin').scale)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [str(link / "__init__.py"), "4"], done.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_file_once(tmp_path):
    pytest.importorskip("setuptools", minversion="70.1")
    for folder in ("adapters", "smoothsr"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    for file in ("setup.cfg", "setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    ours = {name for name in packed if name.startswith("smoothsr/adapters/")}
    expected = {
        f"smoothsr/{path.relative_to(ROOT)}"
        for path in (ROOT / "adapters").rglob("*")
        if path.suffix in (".py", ".safetensors")
    }
    assert ours == expected
    assert len(packed) == len(set(packed))
    assert not [name for name in packed if name.split("/")[0] == "adapters"]
