"""What the README and the pages show is true: their code runs, their commands exist, their links
lead somewhere.
"""

import pkgutil
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import smoothsr
from smoothsr.cli import main
from smoothsr.cli.parser import parser

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# test_basicsr.py runs that page's pipelines.
RUN = [page for page in PAGES if page.name not in ("basicsr.md", "CHANGELOG.md")]


class Block(NamedTuple):
    """A fenced block of a page, and where it begins."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Find the fenced blocks that begin at a line's start."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(hit[1], hit[2], text.count("\n", 0, hit.start()) + 2) for hit in found]


def commands(block: Block) -> list[list[str]]:
    """Split the smoothsr commands of a block into arguments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("smoothsr ")]


def shown(text: str) -> list[list[str]]:
    """All commands of a page: those in blocks, and those in indented lines."""
    in_blocks = [command for block in blocks(text) for command in commands(block)]
    indented = re.findall(r"^    (smoothsr .*)$", text, re.MULTILINE)
    return in_blocks + [shlex.split(line, comments=True)[1:] for line in indented]


def run(page: Path) -> int:
    """Run the python and bash blocks of a page in their order, and count them."""
    names: dict[str, object] = {}
    ran = 0
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            # Padded, so that an error names the page's line.
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, page, "exec"), names)
        elif block.language == "bash":
            assert commands(block)
            for command in commands(block):
                assert main(command) == 0, command
        ran += block.language in ("python", "bash")
    return ran


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A current directory as the pages want it: the root of a clone, with nothing but examples."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.export warns of its own doings
@pytest.mark.parametrize(
    "page",
    [page for page in RUN if re.search(r"^```(python|bash)$", page.read_text(), re.MULTILINE)],
    ids=lambda page: page.name,
)
def test_blocks_run(page, clone):
    assert run(page)


def test_a_block_that_fails_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert caught.traceback[-1].lineno == 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_what_the_parser_takes(page):
    for command in shown(page.read_text(encoding="utf-8")):
        if "..." not in command:
            parser().parse_args(command)


def test_a_command_that_is_not_there_is_seen():
    (command,) = shown("```console\nsmoothsr upscale a.png \\\n    --shine 3  # more\n```\n")
    with pytest.raises(SystemExit):
        parser().parse_args(command)


def lost(page: Path) -> list[str]:
    """The targets of a page's relative links and images that are not there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
    return [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert not lost(page)


def test_a_lost_link_is_seen(tmp_path):
    (tmp_path / "page.md").write_text("[a](page.md#x) [b](gone.md) ![c](no.png) [d](https://e.org)")
    assert lost(tmp_path / "page.md") == ["gone.md", "no.png"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_one_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {smoothsr.__version__}\n" in citation


def strange(text: str) -> list[str]:
    """The names and paths of ours in backticks that are not there."""
    names = re.findall(r"`(smoothsr\.\w+(?:\.\w+)*)", text)
    paths = re.findall(r"`((?:smoothsr|tests|adapters|benchmarks|examples)/[\w./]+)", text)
    unknown = [name for name in names if not known(name)]
    return unknown + [path for path in paths if not (ROOT / path).exists()]


def known(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_paths_are_there(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "basicsr.md":  # importing the plugin needs BasicSR
        text = text.replace("smoothsr.adapters.basicsr", "smoothsr.adapters")
    assert not strange(text)


def test_a_strange_name_is_seen():
    text = "`smoothsr.metrics.psnr(x)` `smoothsr.bounds.levels` `tests/gone.py` `tests/conftest.py`"
    assert strange(text) == ["smoothsr.bounds.levels", "tests/gone.py"]
