"""Images shared out among the processes of torchrun, which tell each other by files what is done and what failed."""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from smoothsr import images
from smoothsr.commands import FAILURES, UserError, message
from smoothsr.evaluation import Record

__all__ = ["Collect", "Progress", "Work", "parts", "results", "shared"]

Progress = Callable[[], object]
Work = Callable[[Path, Progress], None]
Collect = Callable[[Path], list[Record] | None]


def shared(
    args: argparse.Namespace, paths: Sequence[Path], cells: int, work: Work, collect: Collect
) -> tuple[list[Record], dict[str, str]]:
    """Work on this process's share of the images, of RANK / WORLD_SIZE (torchrun's), then collect what all processes have.

    Args:
        args: The options.
        paths: All images.
        cells: How often work calls its progress for each image.
        work: What to do with an image; if it fails, the others go on.
        collect: Returns an image's records, or None if they are not complete.

    Returns:
        Records of all images, and for each one that failed the reason; nothing while other processes are still working on theirs,
        not even failures, since torchrun would stop the others.
    """
    rank, ranks = _place()
    mine = paths[rank::ranks]
    notes = {path.stem: parts(args) / f"{path.stem}.error" for path in paths}
    inputs = images.find([args.lr]) if args.lr else []
    keys = {path.stem: _key(args, [path, *(file for file in inputs if file.stem.startswith(path.stem))]) for path in paths}
    for path in mine:
        notes[path.stem].unlink(missing_ok=True)
    with tqdm(total=len(mine) * cells, unit="output", disable=None, leave=False) as progress:
        for path in mine:
            progress.set_description(path.stem)
            try:
                work(path, progress.update)
            except FAILURES as error:
                text = f"{keys[path.stem]}\n{message(error)}"
                notes[path.stem].write_text(text, encoding="utf-8", errors="backslashreplace")
    failed = {path.stem: reason for path in paths if (reason := _reason(notes[path.stem], keys[path.stem]))}
    for reason in dict.fromkeys(failed.values()):
        names = [name for name in failed if failed[name] == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"smoothsr: {', '.join(names[:3])}{more}: {reason}", file=sys.stderr)
    records, missing = list[Record](), list[str]()
    for path in [path for path in paths if path.stem not in failed]:
        try:
            found = collect(path)
        except FAILURES:  # the process whose it is will say so
            found = None
        records += found or []
        missing += [] if found else [path.stem]
    if lost := [path.stem for path in mine if path.stem in missing]:
        raise UserError(f"what was measured on {lost[0]} is gone: does another run write to {parts(args)}? Start again")
    if missing:
        print(f"{len(mine)} of {len(paths)} images done here; the process that is last to end writes the table")
        return [], {}
    return records, failed


def parts(args: argparse.Namespace) -> Path:
    """Make the folder from which a run can go on."""
    folder = results(args) / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results(args: argparse.Namespace) -> Path:
    """The folder of the results."""
    return args.output or Path(args.command)


def _place() -> tuple[int, int]:
    """Return the rank of this process, and how many there are."""
    words = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
    if not all(word.isdecimal() for word in words) or int(words[0]) >= int(words[1]):
        raise UserError(f"RANK={words[0]} and WORLD_SIZE={words[1]} in the environment must be a number of 0.. and one above it")
    return int(words[0]), int(words[1])


def _key(args: argparse.Namespace, files: Sequence[Path]) -> str:
    """What a failure depends on, options and files: an earlier run's note says nothing about this one."""
    states = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return hashlib.sha256(repr([sorted(vars(args).items()), states]).encode(errors="backslashreplace")).hexdigest()[:16]


def _reason(note: Path, key: str) -> str | None:
    """What a note says, unless there is none or it is of an earlier run."""
    try:
        found, _, reason = note.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    return reason if found == key else None
