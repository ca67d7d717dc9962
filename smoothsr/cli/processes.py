"""Images shared out among the processes of torchrun, which tell each other by files what is done
and what failed.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from smoothsr.cli.errors import FAILURES, UserError, message
from smoothsr.evaluation.study import Record
from smoothsr.files import images

__all__ = ["Collect", "Progress", "Work", "parts", "results", "shared"]

Progress = Callable[[], object]
Work = Callable[[Path, Progress], None]
Collect = Callable[[Path], list[Record] | None]


def shared(
    args: argparse.Namespace, paths: Sequence[Path], cells: int, work: Work, collect: Collect
) -> tuple[list[Record], dict[str, str]]:
    """Work on this process's share of the images, of RANK / WORLD_SIZE (torchrun's), then collect
    what all processes have.

    Args:
        args: The options.
        paths: All images.
        cells: How often work calls its progress for each image.
        work: What to do with an image; if it fails, the others go on.
        collect: Returns an image's records, or None if they are not complete.

    Returns:
        Records of all images, and for each one that failed the reason; nothing while other
        processes are still working on theirs, not even failures, since torchrun would stop the
        others.
    """
    rank, ranks = _place()
    mine = paths[rank::ranks]
    notes = {path.stem: parts(args) / f"{path.stem}.error" for path in paths}
    for path in mine:
        notes[path.stem].unlink(missing_ok=True)
    with tqdm(total=len(mine) * cells, unit="output", disable=None, leave=False) as progress:
        for path in mine:
            progress.set_description(path.stem)
            try:
                work(path, progress.update)
            except FAILURES as error:
                text = f"{_key(args, path)}\n{message(error)}"
                notes[path.stem].write_text(text, encoding="utf-8", errors="backslashreplace")
    failed = {
        path.stem: reason for path in paths if (reason := _reason(args, notes[path.stem], path))
    }
    for reason in dict.fromkeys(failed.values()):
        names = [name for name in failed if failed[name] == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"smoothsr: {', '.join(names[:3])}{more}: {reason}", file=sys.stderr)
    records = list[Record]()
    for path in [path for path in paths if path.stem not in failed]:
        try:
            found = collect(path)
        except FAILURES:
            if path in mine:
                raise
            found = None  # the process whose it is will say why
        if not found and path in mine:
            raise UserError(
                f"what was measured on {path.stem} is gone: does another run write to "
                f"{parts(args)}? Start again"
            )
        if not found:
            print(
                f"{len(mine)} of {len(paths)} images done here; the process that is last to "
                "end writes the table"
            )
            return [], {}
        records += found
    if not records and (old := results(args) / f"{args.command}.md").exists():
        print(f"smoothsr: {old} is of an earlier run: no image could be measured", file=sys.stderr)
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
    words = [
        os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    ]
    if not all(word.isdecimal() for word in words) or int(words[0]) >= int(words[1]):
        found = f"RANK={words[0]} and WORLD_SIZE={words[1]}"
        raise UserError(
            f"RANK must be a whole number from 0 to WORLD_SIZE - 1, and the environment has {found}"
        )
    return int(words[0]), int(words[1])


def _key(args: argparse.Namespace, path: Path) -> str:
    """What a failure depends on, on every machine: torchrun's name of the run, options and files.
    An older note tells nothing.
    """
    here = (
        "output",
        "device",
        "hr",
        "lr",
        "model",
        "lpips_weights",
    )  # which may have other names elsewhere
    inputs = (
        [file for file in images.find([args.lr]) if file.stem.startswith(path.stem)]
        if args.lr
        else []
    )
    sha = hashlib.sha256(os.environ.get("TORCHELASTIC_RUN_ID", "").encode())
    sha.update(
        repr(
            sorted((name, value) for name, value in vars(args).items() if name not in here)
        ).encode()
    )
    for file in (path, *inputs):
        try:
            sha.update(file.read_bytes())
        except OSError as error:
            sha.update(repr(error.errno).encode())
    return sha.hexdigest()[:16]


def _reason(args: argparse.Namespace, note: Path, path: Path) -> str | None:
    """What a note says, unless there is none or it is of an earlier run."""
    try:
        key, _, reason = note.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    return reason if key == _key(args, path) else None
