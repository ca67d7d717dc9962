"""Order statistics of many values at once, each of n draws that lie along the first axis.

A few draws go through a selection network, a fixed sequence of minima and maxima of whole arrays:
the comparators of a sorting network (Batcher's merge exchange) that the wanted ranks depend on.
Many draws are transposed and sorted row by row.

Reference: D. Knuth, The Art of Computer Programming, vol. 3, section 5.2.2, algorithm M.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["in_chunks", "order_statistics"]

CHUNK = 2**20  # bytes that are handled at a time: they stay in a core's cache
Columns = Any  # (n, values) of a numpy array on the CPU, of a tensor elsewhere
ROWS = 32  # that are transposed at a time
THREADED = 24  # chunks from which threads pay: those of torch are in their way at first
NETWORK = 40  # up to so many draws a selection network is faster than sorting


def order_statistics(draws: Tensor, ranks: Sequence[int]) -> Tensor:
    """Compute the k-th smallest of n draws for each rank k; gradients flow to the draw that is
    picked.

    Args:
        draws: (n,...), uint8, float32 or float64.
        ranks: 1-based, in 1..n.

    Returns:
        (len(ranks),...), in the dtype of draws.

    Raises:
        ValueError: If a rank is not in 1..n.

    Example:
        >>> order_statistics(torch.tensor([[3.0], [1.0], [2.0]]), [1, 2]).flatten().tolist()
        [1.0, 2.0]
    """
    n = len(draws)
    if not all(1 <= rank <= n for rank in ranks):
        raise ValueError(f"ranks must be in 1..{n}, got {list(ranks)}")
    if draws.requires_grad:
        return torch.stack([draws.kthvalue(rank, dim=0).values for rank in ranks])
    if (
        draws.ndim == 4
        and draws.is_contiguous(memory_format=torch.channels_last)
        and not draws.is_contiguous()
    ):
        # As it lies in memory: flattening would copy it.
        return order_statistics(draws.permute(0, 2, 3, 1), ranks).permute(0, 3, 1, 2)
    flat = draws.flatten(1)
    result = torch.empty((len(ranks), flat.shape[1]), dtype=draws.dtype, device=draws.device)
    index = tuple(rank - 1 for rank in ranks)
    on_cpu = draws.device.type == "cpu"
    source, target = (flat.numpy(), result.numpy()) if on_cpu else (flat, result)
    if n <= NETWORK:  # in one thread: its many short steps would wait for each other
        select, threads = _select, 1
    elif on_cpu:
        select, threads = _sort, torch.get_num_threads()
    else:
        select, threads = _sort_on_device, 1
    # On a device all columns are sorted in few steps, else in pieces that stay in the cache.
    each = 1 if select is _sort_on_device else n * flat.element_size()
    in_chunks(partial(select, source, target, index), flat.shape[1], each, threads)
    return result.reshape(len(ranks), *draws.shape[1:])


def _select(source: Columns, target: Columns, index: tuple[int, ...], part: slice) -> None:
    """Put the order statistics of some columns of source into target, by a selection network."""
    rows = [*source[:, part]]
    library: Any = np if isinstance(source, np.ndarray) else torch
    for i, j, low, high in selection_network(len(rows), index):
        first, second = rows[i], rows[j]
        if low:
            rows[i] = library.minimum(first, second)
        if high:
            rows[j] = library.maximum(first, second)
    for place, row in enumerate(index):
        target[place, part] = rows[row]


def _sort(source: Columns, target: Columns, index: tuple[int, ...], part: slice) -> None:
    """Put the order statistics of some columns of source into target, by sorting each column."""
    block = _transposed(source[:, part])
    block.sort(axis=1, kind="stable" if block.dtype == np.uint8 else None)  # bytes by radix
    target[:, part] = block[:, index].T


def _transposed(rows: Columns) -> Columns:
    """Return rows (n,values) as (values,n), compact copies of a few at a time: all at once, or as
    far apart as they are, would fall on each other in the cache.
    """
    result = np.empty(rows.shape[::-1], rows.dtype)
    for first in range(0, len(rows), ROWS):
        result[:, first : first + ROWS] = np.ascontiguousarray(rows[first : first + ROWS]).T
    return result


def _sort_on_device(source: Columns, target: Columns, index: tuple[int, ...], part: slice) -> None:
    """Put the order statistics of some columns of source into target, on another device."""
    target[:, part] = source[:, part].sort(dim=0).values[list(index)]


@lru_cache(maxsize=16)
def selection_network(n: int, indices: tuple[int, ...]) -> list[tuple[int, int, bool, bool]]:
    """List the comparators that put the order statistics of n rows into the rows of the given
    indices.

    Args:
        n: Number of rows.
        indices: Wanted, from 0.

    Returns:
        (i, j, low, high) in order: row i becomes the smaller of both if low, row j the larger if
        high.

    Example:
        >>> selection_network(3, (1,))
        [(0, 2, True, True), (0, 1, False, True), (1, 2, True, False)]
    """
    network = []
    p = top = 1 << max(0, (n - 1).bit_length() - 1)
    while p:
        q, r, distance = top, 0, p
        while True:
            network += [(i, i + distance) for i in range(n - distance) if i & p == r]
            if q == p:
                break
            distance, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = set(indices), []
    for i, j in reversed(network):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


def in_chunks(work: Callable[[slice], Any], columns: int, bytes_each: int, threads: int) -> None:
    """Run work on slices of 0..columns, each of about CHUNK bytes; in threads if there are many."""
    step = max(16, CHUNK // bytes_each)
    parts = [slice(start, min(start + step, columns)) for start in range(0, columns, step)]
    if threads == 1 or len(parts) < THREADED:
        for part in parts:
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
