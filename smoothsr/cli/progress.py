"""How far the draws are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["draws_bar"]


@contextmanager
def draws_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of draws."""
    with tqdm(desc=name, unit="draw", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
