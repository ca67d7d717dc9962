import itertools

import numpy as np
import pytest
import torch

from smoothsr.engine import order_statistics


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("network", [0, 40])
def test_order_statistics_are_numpys(dtype, threads, network, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(order_statistics, "NETWORK", network)  # sorted, or selected
    monkeypatch.setattr(order_statistics, "CHUNK", 2048)  # several chunks, the last one shorter
    monkeypatch.setattr(order_statistics, "THREADED", 2)
    monkeypatch.setattr(order_statistics, "ROWS", 8)
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 20, (31, 3, 17, 5), generator=generator).to(dtype)  # ties among them
    wanted = [1, 16, 2, 31, 31]
    found = order_statistics.order_statistics(values, wanted)
    assert found.dtype == dtype
    assert (found.numpy() == np.sort(values.numpy(), axis=0)[[0, 15, 1, 30, 30]]).all()
    # The layout of the draws does not matter.
    channels_last = values.contiguous(memory_format=torch.channels_last)
    assert torch.equal(order_statistics.order_statistics(channels_last, wanted), found)
    cropped = channels_last[..., 1:4, 2:]
    assert torch.equal(order_statistics.order_statistics(cropped, wanted), found[..., 1:4, 2:])


def test_order_statistics_pass_gradients_to_the_draw_that_is_picked():
    values = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(1))
    tracked = values.clone().requires_grad_()
    found = order_statistics.order_statistics(tracked, [2, 9])
    assert torch.equal(found.detach(), order_statistics.order_statistics(values, [2, 9]))
    found[0].sum().backward()
    assert torch.equal(tracked.grad, (values == values.sort(0).values[1]).float())


@pytest.mark.parametrize("wrong", [[0], [4], [2, -1]])
def test_order_statistics_refuse_other_ranks(wrong):
    with pytest.raises(ValueError, match=r"ranks must be in 1\.\.3"):
        order_statistics.order_statistics(torch.rand(3, 2), wrong)


def run(network, rows):
    rows = list(rows)
    for i, j, low, high in network:
        first, second = rows[i], rows[j]
        rows[i], rows[j] = (
            np.minimum(first, second) if low else None,
            np.maximum(first, second) if high else None,
        )
    return rows


@pytest.mark.parametrize("n", range(1, 12))
def test_selection_networks_select(n):
    """By the zero-one principle a network of comparators is right if it is right for all inputs of
    zeros and ones.
    """
    every = np.array(list(itertools.product((0, 1), repeat=n))).T
    expected = np.sort(every, axis=0)
    for index in range(n):
        assert (
            run(order_statistics.selection_network(n, (index,)), every)[index] == expected[index]
        ).all()
    both = run(order_statistics.selection_network(n, (0, n // 2)), every)
    assert (both[0] == expected[0]).all()
    assert (both[n // 2] == expected[n // 2]).all()


@pytest.mark.parametrize("n", [21, 40])
def test_selection_networks_of_many_rows_select(n):
    rows = np.random.default_rng(0).integers(0, 50, (n, 2000))
    for index in (0, n // 4, n // 2, n - 1):
        assert (
            run(order_statistics.selection_network(n, (index,)), rows)[index]
            == np.sort(rows, axis=0)[index]
        ).all()


def test_the_median_of_21_takes_few_comparators():
    assert len(order_statistics.selection_network(21, (10,))) == 88
