"""Early looks: planned ahead, stopped by what a certificate says, resumed after a kill."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from oracles import LinearSR
from shared_certificates import LR, certified, same, smoother

from smoothsr import SmoothedSR
from smoothsr.certificates import gathering
from smoothsr.certificates.certificate import Certificate
from smoothsr.certificates.evidence import Request
from smoothsr.certificates.looks import counted, plan
from smoothsr.certificates.quantile_bounds import levels
from smoothsr.engine import draws
from smoothsr.files.parts import NotLastError, Parts

TILES = 9  # of LR
COUNTS = [26, 80, 240]  # of five looks at 240 draws: those before would be of 8 and 2


def request(n, kind="spectral"):
    return Request(n, 1e-3, 32, "image", kind)


def looked(stop, parts=None, n=240, lr=LR, seed=1, looks=5, smoothed=None, **options):
    """Certify in looks up to the first for which stop holds."""
    smoothed = smoothed or smoother()
    options = {"kind": "both", "levels": 4} | options
    return smoothed.certify(
        lr,
        n=n,
        looks=looks,
        enough=stop,
        void_guarantee_seed=seed,
        parts=parts,
        **options,
    )


def at(n):
    """Stop at the look of n draws."""
    return lambda certificate: certificate.n_cert == n


def never(_):
    return False


@pytest.fixture
def drawn(monkeypatch):
    """How many certification draws were made of each tile, call by call."""
    found, real = [], draws.observe

    def observe(sampler, n, *arguments):
        found.append((n, len(sampler.tiles)))
        return real(sampler, n, *arguments)

    monkeypatch.setattr(draws, "observe", observe)
    return found


# The plan


@pytest.mark.parametrize(
    ("n", "looks", "counts"),
    [
        (1000, 1, [1000]),
        (1000, 2, [333, 1000]),
        (1000, 5, [37, 111, 333, 1000]),
        (1000, 50, [37, 111, 333, 1000]),
        (60, 5, [20, 60]),
        (59, 5, [59]),
        (3, 5, [3]),
    ],
)
def test_looks_are_planned_with_three_times_the_draws_of_the_last(n, looks, counts):
    planned = plan(request(n), looks, 10_000)
    assert [each.n for each in planned] == counts
    assert sum(each.alpha for each in planned) == pytest.approx(1e-3)
    assert len({each.alpha for each in planned}) == 1
    assert sum(counts) <= 1.5 * n


@pytest.mark.parametrize("n", range(30, 400, 10))
def test_no_look_is_planned_whose_levels_are_trivial_by_its_count(n):
    first = plan(request(n, "levels"), 5, 10_000)[0]
    assert (
        len(plan(request(n, "levels"), 5, 10_000)) == 1
        or levels(first.n, first.alpha, 32, 10_000).size
    )
    # A third of it would be too early, at the share that it would leave.
    assert first.n < 3 or not levels(first.n // 3, 1e-3 / 5, 32, 10_000).size


def test_both_begin_where_either_certifies_something():
    assert [each.n for each in plan(request(300, "both"), 5, 100_000)] == [33, 100, 300]
    assert [each.n for each in plan(request(300, "levels"), 5, 100_000)] == [100, 300]
    assert [each.n for each in plan(request(30, "both")._replace(levels=2), 5, 1)] == [30]


# Stopping


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("agg", ["median", "mean"])
def test_it_stops_where_it_is_enough_at_its_share_of_alpha(count, agg, drawn):
    smoothed = smoother(agg=agg, seed=5)
    found = looked(at(count), smoothed=smoothed)
    assert [n for n, _ in drawn] == COUNTS[: COUNTS.index(count) + 1]
    assert (found.n_cert, found.looks, found.alpha) == (count, 3, 1e-3)
    alone = certified(smoothed, None, n=count, alpha=1e-3 / 3)
    same(found, replace(alone, alpha=1e-3, looks=3))
    assert found.spectrum.alpha == pytest.approx(1e-3 / 3 / 2)


def test_a_look_that_is_enough_by_what_it_certifies():
    bounds = {}

    def enough(certificate):
        bounds[certificate.n_cert] = certificate.deviation(1 / 255, "linf")
        return bounds[certificate.n_cert] < 0.02

    found = looked(enough, n=1000)
    assert [*bounds] == [37, 111, 333][: len(bounds)]
    assert found.n_cert == max(bounds) < 1000
    assert found.deviation(1 / 255, "linf") == bounds[found.n_cert] < 0.02
    assert all(bound >= 0.02 for n, bound in bounds.items() if n < found.n_cert)


def test_the_last_look_is_not_asked():
    asked = []
    assert looked(lambda certificate: asked.append(certificate.n_cert)).n_cert == 240
    assert asked == COUNTS[:-1]


def test_one_look_is_what_there_was():
    same(looked(None, looks=1), certified(smoother(), None, n=240))
    # Of which no earlier look would certify anything.
    same(looked(never, n=50), certified(smoother(), None, n=50))


def test_each_look_has_draws_of_its_own():
    means = []
    looked(lambda certificate: means.append(certificate.mean), n=600, seed=None)
    assert all(abs(means[0] - mean).max() > 1e-4 for mean in means[1:])


def test_the_output_is_served_once(monkeypatch):
    calls, real = [], draws.statistics
    monkeypatch.setattr(draws, "statistics", lambda *args: calls.append(args[1]) or real(*args))
    outputs = []
    found = looked(
        lambda certificate: outputs.append(certificate.sr), smoothed=smoother(agg="median")
    )
    assert calls == [3]
    assert all(torch.equal(output, found.sr) for output in outputs)


def test_a_look_is_gone_before_the_next_is_drawn(monkeypatch):
    """Its bounds may be gigabytes, and so may the next one's."""
    seen, gone, real = [], [], draws.observe

    def observe(*arguments):
        gone.extend(each() is None for each in seen)
        return real(*arguments)

    monkeypatch.setattr(draws, "observe", observe)
    looked(lambda certificate: seen.append(weakref.ref(certificate.upper)))
    assert gone == [True, True, True]  # the first before the second, both before the third


def test_planned_draws_are_those_of_the_last_look(monkeypatch):
    monkeypatch.setattr(SmoothedSR, "draws_wanted", lambda *_, **__: 150)
    asked = []
    assert looked(lambda each: asked.append(each.n_cert), n="auto").n_cert == 150
    assert asked == [50]


def test_trivial_levels_are_told_of_the_last_look_alone():
    """Spectral bounds come with fewer draws; that there are no levels is told if it stays so."""
    with pytest.warns(UserWarning, match="22 draws can't bound 252 values") as told:
        found = looked(at(22), n=200)
    assert len(told) == 1
    assert not found.z.size
    needed = found.draws_needed(0.0, "ideal")
    assert f"n={needed} would do" in str(told[0].message)
    assert levels(needed, 1e-3 / 3 / 2, 4, 252).size
    assert not levels(needed - 1, 1e-3 / 3 / 2, 4, 252).size
    assert looked(never, n=200).z.size  # without a warning, which would be an error


# Progress


def test_progress_counts_all_looks():
    told = []
    smoother(batch_size=50).certify(
        LR, n=240, looks=5, enough=never, progress=lambda *each: told.append(each)
    )
    assert told == sorted(told)
    assert {total for _, total in told} == {sum(COUNTS) * TILES}
    assert told[-1][0] == sum(COUNTS) * TILES
    ends = [sum(COUNTS[:place]) * TILES for place in (1, 2)]
    assert {*ends} <= {done for done, _ in told}


def test_draws_are_never_fewer_than_none():
    """Where a process has more to make than a look's draws: the served ones too."""
    told = []
    first, _ = counted(lambda *numbers: told.append(numbers), [request(40), request(120)], 1)
    first(1, 45)
    assert told == [(1, 160)]


def test_draws_that_are_there_count_as_done():
    told = []
    first, second = counted(lambda *each: told.append(each), [request(10), request(30)], 4)
    first(40, 40)
    second(20, 60)  # the other 60 were there
    assert told == [(40, 160), (120, 160)]


# Part files


@pytest.mark.usefixtures("deterministic")
def test_parts_change_nothing_at_the_same_seed(tmp_path):
    smoothed = smoother(agg="median", seed=5)
    parts = Parts(tmp_path / "p")
    same(looked(at(80), smoothed=smoothed), looked(at(80), parts, smoothed=smoothed))


def killed_at(parts, count):
    """Let a run die where it would keep so many tiles, of all looks."""
    real = Parts.add

    def die(parts, name, arrays):
        if len([*parts.folder.glob("*_tile_*")]) == count:
            raise KeyboardInterrupt
        real(parts, name, arrays)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "add", die)
        with pytest.raises(KeyboardInterrupt):
            looked(never, parts, seed=None, smoothed=smoother(agg="median"))


@pytest.mark.parametrize("kept", [TILES, TILES + 4])
def test_a_restart_goes_on_in_the_look_where_it_was(tmp_path, kept, drawn):
    parts = Parts(tmp_path / "p")
    killed_at(parts, kept)
    before = {path: path.read_bytes() for path in parts.folder.iterdir()}
    served = {}
    del drawn[:]
    found = looked(
        lambda certificate: served.setdefault(certificate.n_cert, certificate.sr) is None,
        parts,
        seed=None,
        smoothed=smoother(agg="median"),
    )
    assert [*served] == COUNTS[:-1]  # the first look is asked again, and says the same
    assert drawn == [(80, 2 * TILES - kept), (240, TILES)]
    assert {path: path.read_bytes() for path in before} == before
    assert all(torch.equal(output, found.sr) for output in served.values())


def test_a_look_that_was_enough_is_so_again(tmp_path, drawn):
    parts = Parts(tmp_path / "p")
    first, second = (looked(at(80), parts, seed=None) for _ in range(2))
    same(first, second)
    assert [n for n, _ in drawn] == [26, 80]


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"looks": 5}, "a function enough.*go together; got looks=5 and no enough"),
        ({"enough": never}, "go together; got looks=1 and enough"),
        ({"looks": 0, "enough": never}, "looks must be an integer of at least 1, got 0"),
        ({"looks": 2.5, "enough": never}, "looks must be an integer of at least 1, got 2.5"),
        ({"looks": 5, "enough": never, "n": 0}, "n must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_told_before_the_network_runs(options, message):
    class Unused(LinearSR):
        def forward(self, x):
            pytest.fail("the network ran")

    with pytest.raises(ValueError, match=message):
        SmoothedSR(Unused(), 0.05).certify(LR, **options)


def test_looks_are_not_shared_by_processes_that_do_not_wait(tmp_path):
    with pytest.raises(ValueError, match=r"looks=5 of 2 processes take Parts\(together=...\)"):
        looked(never, Parts(tmp_path / "p", 1, 2))
    assert not (tmp_path / "p").exists()


# Processes


def looked_by_two(folder, stops, **options):
    """Certify in two threads, in the place of processes, each of which asks its own stop; return
    the certificates, and what each added and waited for.
    """
    both, added = Barrier(2, timeout=60), {0: [], 1: []}

    class Told(Parts):
        def add(self, name, arrays):
            added[self.rank].append(name)
            super().add(name, arrays)

        def wait(self, name):
            added[self.rank].append(name)
            super().wait(name)

    def made(rank):
        parts = Told(folder, rank, 2, lambda _: both.wait())
        try:
            return looked(stops[rank], parts, smoothed=smoother(seed=5, **options))
        except NotLastError:
            return None

    with ThreadPoolExecutor(2) as pool:
        return [each for each in pool.map(made, range(2)) if each], added


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("options", "kind"), [({}, "tile"), ({"tile": None}, "draws")])
@pytest.mark.parametrize("stop", [at(26), at(80), never])
def test_processes_look_together(tmp_path, options, kind, stop):
    found, added = looked_by_two(tmp_path / "p", [stop, stop], **options)
    assert len(found) == 1
    alone = looked(stop, smoothed=smoother(seed=5, **options))
    same(found[0], alone, spectrum=1e-3)
    made = [{name for name in names if f"_{kind}_" in name} for names in added.values()]
    assert all(made)
    assert not made[0] & made[1]
    # Nobody removes parts that another still reads.
    assert all(names[-1].endswith("_ended") for names in added.values())


def test_bands_are_looked_at_together(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "bands_of", lambda n, values: 3)
    found, added = looked_by_two(tmp_path / "p", [at(80), at(80)], tile=None)
    same(found[0], looked(at(80), smoothed=smoother(seed=5, tile=None)), spectrum=1e-3)
    made = [[name for name in names if "_band_" in name] for names in added.values()]
    assert len({*made[0], *made[1]}) == 2 * 3  # of two looks
    assert all(made)


@pytest.mark.parametrize(("stops", "count"), [((at(80), never), 80), ((never, at(80)), 240)])
def test_the_first_process_is_asked(stops, count, tmp_path):
    """Else one would wait for the draws of another that has stopped."""
    found, _ = looked_by_two(tmp_path / "p", stops)
    assert [each.n_cert for each in found] == [count]


@pytest.mark.parametrize(("answer", "count"), [(None, 240), (0.5, 26), ("yes", 26), ([], 240)])
def test_an_answer_is_true_or_not(answer, count, tmp_path):
    def stop(_):
        return answer

    found, _ = looked_by_two(tmp_path / "p", [stop, stop])
    assert [each.n_cert for each in found] == [looked(stop).n_cert] == [count]


def test_processes_that_start_again_ask_again(tmp_path):
    first, _ = looked_by_two(tmp_path / "p", [at(26), at(26)])
    second, added = looked_by_two(tmp_path / "p", [at(80), at(80)])
    assert [first[0].n_cert, second[0].n_cert] == [26, 80]
    assert sum("_tile_" in name for names in added.values() for name in names) == TILES


# The record


def test_files_keep_the_looks(tmp_path):
    found = looked(at(80))
    found.save(tmp_path / "a.npz")
    loaded = Certificate.load(tmp_path / "a.npz")
    assert (loaded.looks, loaded.n_cert, loaded.alpha) == (3, 80, 1e-3)
    assert loaded.summary()["looks"] == 3
    assert "n_cert=80, alpha=0.001 over 3 looks" in repr(loaded)
    assert loaded.as_mean().looks == 3
