"""The largest tile that fits, by brute force, and what a process may still take."""

from math import ceil

import pytest
import torch

from smoothsr.engine import memory
from smoothsr.engine.memory import Demand, largest_tile
from smoothsr.engine.tiles import grid


def takes(demand: Demand, tile: int, halo: int) -> float:
    """Bytes of one patch and all that is held, by the formula of the module's head."""
    height, width = demand.sides
    tiles = grid(height, width, tile, halo, inside=True)
    kept = max((t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in tiles)
    patch = max(len(t.rows.gather) * len(t.columns.gather) for t in tiles)
    output = 8 * demand.values * height * width
    return output + 4 * demand.draws * demand.values * kept + demand.pixel_bytes * patch


@pytest.mark.parametrize("sides", [(40, 40), (23, 70), (64, 9)])
@pytest.mark.parametrize("halo", [0, 4, 12])
@pytest.mark.parametrize("pixel_bytes", [1.0, 300.0])
def test_no_larger_tile_fits_that_needs_fewer(sides, halo, pixel_bytes):
    demand = Demand(sides, 3, 5, pixel_bytes)
    whole = demand.held(None) + demand.a_pass(None, 0)
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        fitting = [t for t in range(1, max(sides)) if takes(demand, t, halo) <= share * whole]
        found = largest_tile(demand, halo, share * whole)
        if not fitting or max(fitting) < min(8, *sides):
            assert found is None
            continue
        assert takes(demand, found, halo) <= share * whole
        counts = [[ceil(side / tile) for side in sides] for tile in (found, max(fitting))]
        assert counts[0] == counts[1]


def test_at_once_is_what_is_left_over_a_pass():
    demand = Demand((10, 10), 2, 3, 5.0)
    assert demand.held(4) == 2 * (8 * 100 + 4 * 3 * 16)
    assert demand.a_pass(4, 1) == 5 * 36
    assert demand.at_once(4, 1, demand.held(4) + 5 * 36 * 2.9) == 2
    assert demand.at_once(4, 1, 10) == 0
    assert memory.fitting(1.2 * memory.BATCH, 2 * memory.BATCH) == 1  # one pass, though a large one
    assert memory.fitting(1.2 * memory.BATCH, memory.BATCH) == 0
    assert demand.at_once(4, 1, 1e15) == memory.BATCH // (5 * 36) == memory.fitting(180, 1e15)


@pytest.mark.parametrize(("word", "share"), [("4", 4), ("1", 1), ("", 1), ("0", 1), ("x", 1)])
def test_processes_of_one_computer_share_what_is_free(word, share, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8e9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", word)
    assert memory.room(None, torch.device("cpu")) == 8e9 / share
    assert memory.room(1e12, torch.device("cpu")) == 8e9 / share
    assert memory.room(None, torch.device("cuda")) == 8e9  # each has one of its own


def test_a_budget_is_of_the_whole_process(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 5e9)
    cpu = torch.device("cpu")
    assert memory.room(None, cpu) == 5e9
    assert memory.room(1e12, cpu) == 5e9
    assert memory._taken(cpu) > 5e7  # what torch alone takes
    monkeypatch.setattr(memory, "_taken", lambda device: 1.5e9)
    assert memory.room(4e9, cpu) == 4e9 * memory.USED - 1.5e9
    assert memory.room(1e9, cpu) < 0
