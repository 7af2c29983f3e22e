"""The command line. Results go to stdout and nothing else does; progress, figures and errors go to stderr."""

from collections.abc import Sequence

from jinfer.cli.exit_status import report_interrupt

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; see `jinfer.cli.command.main`.

    The commands are imported here and not with this module: that takes seconds, in which Ctrl-C ends the
    command without a traceback, as it does later.
    """
    try:
        from jinfer.cli import command
    except KeyboardInterrupt:
        return report_interrupt()
    return command.main(arguments)
