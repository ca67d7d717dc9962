"""Shares of work in threads: each item once, by a network that no other thread has, in the modes of
the thread that asks for it; a failure stops them all.
"""

import gc
import os
import signal
import threading
import time
import weakref

import pytest
import torch

from smoothsr.engine import noise, side_by_side
from smoothsr.engine.side_by_side import among, in_shares, most_threads

NETWORKS = "abc"
ITEMS = 50


@pytest.fixture(autouse=True)
def _six_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


def test_every_item_is_done_once():
    done = []
    in_shares(lambda _network, items, _progress: done.extend(items), NETWORKS, ITEMS)
    assert sorted(done) == [*range(ITEMS)]


@pytest.mark.parametrize("items", [1, 2, 3, 7])
def test_fewer_items_than_shares_are_done_once(items):
    done = []
    in_shares(lambda _network, some, _progress: done.extend(some), NETWORKS, items)
    assert sorted(done) == [*range(items)]


def test_a_network_is_used_by_one_thread_and_all_at_the_same_time():
    users, together = {}, threading.Barrier(len(NETWORKS))

    def work(network, _items, _progress):
        users.setdefault(network, set()).add(threading.get_ident())
        together.wait(30)

    in_shares(work, NETWORKS, len(NETWORKS))
    assert [len(threads) for threads in users.values()] == [1, 1, 1]
    assert len(set.union(*users.values())) == 3


def test_threads_divide_those_of_torch_and_give_them_back():
    found = []
    in_shares(lambda *_: found.append((torch.get_num_threads(), among())), NETWORKS, len(NETWORKS))
    assert found == [(2, 3)] * 3
    assert (torch.get_num_threads(), among()) == (6, 1)
    assert torch_threads_of_a_new_thread() == 6


@pytest.mark.parametrize(("networks", "expected"), [("abcd", [2, 2, 1, 1]), ("abcdefgh", [1] * 8)])
def test_no_thread_of_torch_is_left_over(networks, expected):
    found, together = [], threading.Barrier(len(networks))

    def work(_network, _items, _progress):
        found.append(torch.get_num_threads())
        together.wait(30)

    in_shares(work, networks, len(networks))
    assert sorted(found, reverse=True) == expected


def torch_threads_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def modes():
    kind = "cpu"
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
    )


@pytest.mark.parametrize(
    "mode",
    [
        torch.enable_grad,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
    ],
)
def test_modes_are_those_of_the_thread_that_asks(mode):
    found = []
    with mode():
        expected = modes()
        in_shares(lambda *_: found.append(modes()), NETWORKS, 3)
    assert found == [expected] * 3


def test_progress_is_of_all_threads_together():
    told = []

    def work(_network, items, progress):
        for done in range(1, len(items) + 1):
            progress(10 * done, 10 * len(items))

    in_shares(work, NETWORKS, ITEMS, lambda *found: told.append(found), 10 * ITEMS)
    assert told == [(done, 10 * ITEMS) for done in range(10, 10 * ITEMS + 1, 10)]


def forever(_network, _items, progress):
    done = 0
    while True:
        time.sleep(0.001)
        done += 1
        progress(done, 1)


def test_what_a_thread_raises_stops_the_others():
    def work(network, items, progress):
        if network == "b":
            raise ValueError("of b")
        forever(network, items, progress)

    with pytest.raises(ValueError, match="of b"):
        in_shares(work, NETWORKS, ITEMS)
    assert torch_threads_of_a_new_thread() == 6
    assert not [each for each in threading.enumerate() if each.name.startswith("smoothsr")]


def test_what_progress_raises_stops_all_and_it_is_not_called_again():
    told = []

    def progress(done, _total):
        told.append(done)
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        in_shares(forever, NETWORKS, ITEMS, progress)
    assert len(told) == 1


def test_errors_keep_no_network():
    class Network:
        pass

    together = threading.Barrier(3)

    def work(_network, _items, _progress):
        together.wait(30)
        raise ValueError("of one")

    networks = [Network() for _ in range(3)]
    seen = [weakref.ref(network) for network in networks]
    gc.disable()
    try:
        with pytest.raises(ValueError, match="of one"):
            in_shares(work, networks, ITEMS)
        del networks
        assert [each() for each in seen] == [None] * 3
    finally:
        gc.enable()


def test_an_interruption_stops_all():
    together = threading.Barrier(len(NETWORKS))

    def work(network, items, progress):
        together.wait(30)
        if network == NETWORKS[0]:
            os.kill(os.getpid(), signal.SIGINT)
        forever(network, items, progress)

    with pytest.raises(KeyboardInterrupt):
        in_shares(work, NETWORKS, ITEMS)
    assert torch_threads_of_a_new_thread() == 6
    assert not [each for each in threading.enumerate() if each.name.startswith("smoothsr")]


def test_there_are_as_many_threads_as_torch_has_up_to_a_limit(monkeypatch):
    cpu = torch.device("cpu")
    assert most_threads(cpu) == 6
    monkeypatch.setattr(side_by_side, "MOST", 4)
    assert most_threads(cpu) == 4
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert most_threads(cpu) == 1


def test_other_devices_have_one_thread():
    assert most_threads(torch.device("cuda")) == 1


def test_fresh_noise_of_threads_is_not_the_same():
    source, made = noise.source(None, torch.device("cpu"), torch.float32), []
    in_shares(lambda *_: made.append(source(0, range(4), (5,))), NETWORKS, 3)
    assert len({tuple(each.flatten().tolist()) for each in made}) == 3
