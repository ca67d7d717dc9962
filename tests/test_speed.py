"""What `benchmarks/speed.py` measures is what it says; how fast it is, no test asserts."""

import argparse
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPT = FOLDER / "speed.py"


@pytest.fixture
def speed(monkeypatch):
    """The script's names; what is set in them, its functions see."""
    monkeypatch.syspath_prepend(FOLDER)
    return runpy.run_path(str(SCRIPT))["main"].__globals__


class Counting(nn.Module):
    """The k-th image that it is given becomes k^2, whatever it is; remembers its batches."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, lr):
        first = sum(self.sizes) + 1
        self.sizes.append(len(lr))
        values = torch.arange(first, first + len(lr), dtype=lr.dtype) ** 2 / 1000
        return values[:, None, None, None].expand(-1, 3, 4, 4)


@pytest.mark.parametrize(
    ("rival", "statistic"),
    [
        ("loop_and_median", 11**2),
        ("one_big_batch", 11**2),
        ("store_and_sort", 11**2),
        ("loop_and_mean", sum(k**2 for k in range(1, 22)) / 21),
    ],
)
def test_rivals_make_21_draws_and_the_statistic_that_they_say(speed, rival, statistic):
    network = Counting()
    output = speed[rival](network, torch.rand(1, 3, 2, 2))
    assert output.flatten().tolist() == pytest.approx([statistic / 1000] * output.numel())
    assert sum(network.sizes) == 21


@pytest.mark.parametrize(("count", "size"), [(21, 4), (8, 4), (3, 3)])
def test_the_floor_makes_its_passes_once(speed, count, size):
    floor = speed["Floor"](Counting(), torch.rand(1, 3, 4, 4), count)
    floor.best = (size, torch.contiguous_format)
    floor.model.sizes.clear()
    floor()
    assert sum(floor.model.sizes) == count
    assert floor.model.sizes == [size] * (count // size) + [count % size] * (count % size > 0)


@pytest.mark.parametrize(("limit", "size"), [(1e9, 64), (20.0, 32), (1.0, 16)])
def test_images_shrink_until_a_round_fits(speed, limit, size, monkeypatch):
    """By a clock on which a pixel takes a millisecond."""
    monkeypatch.setitem(speed, "seconds", lambda work: 1e-3 * work.args[0][:, 0].numel())
    args = argparse.Namespace(size=64, halo=2, seconds=limit)
    chosen, needed = speed["size_within"](Counting(), 10, None, args)
    assert (chosen, needed) == (size, pytest.approx(10 * size**2 * 1e-3))


def test_it_tells_the_median_and_quartiles_of_ratios_within_rounds(speed):
    rounds = [{"floor": 2.0**k, "ours": 2.0**k * ratio} for k, ratio in enumerate((3, 1, 2, 5, 4))]
    found = speed["Found"]("net", "here", "", rounds)
    assert speed["ratio"](found, "ours") == (2, 3, 4)
    assert speed["cell"](found, "ours") == "3.00 (2.00-4.00)"


@pytest.mark.slow
def test_one_command_writes_tables_and_figure(speed, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SMOOTHSR_DATA", str(tmp_path / "nowhere"))
    out = tmp_path / "found.md"
    options = ["--size", "16", "--rounds", "1", "--n-cert", "100", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--models", "builtin", "carn_m", *options])
    speed["main"]()
    assert "carn_m is left out: there is no" in capsys.readouterr().out
    lines = out.read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| builtin")]
    heads = [line.split(" | ") for line in lines if line.startswith("| network")]
    assert [row[1] for row in rows] == [
        "16x16, whole",
        "16x16, tiles 8/2",
        "16x16, tiles 8/2, n=100",
    ]
    assert [row[2].split(" of ")[0] for row in rows] == ["21", "84", "484"]  # 121 draws a tile
    assert [len(row) for row in rows] == [len(heads[0])] * 2 + [len(heads[1])]
    assert out.with_suffix(".png").stat().st_size > 1000
    assert "(found.png)" in lines[-1]
