"""How far the draws are, and at the end what they took."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from tqdm import tqdm

from smoothsr.engine.batching import Batching
from smoothsr.engine.passes import Passes
from smoothsr.reports.passes_report import passes_text

__all__ = ["draws_bar", "print_profile"]


@contextmanager
def draws_bar(
    name: str, batching: Batching, passes: Passes | None
) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of draws that batching makes, and count them among the passes."""
    counted = passes.drawn_by(batching) if passes else nullcontext()
    with counted, tqdm(desc=name, unit="draw", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def print_profile(passes: Passes | None) -> None:
    """Print what the network ran, if that was asked for."""
    if passes:
        print(f"\n{passes_text(passes)}")
