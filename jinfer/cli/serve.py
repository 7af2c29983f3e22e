"""`jinfer serve`."""

import argparse
import importlib.util
from typing import Any

from jinfer.cli.config_file import read_config_file
from jinfer.cli.options import add_options
from jinfer.errors import ConfigError
from jinfer.server.serve_config import ServeConfig, option_groups

EXTRA = ("fastapi", "uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client", "yaml")
HELP = "serve a model over HTTP, as OpenAI's API"


def add_serve(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("serve", help=HELP, description=_serve.__doc__)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="options by name; those of the command line come before them"
    )
    for title, options in option_groups().items():
        add_options(parser.add_argument_group(title), options.values(), only_given=True)
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    """Serves one model to any number of clients, until SIGTERM or Ctrl-C."""
    _check_extra()
    from jinfer.server.serve import serve  # which needs it

    known = {name for group in option_groups().values() for name in group}
    from_file = {} if options.config is None else read_config_file(options.config, known)
    given = {name: getattr(options, name) for name in known if hasattr(options, name)}
    return serve(ServeConfig.from_values({**from_file, **given}))


def _check_extra() -> None:
    """Raises ConfigError where a package of the extra is missing."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"jinfer serve needs packages that are not installed ({', '.join(missing)}): "
            'pip install "jinfer[serve]"'
        )
