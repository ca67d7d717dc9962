"""Images shared out among the processes of torchrun, which tell each other by files what is done
and what failed.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from smoothsr.cli.errors import FAILURES, UserError, message
from smoothsr.cli.study_options import StudyOptions
from smoothsr.evaluation.records import Record
from smoothsr.files import images
from smoothsr.files.parts import Parts

__all__ = ["Collect", "Measure", "OnCell", "by_torchrun", "meet", "parts_of", "place", "share_out"]

OnCell = Callable[[], object]
"""Called after each output that is scored."""
Measure = Callable[[Path, OnCell], None]
Collect = Callable[[Path], list[Record] | None]


def share_out(
    options: StudyOptions, paths: Sequence[Path], cells: int, measure: Measure, collect: Collect
) -> tuple[list[Record], dict[str, str]]:
    """Measure this process's share of the images, of RANK / WORLD_SIZE (torchrun's), then collect
    what all processes have.

    Args:
        options: What was asked for.
        paths: All images.
        cells: How many outputs are scored of each image.
        measure: What to do with an image; if it fails, the others go on.
        collect: Returns an image's records, or None if they are not complete.

    Returns:
        Records of all images, and for each one that failed the reason; nothing while other
        processes are still working on theirs, not even failures, since torchrun would stop the
        others.
    """
    rank, ranks = place()
    mine = paths[rank::ranks]
    options.parts.mkdir(parents=True, exist_ok=True)
    notes = {path.stem: options.parts / f"{path.stem}.error" for path in paths}
    _measure_each(options, mine, cells, measure, notes)
    reasons = {path.stem: _reason(options, notes[path.stem], path) for path in paths}
    failed = {name: reason for name, reason in reasons.items() if reason}
    _tell(failed)
    records = list[Record]()
    for path in [path for path in paths if path.stem not in failed]:
        found = _collected(options, collect, path, is_mine=path in mine)
        if not found:
            print(
                f"{len(mine)} of {len(paths)} images done here; the process that is last to "
                "end writes the table"
            )
            return [], {}
        records += found
    if not records and (old := options.output / f"{options.command}.md").exists():
        print(f"smoothsr: {old} is of an earlier run: no image could be measured", file=sys.stderr)
    return records, failed


def _measure_each(
    options: StudyOptions,
    paths: Sequence[Path],
    cells: int,
    measure: Measure,
    notes: Mapping[str, Path],
) -> None:
    """Measure images one by one, and note for the other processes which failed, and why."""
    for path in paths:
        notes[path.stem].unlink(missing_ok=True)
    with tqdm(total=len(paths) * cells, unit="output", disable=None, leave=False) as bar:
        for path in paths:
            bar.set_description(path.stem)
            try:
                measure(path, bar.update)
            except FAILURES as error:
                text = f"{_key(options, path)}\n{message(error)}"
                notes[path.stem].write_text(text, encoding="utf-8", errors="backslashreplace")


def _tell(failed: Mapping[str, str]) -> None:
    """Print each reason once, with the images that it is one of."""
    for reason in dict.fromkeys(failed.values()):
        names = [name for name in failed if failed[name] == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"smoothsr: {', '.join(names[:3])}{more}: {reason}", file=sys.stderr)


def _collected(
    options: StudyOptions, collect: Collect, path: Path, *, is_mine: bool
) -> list[Record] | None:
    """Collect an image's records; None where another process has still to measure them.

    Raises:
        UserError: If this process has measured them, and they are gone.
    """
    try:
        found = collect(path)
    except FAILURES:
        if is_mine:
            raise
        return None  # the process whose it is will say why
    if not found and is_mine:
        raise UserError(
            f"what was measured on {path.stem} is gone: does another run write to "
            f"{options.parts}? Start again"
        )
    return found


def place() -> tuple[int, int]:
    """Return the rank of this process, and how many there are."""
    words = [
        os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    ]
    if not all(word.isdecimal() for word in words) or int(words[0]) >= int(words[1]):
        found = f"RANK={words[0]} and WORLD_SIZE={words[1]}"
        raise UserError(
            f"RANK must be a whole number from 0 to WORLD_SIZE - 1, and the environment has {found}"
        )
    return int(words[0]), int(words[1])


def meet(point: str = "begun") -> None:
    """Wait until all processes of torchrun, which starts those that die again, are at a point.

    At the beginning, since one that is started again might otherwise find its work done, joined and
    tidied up by the others, and do it once more.
    """
    if by_torchrun():
        store, rank, ranks = next(iter(rendezvous("env://")))
        here = f"{point} {os.environ['TORCHELASTIC_RESTART_COUNT']}"  # one store serves all starts
        store.set(f"{here} {rank}", "")
        store.wait([f"{here} {other}" for other in range(ranks)], timedelta(days=1))


def parts_of(folder: Path) -> Parts:
    """Return part files that this process shares with the others. Where torchrun sees to it that
    all are there, they wait for each other to share more.
    """
    return Parts(folder, *place(), together=meet if by_torchrun() else None)


def by_torchrun() -> bool:
    """Whether torchrun has started this process, and starts all again where one dies."""
    return {"TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR"} <= os.environ.keys()


def _key(options: StudyOptions, path: Path) -> str:
    """What a failure depends on, on every machine: torchrun's name of the run, options and files.
    An older note tells nothing.
    """
    files = [path]
    if options.lr:
        files += [file for file in images.find([options.lr]) if file.stem.startswith(path.stem)]
    sha = hashlib.sha256(os.environ.get("TORCHELASTIC_RUN_ID", "").encode())
    sha.update(repr(options.shared).encode())
    for file in files:
        try:
            sha.update(file.read_bytes())
        except OSError as error:
            sha.update(repr(error.errno).encode())
    return sha.hexdigest()[:16]


def _reason(options: StudyOptions, note: Path, path: Path) -> str | None:
    """What a note says, unless there is none or it is of an earlier run."""
    try:
        key, _, reason = note.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    return reason if key == _key(options, path) else None
