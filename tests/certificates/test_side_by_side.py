"""Tiles that threads draw side by side make the certificate of one thread, whatever networks do."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from oracles import LinearSR
from shared_certificates import LR, certified, same, smoother
from torch import nn

from smoothsr import SmoothedSR, certifying
from smoothsr.certificates import gathering
from smoothsr.certificates.evidence import Evidence, tile_bytes
from smoothsr.engine import draws
from smoothsr.engine.batching import Batching
from smoothsr.engine.draws import NotFiniteError
from smoothsr.engine.passes import Passes, Watched
from smoothsr.files.parts import NotLastError, Parts

TILES = 9


def beside(**options):
    return smoother(side_by_side=True, **options)


@pytest.fixture
def threads():
    """Lets torch have as many threads as a test asks for."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def shares(monkeypatch):
    """The tiles of every share, and the thread that drew it."""
    found, real = [], draws.observe

    def observe(sampler, *arguments):
        found.append((threading.get_ident(), len(sampler.tiles)))
        return real(sampler, *arguments)

    monkeypatch.setattr(draws, "observe", observe)
    return found


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("kind", ["levels", "spectral", "both"])
@pytest.mark.parametrize("agg", ["median", "mean"])
def test_threads_make_the_certificate_of_one(tmp_path, threads, shares, agg, kind, kept):
    smoothed = beside(agg=agg, seed=5)
    alone = certified(smoothed, None, kind=kind)
    assert [tiles for _, tiles in shares] == [TILES]
    threads(3)
    del shares[:]
    same(alone, certified(smoothed, Parts(tmp_path / "p") if kept else None, kind=kind))
    assert sum(tiles for _, tiles in shares) == TILES
    assert {tiles for _, tiles in shares} == {1}


@pytest.mark.usefixtures("deterministic")
def test_threads_serve_what_forward_does(threads):
    smoothed = beside(agg="median", seed=5)
    served = (255 * smoothed(LR)).round().byte()
    threads(3)
    assert torch.equal(255 * certified(smoothed, None, kind="spectral").sr, served)


def test_each_tile_has_noise_of_its_own(threads):
    """On a flat image two tiles of equal patches would have equal draws otherwise."""
    threads(3)
    flat = torch.full((1, 1, 3, 15), 0.5)
    certificate = certified(beside(tile=3), None, lr=flat, seed=None)
    means = certificate.mean.reshape(6, 5, 6).transpose(1, 0, 2)
    assert not any(np.array_equal(means[i], means[j]) for i in range(5) for j in range(i))


class Keeping(LinearSR):
    """Keeps its input on itself while it computes, as networks do that were written for one
    thread.
    """

    def forward(self, x):
        self.kept = x
        time.sleep(0.001)  # in which other threads run
        return super().forward(self.kept)


class Reparameterized(LinearSR):
    """Makes its weights anew at every pass, as SPAN does."""

    def forward(self, x):
        self.convolution.weight.data = self.convolution.weight.data.clone()
        time.sleep(0.001)
        return super().forward(x)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("network", [Keeping, Reparameterized])
def test_a_network_with_a_state_is_not_shared(threads, shares, network):
    smoothed = SmoothedSR(network(), 0.05, 3, "mean", tile=3, halo=1, seed=5, side_by_side=True)
    alone = certified(smoothed, None)
    threads(3)
    del shares[:]
    same(alone, certified(smoothed, None))
    assert len({thread for thread, _ in shares}) > 1


def keeping_by_hook():
    """Takes what a layer has made from a dict of its own, into which the original's hook writes."""
    network = nn.Sequential(LinearSR(), nn.Identity())
    network.kept = {}
    network[0].register_forward_hook(lambda _m, _i, output: network.kept.update(of=output))
    network[1].register_forward_pre_hook(lambda _m, _i: (network.kept["of"],))
    return network.eval()


def replaced():
    """Has a forward that knows the original by name."""
    network = LinearSR(gain=0.3)
    inner = network.forward
    network.forward = lambda x: inner(x) * 1
    return network


def closing():
    """Has a function of its own that knows the original by name."""
    network = LinearSR(gain=0.3)
    network.linear = lambda x: network.__class__.linear(network, x)
    return network


class OneCopy(LinearSR):
    """Has one copy for all."""

    def __deepcopy__(self, memo):
        self.copy = getattr(self, "copy", None) or [OneCopy()]
        return self.copy[0]


class Itself(LinearSR):
    """Is its own copy."""

    def __deepcopy__(self, memo):
        return self


class Scratch(nn.Module):
    """Has no weights, and is its own copy."""

    def forward(self, x):
        return x

    def __deepcopy__(self, memo):
        return self


class SharesScratch(LinearSR):
    """Has a layer that copies share, in which something may be kept."""

    def __init__(self):
        super().__init__()
        self.scratch = Scratch().eval()


class SharesWeights(LinearSR):
    """Has copies with the weights of the original."""

    def __deepcopy__(self, memo):
        other = SharesWeights()
        other.convolution.weight = self.convolution.weight
        return other


class Stale(LinearSR):
    """A copy answers with what the original has seen last."""

    def forward(self, x):
        if getattr(self, "copied", False):
            return super().forward(self.seen)[: len(x)].expand(len(x), -1, -1, -1)
        self.seen = x[-1:]
        return super().forward(x)

    def __deepcopy__(self, memo):
        other = Stale()
        other.seen, other.copied = self.seen, True
        return other


class Locked(LinearSR):
    """Can't be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Counting(LinearSR):
    """Does something else once it is copied."""

    def __deepcopy__(self, memo):
        return LinearSR(gain=0.1)


@pytest.mark.parametrize(
    "network",
    [
        Locked,
        Counting,
        keeping_by_hook,
        replaced,
        closing,
        OneCopy,
        Itself,
        SharesScratch,
        SharesWeights,
        Stale,
    ],
)
def test_a_network_without_faithful_copies_has_one_thread(threads, shares, network):
    threads(3)
    certified(SmoothedSR(network(), 0.05, 3, "mean", tile=3, halo=1, side_by_side=True), None)
    assert [tiles for _, tiles in shares] == [TILES]


def test_copies_have_the_denoiser_and_the_weights_of_the_moment(threads):
    """Not those of an earlier certificate."""
    threads(2)
    smoothed = beside(denoiser="builtin", seed=5)
    first = certified(smoothed, None)
    with torch.no_grad():
        smoothed.model.convolution.bias += 0.1
    second = certified(smoothed, None)
    assert abs(second.mean - first.mean - 0.1).max() < 0.02


def test_nothing_is_copied_unless_it_is_asked_for(threads, shares):
    threads(3)
    certified(smoother(), None)
    assert [tiles for _, tiles in shares] == [TILES]


def test_under_a_mode_of_this_thread_nothing_is_copied(threads, shares):
    threads(3)
    with torch.device("cpu"):
        certified(beside(), None)
    assert [tiles for _, tiles in shares] == [TILES]


class Failing(LinearSR):
    """Fails on dark patches."""

    def forward(self, x):
        output = super().forward(x)
        dark = x.mean(dim=(1, 2, 3), keepdim=True) < 0.3
        return output.masked_fill(dark, float("nan"))


def test_an_output_that_is_not_finite_ends_all_threads_and_voids_the_parts(tmp_path, threads):
    threads(3)
    smoothed = SmoothedSR(Failing(), 0.05, 3, "mean", tile=3, halo=1, side_by_side=True)
    lr, parts = LR.clone(), Parts(tmp_path / "p")
    lr[..., 3:, 6:] = 0.1
    for message in ("output has NaN", "was not finite when"):
        with pytest.raises(NotFiniteError, match=message):
            certified(smoothed, parts, lr=lr)


def test_an_output_that_is_not_finite_voids_the_parts_though_another_thread_failed_first(
    tmp_path, threads
):
    threads(2)
    failed = threading.Event()

    class Late(LinearSR):
        def forward(self, x):
            if threading.current_thread().name == "smoothsr-1":
                assert failed.wait(30)
                return torch.full_like(super().forward(x), float("nan"))
            return super().forward(x)

    def progress(done, _total):
        failed.set()
        raise OSError("the disk is full")

    smoothed = SmoothedSR(Late(), 0.05, 3, "mean", tile=3, halo=1, side_by_side=True)
    parts = Parts(tmp_path / "p")
    with pytest.raises(OSError, match="the disk is full"):
        certified(smoothed, parts, seed=None, progress=progress)
    with pytest.raises(NotFiniteError, match="was not finite when"):
        certified(smoothed, parts, seed=None)


@pytest.mark.parametrize("n", [10, 300])
def test_an_interruption_ends_threads_that_serve(threads, monkeypatch, n):
    """Of 10 draws no level is certified, and none are made."""
    threads(2)
    passes = []

    class Slow(LinearSR):
        def forward(self, x):
            passes.append(len(x))
            if len(passes) == 40:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            return super().forward(x)

    smoothed = SmoothedSR(
        Slow(), 0.05, 201, "median", tile=3, halo=1, batch_size=1, side_by_side=True
    )
    with pytest.raises(KeyboardInterrupt):
        certified(smoothed, None, kind="levels", n=n)
    assert len(passes) < 80


def test_progress_is_told_by_the_thread_that_asks(threads):
    threads(3)
    told = []

    def progress(*found):
        told.append((threading.get_ident(), *found))

    certified(beside(), None, progress=progress)
    assert {thread for thread, _, _ in told} == {threading.get_ident()}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (TILES * 300, TILES * 300)


def test_a_thread_that_outlives_the_program_can_certify():
    """As a job may that was begun before the main thread ends."""
    code = """
import threading, time, torch
from torch import nn
from smoothsr import SmoothedSR
torch.set_num_threads(2)
network = nn.Upsample(scale_factor=2).eval()
smoothed = SmoothedSR(network, 0.05, 3, "mean", tile=3, side_by_side=True)
def work():
    threading.main_thread().join()
    print(smoothed.certify(torch.full((1, 1, 6, 6), 0.5), n=100).n_cert)
threading.Thread(target=work).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "100\n", done.stderr


def test_a_kill_loses_no_tile(tmp_path, threads, shares):
    threads(3)
    smoothed, parts, real = beside(), Parts(tmp_path / "p"), Parts.add

    def die(parts, name, arrays):
        if len([*parts.folder.glob("*_tile_*")]) >= 4:
            raise KeyboardInterrupt
        real(parts, name, arrays)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "add", die)
        with pytest.raises(KeyboardInterrupt):
            certified(smoothed, parts, seed=None)
    before = {path: path.read_bytes() for path in parts.folder.glob("*_tile_*")}
    del shares[:]
    certified(smoothed, parts, seed=None)
    assert sum(tiles for _, tiles in shares) == TILES - len(before)
    assert {path: path.read_bytes() for path in before} == before


def test_passes_of_copies_are_counted_and_their_seconds_shared(threads):
    threads(3)

    class Slow(LinearSR):
        def forward(self, x):
            time.sleep(0.002)
            return super().forward(x)

    passes = Passes()
    smoothed = SmoothedSR(
        Watched(Slow(), passes), 0.05, 3, "mean", tile=3, halo=1, side_by_side=True
    )
    with passes.drawn_by(smoothed.batching):
        certified(smoothed, None)
    assert passes.draws == TILES * (300 + 3)
    # The trial of the network, and of copies: two passes of the network and one of each copy.
    assert passes.count == passes.draws + 6 + 2 + 2
    assert passes.threads == 3
    assert passes.network_drawing <= passes.drawing


def test_threads_hold_a_share_of_the_memory(threads, monkeypatch):
    threads(8)
    asked, real = [], certifying.Certifying._base_predictors

    def networks(self, most, held):
        found = real(self, most, held)
        asked.append((most, held, len(found)))
        return found

    monkeypatch.setattr(certifying.Certifying, "_base_predictors", networks)
    monkeypatch.setattr("smoothsr.engine.memory.free_bytes", lambda _: room)
    smoothed = beside()
    smoothed.model.register_buffer("large", torch.zeros(10**6))
    for count in (1, 2, 5):
        room = 8 * (count - 0.5) * (asked[-1][1] + 4 * 10**6) if asked else 0
        certified(smoothed, None)
    assert [found for _, _, found in asked] == [1, 2, 5]


def test_what_a_tile_holds_is_counted_whichever_tiles_are_left(tmp_path, threads, monkeypatch):
    threads(2)
    asked, real = [], certifying.Certifying._base_predictors

    def networks(self, most, held):
        asked.append(held)
        return real(self, most, held)

    monkeypatch.setattr(certifying.Certifying, "_base_predictors", networks)
    certified(beside(), None)
    with pytest.raises(NotLastError):
        certified(beside(), Parts(tmp_path / "p", 1, 4))
    assert asked == [tile_bytes(values=(2 * 3) ** 2, n=300, levels=4)] * 2


@pytest.mark.parametrize(
    ("most", "batch", "count"), [(6, None, 6), (6, 2, 3), (6, 4, 1), (2, 1, 2)]
)
def test_threads_pass_no_more_at_once_than_fits(threads, monkeypatch, most, batch, count):
    threads(8)
    found, real = [], gathering.in_shares

    def in_shares(work, networks, *arguments):
        found.append(len(networks))
        real(work, networks, *arguments)

    monkeypatch.setattr(gathering, "in_shares", in_shares)
    smoothed = beside(batch_size=batch)
    smoothed.batching.most = most
    certified(smoothed, None)
    assert found == [count] * (count > 1)


def test_threads_time_their_passes_for_themselves(threads, monkeypatch):
    kinds, real = set(), Batching.run

    def run(self, kind, *arguments):
        kinds.add(kind.among)
        return real(self, kind, *arguments)

    monkeypatch.setattr(Batching, "run", run)
    for count in (1, 3):
        threads(count)
        certified(beside(), None)
    assert kinds == {1, 3}


def test_a_compiled_network_has_one_thread(threads, shares):
    threads(3)
    smoothed = beside()
    smoothed.batching.steady = True
    certified(smoothed, None)
    assert [tiles for _, tiles in shares] == [TILES]


@pytest.mark.parametrize(("side", "count"), [(12, 8), (60, 4), (400, 1)])
def test_threads_batch_no_more_than_one_would(side, count):
    """Each at least 8 patches."""
    assert min(8, Batching(None, False).most_among(side**2)) == count


@pytest.mark.usefixtures("deterministic")
def test_draws_that_processes_shared_are_not_made_by_threads(tmp_path, threads):
    """Of a tile that several processes draw, parts are read in their order."""
    threads(3)
    smoothed, parts = beside(tile=5, seed=5), tmp_path / "p"
    for rank in range(4):
        with pytest.raises(NotLastError):
            certified(smoothed, Parts(parts, rank, 5))
    same(certified(smoothed, Parts(parts, 4, 5)), certified(smoothed, None))


@pytest.mark.parametrize("options", [{}, {"side_by_side": True}])
def test_what_was_held_is_gone_without_the_help_of_gc(threads, monkeypatch, options):
    """It may be gigabytes."""
    threads(2)
    seen, real = [], Evidence.__init__

    def init(self, *arguments):
        real(self, *arguments)
        seen.append(weakref.ref(self))

    monkeypatch.setattr(Evidence, "__init__", init)
    gc.collect()
    gc.disable()
    try:
        certified(smoother(**options), None)
        assert [each() for each in seen] == [None]
    finally:
        gc.enable()


def test_one_tile_has_one_thread(threads, shares):
    threads(3)
    certified(beside(tile=None), None)
    assert [tiles for _, tiles in shares] == [1]
