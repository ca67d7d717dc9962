"""BasicSR's test and train pipelines with smoothsr's architecture and models at hand.

The results and experiments folders are made in the current directory.
"""

import argparse
import importlib
import os
import sys

# First of all, in the workers of data loaders too: it mends the import of basicsr.
import smoothsr.adapters.basicsr  # noqa: F401

__all__ = ["main"]


def main() -> None:
    """Take the options of this entry point off the command line and leave the rest to BasicSR,
    which reads it itself.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smoothsr.adapters.basicsr",
        description="Run BasicSR with smoothsr's architecture and models.",
        epilog=(
            "All else goes to BasicSR: -opt FILE.yml, --force_yml KEY:KEY=VALUE ..., --launcher, "
            "--auto_resume, --debug."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("phase", choices=["test", "train"])
    parser.add_argument(
        "--import",
        dest="packages",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import an extension",
    )
    options, sys.argv[1:] = parser.parse_known_args()
    for package in options.packages:
        importlib.import_module(package)
    run = importlib.import_module(f"basicsr.{options.phase}")
    getattr(run, f"{options.phase}_pipeline")(os.getcwd())


if __name__ == "__main__":
    main()
