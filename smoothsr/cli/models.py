"""`smoothsr models`: list what can be loaded, or tell what files are."""

import argparse
import sys

from smoothsr import adapters
from smoothsr.cli.errors import message
from smoothsr.cli.loading import load_frozen


def run(args: argparse.Namespace) -> int:
    """List what can be loaded, or tell what files are."""
    failed = 0
    if not args.file:
        found = adapters.available()
        lines = [(spec.replace("arch=", "--arch "), what, extra) for spec, what, extra in found]
        widths = [max(len(line[column]) for line in lines) for column in range(2)]
        for spec, what, extra in lines:
            needs = f'needs, in a clone, pip install ".[{extra}]"' if extra else ""
            print(f"{spec:{widths[0]}}  {what:{widths[1]}}  {needs}".rstrip())
    for spec in args.file:
        try:
            loaded = load_frozen(spec, args.arch, args.scale)
            count = sum(parameter.numel() for parameter in loaded.model.parameters())
            print(
                f"{spec}: {loaded.name}, x{loaded.scale}, {loaded.channels} channels, "
                f"{count:,} parameters, values up to {loaded.value_range:g}"
            )
        except (ValueError, OSError, ImportError) as error:
            failed += 1
            print(f"smoothsr: {message(error)}", file=sys.stderr)
    return 2 if failed else 0
