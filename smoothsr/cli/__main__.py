"""`python -m smoothsr.cli` is the command `smoothsr`."""

import sys

from smoothsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
