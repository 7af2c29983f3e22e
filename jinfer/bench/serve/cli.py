"""The command `jinfer bench serve`. What it needs beyond inference is imported when it runs."""

import argparse
from typing import Any

from jinfer.bench.serve.options import add_serve_options
from jinfer.errors import ConfigError

ABOUT = "load on an OpenAI-compatible server: TTFT, ITL, TPOT, goodput"


def add_serve(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "serve", help=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter, description=ABOUT
    )
    add_serve_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        import aiohttp  # noqa: F401  # an extra
    except ImportError as error:
        raise ConfigError("jinfer bench serve needs aiohttp: pip install 'jinfer[bench]'") from error
    from jinfer.bench.serve.command import run_serve

    return run_serve(options)
