"""The options of a server with its engine, from values by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinfer.config import EngineConfig
from jinfer.errors import ConfigError
from jinfer.options import Option, options_of
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions

SERVER, LIMITS, ENGINE = "server", "limits of requests", "engine"


@dataclass(frozen=True)
class ServeConfig:
    """All options of a server: its own, and those of its engine by name."""

    options: ServerOptions
    limits: ServerLimits
    engine_options: Mapping[str, Any]

    @classmethod
    def from_values(cls, given: Mapping[str, Any]) -> "ServeConfig":
        """The options that are given, and the defaults of the others. Raises ConfigError for an unknown or
        malformed one."""
        groups = option_groups()
        known = {name: option for group in groups.values() for name, option in group.items()}
        for name in given:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}; the options are {', '.join(sorted(known))}")
        values = _defaults(known) | {name: _as_option(known[name], value) for name, value in given.items()}
        chosen = {title: {name: values[name] for name in group} for title, group in groups.items()}
        EngineConfig.from_options(chosen[ENGINE])  # refused here, before a process starts
        return cls(ServerOptions(**chosen[SERVER]), ServerLimits(**chosen[LIMITS]), chosen[ENGINE])


def option_groups() -> dict[str, dict[str, Option]]:
    """The options by the title of their group and their name."""
    return {
        SERVER: {each.name: each for each in options_of(ServerOptions)},
        LIMITS: {each.name: each for each in options_of(ServerLimits)},
        ENGINE: EngineConfig.options(),
    }


def _defaults(known: Mapping[str, Option]) -> dict[str, Any]:
    """The defaults. The engine's own bars are for terminals, and a server's stderr is a log. Sooner or later
    a server is asked for a structured output."""
    defaults = {name: option.default for name, option in known.items()}
    return defaults | {"progress": False, "compile_split_steps": "in_background"}


def _as_option(option: Option, value: Any) -> Any:
    """A list as the tuple that an option of several values is, and a single text as one of them."""
    if not isinstance(option.default, tuple):
        return value
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
