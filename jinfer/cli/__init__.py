"""The command line. Results go to stdout and nothing else does; progress, figures and errors go to stderr."""

from jinfer.cli.command import main

__all__ = ["main"]
