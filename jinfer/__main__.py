"""`python -m jinfer` is the command `jinfer`."""

import sys

from jinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
