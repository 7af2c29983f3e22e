"""`jinfer COMMAND`: reads the words, runs the command, and reports how it ended."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence

from jinfer.bench.cli import add_bench
from jinfer.cli.chat import add_chat
from jinfer.cli.convert import add_convert
from jinfer.cli.eval import add_eval
from jinfer.cli.exit_status import EXIT_ERROR, EXIT_READER_GONE, report_interrupt
from jinfer.cli.generate import add_generate
from jinfer.cli.options import add_engine_options, engine_options
from jinfer.cli.serve import add_serve
from jinfer.cli.streams import ReaderGoneError, command_streams
from jinfer.errors import JinferError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 for an error that was reported, 130 after an
    interrupt, and 141, a shell's status for SIGPIPE, when stdout has no reader any more. Raises SystemExit
    for --help and for words that are no command, as argparse does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with command_streams():
        return _run_reporting_errors(words)


def _run_reporting_errors(words: Sequence[str]) -> int:
    try:
        options = _parser().parse_args(words, argparse.Namespace(words=words))
        with _messages_on_stderr():
            return options.run(options)
    except (JinferError, OSError) as error:  # an OSError names the file
        print(f"jinfer: error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except ReaderGoneError:
        return EXIT_READER_GONE
    except KeyboardInterrupt:
        return report_interrupt()


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Prints jinfer's log on stderr, and restores logging at the end, because a program may call main()."""
    logger, handler = logging.getLogger("jinfer"), logging.StreamHandler(sys.stderr)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jinfer", description="Large language models in JAX on NVIDIA GPUs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_chat(commands)
    add_serve(commands)
    bench = commands.add_parser("bench", help="measure an engine beside the machine's limits")
    add_bench(bench, add_engine_options, engine_options)
    add_eval(commands)
    add_convert(commands)
    return parser
