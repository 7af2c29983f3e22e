"""`jinfer serve`: an engine process, and the HTTP server in front of it."""

import contextlib
import functools
import logging
import resource
import socket
import sys

import uvloop

from jinfer.server.assembly import banner, build_server
from jinfer.server.engine_client import EngineClient, EngineSpec
from jinfer.server.garbage import collect_rarely
from jinfer.server.http_server import bind
from jinfer.server.log_format import set_log_format
from jinfer.server.options import LogFormat
from jinfer.server.serve_config import ServeConfig
from jinfer.server.supervisor import RestartPolicy, Supervisor
from jinfer.server.waiting_line import QueueLimits

logger = logging.getLogger(__name__)
EXIT_OK, EXIT_ERROR = 0, 1


def serve(config: ServeConfig) -> int:
    """Serves until a signal or the death of the engine, and returns the exit status. Raises ConfigError and
    ModelError for what cannot be served."""
    set_log_format(config.options.log_format)
    _allow_many_connections()
    with contextlib.closing(bind(config.options.host, config.options.port)) as bound:
        return uvloop.run(_serve(config, bound))


async def _serve(config: ServeConfig, bound: socket.socket) -> int:
    options, engine = config.options, await start_supervised(config)
    try:
        server = build_server(engine, options, config.limits)
        lines = banner(engine.info, options, bound)
        collect_rarely()
        await server.serve([bound], when_started=lambda: _show(lines, options.log_format))
    finally:
        await engine.close()
    if server.failure is not None:
        logger.error("the server ends with its engine: %s", server.failure)
    return EXIT_OK if server.failure is None else EXIT_ERROR


def _show(lines: str, log_format: LogFormat) -> None:
    """Prints the banner, or logs it as one object where all lines are objects."""
    if log_format == "json":
        logger.info("%s", lines)
    else:
        print(lines, file=sys.stderr, flush=True)


async def start_supervised(config: ServeConfig) -> Supervisor:
    """Starts the engine process of a server, and waits until it takes requests. Raises ConfigError and
    ModelError for what cannot be served, and EngineError where the process dies."""
    options = config.options
    spec = EngineSpec(options.model, options.tokenizer, config.engine_options, options.log_format)
    queue_limits = QueueLimits(options.max_queued_requests, options.max_queued_tokens)
    return await Supervisor.start(
        spec,
        policy=RestartPolicy() if options.restart_engine else None,
        start_client=functools.partial(EngineClient.start, queue_limits=queue_limits),
    )


def _allow_many_connections() -> None:
    """Raises the bound to open files, of which each connection is one, from the usual 1,024 to what the
    system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
