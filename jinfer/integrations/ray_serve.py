"""Replicas of a served model under Ray Serve.

    serve run jinfer.integrations.ray_serve:build model=Qwen/Qwen3-8B num_replicas=2

Ray listens, chooses a replica for each request, and starts another in place of one that is not healthy. A
replica is the app of `jinfer serve` with an engine process of its own.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from jinfer.errors import ConfigError, OverloadedError
from jinfer.options import check_options, option, options_of
from jinfer.server.assembly import api_keys, build_app
from jinfer.server.log_format import set_log_format
from jinfer.server.serve import start_supervised
from jinfer.server.serve_config import ServeConfig
from jinfer.server.spawn import CLOSE_S, TERMINATE_S

OF_RAY = {"host": "http_options.host", "port": "http_options.port"}
BY_SESSION = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
MAX_ONGOING_REQUESTS = 4096  # of a replica, past which Ray holds requests back; the engine has its own line


@dataclass(frozen=True)
class ReplicaOptions:
    """The replicas. Raises ConfigError for a malformed option."""

    num_replicas: int = option(1, help="replicas; default 1")
    num_gpus: int = option(1, minimum=0, help="GPUs of each replica; default 1")
    session_affinity: bool = option(
        False, help="send requests with one x-session-id to one replica; default: to one of the least busy"
    )

    def __post_init__(self) -> None:
        check_options(self)


class Replica:
    """An engine process, and the app in front of it, which Ray calls in its event loop."""

    async def __init__(self, options: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        """Starts the engine, and waits until it takes requests. Raises ConfigError and ModelError for what
        cannot be served, and EngineError where the process dies."""
        config = ServeConfig.from_values(options)
        _log_to_stderr(config.options.log_format)
        self._engine = await start_supervised(config)
        self._app, self._service = build_app(self._engine, config.options, config.limits)
        self._service.prepare()

    def __serve_build_asgi_app__(self) -> Any:
        """The app, as Ray asks for it."""
        return self._app

    async def check_health(self) -> None:
        """Raises EngineError where the engine is dead or does not answer, so that Ray starts another replica.
        An engine that `restart_engine` starts again is no reason for that."""
        with contextlib.suppress(OverloadedError):
            await self._engine.heartbeat()

    async def __del__(self) -> None:
        """Ends the engine. Ray has waited for the requests before."""
        if hasattr(self, "_engine"):  # else it did not start
            self._service.close()
            await self._engine.close()


def build(arguments: Mapping[str, Any]) -> Application:
    """The application for `serve run`, `serve.run` or a configuration file of Ray Serve.

    arguments: the options of `jinfer serve` and of ReplicaOptions by name, dashes as good as underscores;
    texts, as a command line gives them, are read as YAML. `grace_s` is the time that Ray gives running
    requests at a replica's end. A key in JINFER_API_KEY is that of the process that calls this.

    Raises ConfigError for an unknown or malformed option.
    """
    given = {str(name).replace("-", "_"): _value(value) for name, value in arguments.items()}
    for name, remedy in OF_RAY.items():
        if name in given:
            raise ConfigError(f"{name} is Ray's to choose; leave it out, and give {remedy} to Ray Serve")
    names = [each.name for each in options_of(ReplicaOptions)]
    replicas = ReplicaOptions(**{name: given.pop(name) for name in names if name in given})
    options = ServeConfig.from_values(given).options  # refused here, before a replica starts
    given["api_key"] = api_keys(options, os.environ)
    router: dict[str, Any] = {"request_router_class": BY_SESSION} if replicas.session_affinity else {}
    deployment = serve.deployment(
        name="jinfer",
        num_replicas=replicas.num_replicas,
        ray_actor_options={"num_gpus": replicas.num_gpus},
        graceful_shutdown_timeout_s=options.grace_s + CLOSE_S + TERMINATE_S,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        request_router_config=RequestRouterConfig(**router),
    )
    return deployment(serve.ingress()(Replica)).bind(given)


def _value(value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _log_to_stderr(log_format: str) -> None:
    """Ray collects a replica's stderr."""
    logger = logging.getLogger("jinfer")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO)
    set_log_format(log_format)
