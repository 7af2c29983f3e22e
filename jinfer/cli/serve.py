"""`jinfer serve`."""

import argparse
import importlib.util
from collections.abc import Mapping
from typing import Any

from jinfer.cli.config_file import read_config_file
from jinfer.cli.options import add_options
from jinfer.config import EngineConfig
from jinfer.errors import ConfigError
from jinfer.options import Option, options_of
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions

EXTRA = ("fastapi", "uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client", "yaml")
HELP = "serve a model over HTTP, as OpenAI's API"


def add_serve(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("serve", help=HELP, description=_serve.__doc__)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="options by name; those of the command line come before them"
    )
    for title, options in _groups().items():
        add_options(parser.add_argument_group(title), options.values(), only_given=True)
    parser.set_defaults(run=_serve)


def _groups() -> dict[str, dict[str, Option]]:
    """The options by group and name."""
    return {
        "server": {each.name: each for each in options_of(ServerOptions)},
        "limits of requests": {each.name: each for each in options_of(ServerLimits)},
        "engine": EngineConfig.options(),
    }


def _serve(options: argparse.Namespace) -> int:
    """Serves one model to any number of clients, until SIGTERM or Ctrl-C."""
    _check_extra()
    from jinfer.server.serve import ServeConfig, serve  # which needs it

    groups = _groups()
    known = {name: option for group in groups.values() for name, option in group.items()}
    from_file = {} if options.config is None else read_config_file(options.config, known)
    given = {**from_file, **{name: getattr(options, name) for name in known if hasattr(options, name)}}
    values = _defaults(known) | {name: _as_option(known[name], value) for name, value in given.items()}
    chosen = {title: {name: values[name] for name in group} for title, group in groups.items()}
    EngineConfig.from_options(chosen["engine"])  # refused here, before a process starts
    return serve(
        ServeConfig(
            options=ServerOptions(**chosen["server"]),
            limits=ServerLimits(**chosen["limits of requests"]),
            engine_options=chosen["engine"],
        )
    )


def _defaults(known: Mapping[str, Option]) -> dict[str, Any]:
    """The defaults. The engine's own bars are for terminals, and a server's stderr is a log. No request of a
    server waits for programs to be compiled."""
    defaults = {name: option.default for name, option in known.items()}
    return defaults | {"progress": False, "compile_split_steps": True}


def _as_option(option: Option, value: Any) -> Any:
    """A list as the tuple that an option of several values is, and a single text as one of them."""
    if not isinstance(option.default, tuple):
        return value
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _check_extra() -> None:
    """Raises ConfigError where a package of the extra is missing."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"jinfer serve needs packages that are not installed ({', '.join(missing)}): "
            'pip install "jinfer[serve]"'
        )
