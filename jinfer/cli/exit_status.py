"""The exit statuses of a command."""

import sys

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_READER_GONE = 0, 1, 130, 141


def report_interrupt() -> int:
    """A line on stderr after Ctrl-C, and the exit status."""
    print("jinfer: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED
