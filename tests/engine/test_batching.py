"""Batches: each draw once and in order, the fastest plan found and remembered, memory respected."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from smoothsr import SmoothedSR
from smoothsr.engine import batching
from smoothsr.engine.batching import Batching, Kind


def kind(channels: int = 3, side: int = 64) -> Kind:
    return Kind((channels, side, side), torch.float32, torch.device("cpu"))


USUAL = kind()


class Simulated:
    """A predictor whose time is given by a formula, on a clock of its own."""

    def __init__(
        self,
        seconds=lambda size, _: 1.0 * size,
        memory=10**9,
        error=torch.OutOfMemoryError,
        text="out of memory",
    ):
        self.now, self.seconds, self.memory, self.error, self.text = (
            0.0,
            seconds,
            memory,
            error,
            text,
        )
        self.made: list[range] = []
        self.runs: list[tuple[int, bool]] = []

    def make(self, draws: range) -> Tensor:
        self.made.append(draws)
        return (
            torch.tensor(draws, dtype=torch.float32)[:, None, None, None]
            .expand(-1, 3, 4, 4)
            .contiguous()
        )

    def __call__(self, batch: Tensor) -> Tensor:
        last = not batch.is_contiguous()
        if len(batch) > self.memory:
            raise self.error(self.text)
        self.now += self.seconds(len(batch), last)
        self.runs.append((len(batch), last))
        return batch

    def all(self, batches: Batching, n: int, kind: Kind = USUAL) -> list[tuple[int, bool]]:
        """Run n draws, check that each came out once and in order, and return (size, channels_last)
        of the batches.
        """
        before, outputs = len(self.runs), []
        while sum(map(len, outputs)) < n:
            outputs.append(batches.run(kind, range(sum(map(len, outputs)), n), self.make, self))
        assert torch.cat(outputs)[:, 0, 0, 0].tolist() == [*range(n)]
        return self.runs[before:]


@pytest.fixture
def simulate(monkeypatch):
    def make(*args, **options):
        simulated = Simulated(*args, **options)
        monkeypatch.setattr(batching, "clock", lambda _device: simulated.now)
        return simulated

    return make


@pytest.mark.parametrize("n", [1, 2, 3, 21])
@pytest.mark.parametrize("size", [None, 1, 4, 30])
@pytest.mark.parametrize("convolutional", [False, True])
def test_every_draw_comes_once_and_the_last_batch_is_shorter(n, size, convolutional, simulate):
    predictor, batches = simulate(), Batching(size, convolutional)
    for _ in range(5):
        sizes = [size for size, _ in predictor.all(batches, n)]
        assert sum(sizes) == n
        if size:
            assert sizes == [size] * (n // size) + [n % size] * (n % size > 0)


@pytest.mark.parametrize(("slower", "largest"), [(1.4, 32), (1.6, 8)])
def test_larger_batches_are_not_tried_after_one_that_is_far_slower(slower, largest, simulate):
    """A batch of 4 is best; up to three doublings without a gain are tried, but for far slower."""
    predictor = simulate(lambda size, _: size * (1 / size if size <= 4 else slower / 4))
    batches = Batching(None, False)
    for _ in range(12):
        predictor.all(batches, 64)
    assert max(size for size, _ in predictor.runs) == largest


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (
            lambda size, _: 10 + size,
            (21, False),
        ),  # starting costs most: all at once
        (lambda size, last: size * (1 if last else 2), (1, True)),
        (lambda size, last: size * (2 if last else 1), (1, False)),
        (
            lambda size, last: (1 if last else 2) * size * (2 if size > 4 else 1 / size**0.5),
            (4, True),
        ),
    ],
)
def test_the_fastest_plan_is_found_and_kept(seconds, expected, simulate):
    predictor, batches = simulate(seconds), Batching(None, True)
    for _ in range(8):
        predictor.all(batches, 21)
    settled = predictor.all(batches, 21)
    assert settled[0] == expected
    assert {last for _, last in settled} == {expected[1]}
    assert predictor.all(batches, 21) == settled


def test_a_far_shorter_batch_tells_nothing_about_its_plan(simulate):
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(None, False)
    for _ in range(8):
        settled = predictor.all(batches, 15)
    assert [size for size, _ in settled] == [15]
    for _ in range(
        3
    ):  # with more to do, larger batches are tried, though 5 draws took less time than 16
        settled = predictor.all(batches, 256)
    assert settled[0][0] == 32  # the most, for a processor's caches


def test_the_time_of_a_far_shorter_batch_is_not_kept(simulate):
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(None, False)
    for _ in range(5):
        predictor.all(batches, 256)
    (trials,) = batches._trials.values()
    before = {plan: [*times] for plan, times in trials.seconds.items()}
    assert [size for size, _ in predictor.all(batches, 5)] == [5]  # by the plan of 32
    assert trials.seconds == before


def test_plans_are_timed_anew_after_a_while(simulate):
    busy = [True]
    predictor, batches = (
        simulate(lambda size, _: size * (size if busy[0] else 1) + 10 * (not busy[0])),
        Batching(None, False),
    )
    for _ in range(5):
        settled = predictor.all(batches, 21)
    assert settled[0] == (1, False)
    busy[0] = False
    for _ in range(40):
        settled = predictor.all(batches, 21)
    assert settled[0] == (21, False)


def test_a_draw_is_never_made_twice_to_measure(simulate):
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(None, True)
    for _ in range(4):
        predictor.all(batches, 21)
    assert sum(map(len, predictor.made)) == 4 * 21


def test_each_kind_and_grad_mode_is_measured_for_itself(simulate):
    predictor, batches = (
        simulate(lambda size, last: size * (1 if last else 2)),
        Batching(None, True),
    )
    first = predictor.all(batches, 21, kind(1))
    assert {last for _, last in first} == {False, True}  # both layouts are tried
    predictor.all(batches, 21, kind(1))
    assert {last for _, last in predictor.all(batches, 21, kind(1))} == {
        True
    }  # and the better one remembered
    assert predictor.all(batches, 21, kind(2)) == first
    with torch.no_grad():
        assert predictor.all(batches, 21, kind(1)) == first


def test_channels_last_is_not_tried_without_convolutions(simulate):
    predictor, batches = (
        simulate(lambda size, last: size * (1 if last else 2)),
        Batching(None, False),
    )
    assert not any(last for _ in range(4) for _, last in predictor.all(batches, 21))


ERRORS = [
    (torch.OutOfMemoryError, "CUDA out of memory"),
    (MemoryError, "Unable to allocate 9 GiB"),
    (
        RuntimeError,
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 9 bytes.",
    ),
    (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_a_given_size_is_halved_with_one_warning(error, text, simulate):
    predictor, batches = simulate(memory=4, error=error, text=text), Batching(8, True)
    with pytest.warns(
        RuntimeWarning, match="out of memory with 8 draws at once: going on with 4"
    ) as caught:
        sizes = [size for size, _ in predictor.all(batches, 21)]
    assert len(caught) == 1
    assert sizes == [4, 4, 4, 4, 4, 1]
    assert [size for size, _ in predictor.all(batches, 8, kind(4))] == [
        4,
        4,
    ]  # no warning: they are errors here


def test_a_size_is_halved_until_it_fits(simulate):
    predictor, batches = simulate(memory=1), Batching(7, False)
    with pytest.warns(RuntimeWarning) as caught:
        assert [size for size, _ in predictor.all(batches, 4)] == [1] * 4
    assert [str(w.message).split()[-1] for w in caught] == ["2", "1"]


def test_the_search_stops_at_memory_with_one_warning(simulate):
    predictor, batches = simulate(lambda size, _: 10 + size, memory=4), Batching(None, True)
    with pytest.warns(RuntimeWarning, match="going on with 4") as caught:
        settled = [predictor.all(batches, 21) for _ in range(7)][-1]
    assert len(caught) == 1
    assert settled[0][0] == 4


@pytest.mark.parametrize("size", [None, 1, 4])
def test_out_of_memory_at_one_draw_goes_up(size, simulate):
    predictor, batches = simulate(memory=0), Batching(size, True)
    warnings.simplefilter("ignore")  # of the halvings before it; pytest restores the filters
    with pytest.raises(torch.OutOfMemoryError):
        predictor.all(batches, 4)


@pytest.mark.parametrize("size", [None, 1])
def test_memory_that_only_channels_last_lacks_costs_the_layout_alone(size, simulate):
    def seconds(size, last):
        if last:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0 * size

    predictor, batches = simulate(seconds), Batching(size, True)
    assert not any(last for _ in range(3) for _, last in predictor.all(batches, 21))


def test_other_errors_go_up_at_once(simulate):
    predictor = simulate(
        memory=0, error=RuntimeError, text="mat1 and mat2 shapes cannot be multiplied"
    )
    with pytest.raises(RuntimeError, match="mat1"):
        predictor.all(Batching(None, True), 4)
    assert len(predictor.made) == 1


def test_a_network_that_reshapes_with_view_keeps_its_layout():
    def view(batch: Tensor) -> Tensor:
        runs.append(batch.is_contiguous())
        return batch.view(len(batch), -1).view(batch.shape)

    runs: list[bool] = []
    simulated = Simulated()
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        view(simulated.make(range(2)).contiguous(memory_format=torch.channels_last))
    runs.clear()
    for size in (None, 3):
        batches, done = Batching(size, True), 0
        while done < 21:
            outputs = batches.run(USUAL, range(done, 21), simulated.make, view)
            assert outputs[:, 2, 3, 3].tolist() == [*range(done, done + len(outputs))]
            done += len(outputs)
    assert runs.count(False) == 2  # once for each


def test_a_given_batch_of_large_patches_gets_the_faster_layout(simulate):
    """Batches that are found are no larger than a processor's caches; a given one is."""
    predictor, batches = simulate(lambda size, last: size * (1 if last else 2)), Batching(16, True)
    large = kind(side=256)
    predictor.all(batches, 16 * 9, large)
    assert predictor.all(batches, 16, large) == [(16, True)]


@pytest.mark.parametrize("given", [None, 4])
def test_the_layout_is_the_one_that_is_faster(given, simulate):
    predictor = simulate(lambda size, last: size * (2 if last else 1))
    batches = Batching(given, True)
    for _ in range(9):
        predictor.all(batches, 8)
    assert {last for _, last in predictor.all(batches, 8)} == {False}


@pytest.mark.parametrize("steady", [False, True])
def test_every_kind_keeps_to_a_given_batch_that_was_halved(steady, simulate):
    predictor, batches = simulate(memory=16), Batching(16, False, steady=steady)
    assert predictor.all(batches, 16, kind(4)) == [(16, False)]
    predictor.memory = 8
    with pytest.warns(RuntimeWarning, match="going on with 8"):
        predictor.all(batches, 16)
    assert predictor.all(batches, 16, kind(4)) == [(8, False)] * 2


def test_fewer_draws_fit_once_most_is_lowered(simulate):
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(None, False)
    for _ in range(20):
        predictor.all(batches, 32)
    assert predictor.all(batches, 32) == [(32, False)]
    batches.most = 4
    assert predictor.all(batches, 32) == [(4, False)] * 8


def test_what_is_too_large_in_one_layout_is_not_tried_in_the_other(simulate):
    predictor = simulate(lambda size, last: 10 + size * (1 if last else 2), memory=2)
    batches, small = Batching(None, True), kind(side=32)  # of which four are run at first
    with pytest.warns(RuntimeWarning, match="out of memory with 4 draws at once: going on with 2"):
        predictor.all(batches, 8, small)
    for _ in range(9):  # warnings are errors here
        predictor.all(batches, 8, small)
    assert predictor.all(batches, 8, small) == [(2, True)] * 4


def test_a_larger_batch_that_fails_does_not_enlarge_the_first(simulate):
    predictor = simulate(lambda size, last: (10 + size) * (2 if last else 1), memory=40)
    batches, small = Batching(None, True), kind(side=32)  # of which four are run at first

    def tried() -> None:
        for _ in range(20):
            predictor.all(batches, 64, small)

    with pytest.warns(RuntimeWarning, match="out of memory with 64 draws"):
        tried()
    assert {size for size, _ in predictor.all(batches, 64, small)} == {32}
    assert {size for size, last in predictor.runs if last} == {4}


@pytest.mark.parametrize("n", [3, 8, 9, 16])
def test_fewer_draws_than_half_of_a_given_batch_get_the_faster_layout(n, simulate):
    predictor, batches = simulate(lambda size, last: size * (1 if last else 2)), Batching(16, True)
    for _ in range(2 * batching.TRIALS):
        predictor.all(batches, n)
    assert predictor.all(batches, n) == [(n, True)]


SPEEDS = [
    lambda size, _: 10 + size,
    lambda size, last: size * (2 if last else 1),
    lambda size, last: size**2 * (1 if last else 9),
]


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize(("given", "size"), [(None, 8), (3, 3)])
def test_deterministic_mode_has_the_same_plan_every_time_whatever_the_clock_says(
    given, size, convolutional, simulate
):
    expected = [(size, convolutional)] * (21 // size) + [(21 % size, convolutional)] * (
        21 % size > 0
    )
    for seconds in SPEEDS:
        predictor, batches = simulate(seconds), Batching(given, convolutional)
        for _ in range(batching.RENEW // 3 + 9):  # beyond the renewal of plans
            assert predictor.all(batches, 21) == expected


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("given", "most", "size"), [(None, None, 28), (None, 9, 9), (5, 9, 5)])
def test_deterministic_mode_runs_more_of_small_patches_at_once(given, most, size, simulate):
    predictor, batches = simulate(), Batching(given, False, most)
    assert predictor.all(batches, 2 * size, kind(side=12)) == [(size, False)] * 2


def test_trials_of_small_patches_begin_with_several(simulate):
    """Passes of a few pixels show what starting one costs, and little else."""
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(None, False)
    assert [size for size, _ in predictor.all(batches, 168, kind(side=12))] == [28] * 4 + [56]
    # Where fewer are asked for at first, with as many as there are.
    assert [size for size, _ in predictor.all(batches, 5, kind(side=13))] == [5]
    assert [size for size, _ in predictor.all(batches, 35, kind(side=13))] == [5, 5, 5, 10, 10]


def test_a_start_with_several_that_memory_forbids_is_halved(simulate):
    predictor, batches = simulate(memory=9), Batching(None, True)
    with pytest.warns(RuntimeWarning) as caught:
        sizes = {size for size, _ in predictor.all(batches, 70, kind(side=12))}
    assert [str(warning.message).split()[-1] for warning in caught] == ["14", "7"]
    assert max(sizes) == 7


@pytest.mark.parametrize("given", [None, 8])
def test_no_more_are_tried_at_once_than_fit(given, simulate):
    predictor, batches = simulate(lambda size, _: 10 + size), Batching(given, True, most=5)
    sizes = [size for _ in range(8) for size, _ in predictor.all(batches, 21)]
    assert max(sizes) == 5 if given else max(sizes) == 4
    assert batches.batch_size == (5 if given else None)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("given", [None, 8])
def test_deterministic_mode_halves_what_memory_forbids(given, convolutional, simulate):
    predictor, batches = simulate(memory=3), Batching(given, convolutional)
    with pytest.warns(RuntimeWarning) as caught:
        assert [size for size, _ in predictor.all(batches, 9)] == [2, 2, 2, 2, 1]
    assert [str(warning.message).split()[-1] for warning in caught] == ["4", "2"]
    made = len(predictor.made)
    assert [size for size, _ in predictor.all(batches, 4)] == [2, 2]  # remembered, without a word
    assert len(predictor.made) == made + 2


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("given", [None, 4])
def test_deterministic_mode_goes_on_without_a_layout_that_memory_or_the_network_forbids(
    given, simulate
):
    for error, memory in (
        (RuntimeError("view size is not compatible"), 8),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
    ):

        def seconds(size, last, error=error):
            if last:
                raise error
            return size

        warnings.simplefilter("ignore")  # of the halvings; pytest restores the filters
        predictor, batches = simulate(seconds, memory=memory), Batching(given, True)
        for _ in range(2):
            assert set(predictor.all(batches, 16)) == {(min(memory, given or 8), False)}


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("error", "text"), [(torch.OutOfMemoryError, "out of memory"), (RuntimeError, "mat1 and mat2")]
)
def test_deterministic_mode_hides_no_errors(error, text, simulate):
    warnings.simplefilter("ignore")
    for given in (None, 1, 4):
        with pytest.raises(error, match=text):
            simulate(memory=0, error=error, text=text).all(Batching(given, True), 4)


def served(simulate, seconds) -> tuple[list[Tensor], list[tuple[int, bool]]]:
    """The output of a seeded smoother and its gradients, and the plans of its batches, on a machine
    of some speed.
    """

    def note(_net, inputs, _output):
        plans.append((len(inputs[0]), not inputs[0].is_contiguous()))
        clock.now += seconds(*plans[-1])

    clock, plans = simulate(), list[tuple[int, bool]]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(16, 48, 3, padding=1),
            nn.PixelShuffle(4),
        ).eval()
    net.register_forward_hook(note)
    smoothed, lr = (
        SmoothedSR(net, 0.05, 21, seed=3),
        torch.linspace(0, 1, 3 * 70 * 60).view(1, 3, 70, 60).requires_grad_(),
    )
    for _ in range(3):
        sr = smoothed(lr)
    return [sr, *torch.autograd.grad(sr.square().sum(), [lr, *net.parameters()])], plans


def test_only_in_deterministic_mode_speed_decides_nothing(simulate, deterministic):
    (first, plans), (second, others) = (served(simulate, seconds) for seconds in SPEEDS[:2])
    assert plans == others
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.use_deterministic_algorithms(False)
    (first, plans), (second, others) = (served(simulate, seconds) for seconds in SPEEDS[:2])
    assert plans != others
    torch.testing.assert_close(first[0], second[0])


def test_a_lucky_trial_is_found_out(simulate):
    calls = {1: 0, 2: 0}

    def seconds(size, _):
        calls[size] += 1
        lucky = size == 2 and calls[2] <= 1 + batching.TRIALS
        return {1: 1.0, 2: 0.5 if lucky else 4.0}[size]

    predictor, batches = simulate(seconds), Batching(None, False, most=2)
    for _ in range(20):
        settled = predictor.all(batches, 8)
    assert {size for size, _ in settled} == {1}


def test_the_first_time_of_each_thread_tells_nothing(monkeypatch):
    """It prepares kernels; of two threads that is half of the trials."""
    trials, plan = batching.Trials(first=4), batching.Plan(channels_last=False, size=4)
    times = [(1, 9.0), (2, 8.0), (1, 1.0), (2, 1.5)]
    for thread, seconds in [*times, (1, 1.2)]:
        assert not trials.settled(plan)
        monkeypatch.setattr(batching.threading, "get_ident", lambda thread=thread: thread)
        trials.add(plan, seconds)
    assert trials.settled(plan)
    assert trials.time(plan) == 1.2
    trials.renew()  # kernels stay
    trials.add(plan, 1.4)
    assert trials.time(plan) == 1.4


def test_plans_are_timed_anew_now_and_then(simulate):
    changed = []
    predictor = simulate(lambda size, _: size ** (0.5 if changed else 2))
    batches = Batching(None, False, most=4)
    predictor.all(batches, 100)
    changed.append(True)
    assert predictor.all(batches, 100) == [(1, False)] * 100
    predictor.all(batches, 2 * batching.RENEW)
    assert predictor.all(batches, 8) == [(4, False)] * 2


def test_what_did_not_fit_is_tried_again_now_and_then(simulate):
    predictor = simulate(lambda size, _: 10 + size, memory=4)
    batches = Batching(None, False, most=8)
    with pytest.warns(RuntimeWarning, match="out of memory with 8 draws"):
        predictor.all(batches, 400)
    predictor.memory = 8
    assert predictor.all(batches, 8) == [(4, False)] * 2
    predictor.all(batches, 4 * batching.RENEW)
    assert predictor.all(batches, 16) == [(8, False)] * 2


@pytest.mark.parametrize("pause", range(1, 12))
def test_one_slow_trial_does_not_keep_batches_small(pause, simulate):
    runs = iter(range(1, 10**6))

    def seconds(size, _):
        return (10 + size) * (6 if next(runs) == pause else 1)

    predictor, batches = simulate(seconds), Batching(None, False, most=32)
    predictor.all(batches, 3000)
    assert predictor.all(batches, 64) == [(32, False)] * 2


def test_of_equally_fast_plans_the_smallest_is_taken(simulate):
    predictor, batches = simulate(lambda size, _: size * (1 - 0.001 * size)), Batching(None, False)
    for _ in range(20):
        settled = predictor.all(batches, 64)
    assert {size for size, _ in settled} == {1}


def test_steady_batches_are_of_one_length_and_nothing_is_tried(simulate):
    predictor = simulate(lambda size, last: size * (0.1 if last else 1.0))
    batches = Batching(None, False, steady=True)
    for _ in range(3):
        assert predictor.all(batches, 21) == [(7, False)] * 3
    assert predictor.all(batches, 56, kind(side=12)) == [(28, False)] * 2


def test_the_newest_times_count(simulate):
    calls = {1: 0, 2: 0}

    def seconds(size, _):
        calls[size] += 1
        return {1: 1.0, 2: 0.5 if calls[2] <= 3 * batching.KEPT else 4.0}[size]

    predictor, batches = simulate(seconds), Batching(None, False, most=2)
    for _ in range(20):
        settled = predictor.all(batches, 8)
    assert calls[2] > 3 * batching.KEPT
    assert {size for size, _ in settled} == {1}


@pytest.mark.parametrize(("most", "largest"), [(40, 8), (7, 1), (None, 16)])
def test_passes_side_by_side_take_what_one_would(most, largest, simulate):
    """A fifth each of what fits, and of what is worth trying."""
    predictor = simulate(lambda size, _: 10 + size)
    apart = kind(side=32)._replace(among=5)
    batches = Batching(None, False, most)
    for _ in range(20):
        predictor.all(batches, 64, apart)
    assert max(size for size, _ in predictor.runs) == largest
    assert batches.limit == most


def test_a_batch_that_fails_late_does_not_enlarge_the_others(simulate):
    """One of several side by side, begun before another was halved."""
    batches = Batching(8, False)
    out = torch.OutOfMemoryError("out of memory")
    trials = batching.Trials(8)
    for size in (8, 4, 8):
        with pytest.warns(RuntimeWarning, match="out of memory"):
            batches._fail(batching.Plan(False, size), trials, out)
    assert batches.batch_size == 2


def test_passes_side_by_side_are_measured_for_themselves(simulate):
    predictor = simulate(lambda size, _: 10 + size)
    batches = Batching(None, False)
    for _ in range(10):
        predictor.all(batches, 21)
    predictor.seconds = lambda size, _: size**2
    for _ in range(10):
        predictor.all(batches, 21, USUAL._replace(among=2))
    assert {size for size, _ in predictor.all(batches, 21, USUAL._replace(among=2))} == {1}
    assert [size for size, _ in predictor.all(batches, 21)] == [21]
