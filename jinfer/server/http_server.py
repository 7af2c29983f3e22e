"""uvicorn around the app: its socket, and its end."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from jinfer.errors import ConfigError, EngineError, OverloadedError
from jinfer.server.generation_service import GenerationService
from jinfer.server.http_protocol import bounded_protocol
from jinfer.server.limits import ServerLimits

logger = logging.getLogger(__name__)
BACKLOG = 2048
CLOSING_TIME_S = 5  # for answers to reach their readers, when nothing generates any more
KEEP_ALIVE_S = (
    75  # longer than proxies keep theirs, so that they close first and no request meets a closed one
)
CHECK_INTERVAL_S = 0.2


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Port 0 picks one. Raises ConfigError where the
    address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host={host!r} is no address of this machine ({error}); give another") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"port {port} of {host} cannot be had ({error.strerror or error}); give another --port, or 0 "
            "for a free one"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address at which a server on the socket is reached from this machine."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, or until the engine is dead.

    The first signal lets what runs go on for `grace_s`, while new requests are refused with 503; then, or at
    the second signal, what is left is aborted. The end takes CLOSING_TIME_S more at most.
    """

    def __init__(self, app: Any, service: GenerationService, *, limits: ServerLimits, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=CLOSING_TIME_S,
            )
        )
        self._service = service
        self._grace_s = grace_s
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task[None] | None = None
        self._when_started: Callable[[], None] | None = None
        self.failure: str | None = None  # why the engine is dead

    async def serve(
        self, sockets: list[socket.socket] | None = None, *, when_started: Callable[[], None] | None = None
    ) -> None:
        """Serves on bound sockets, until the end. `when_started` is called once connections are taken, and
        signals obeyed."""
        self._when_started = when_started
        self._event_loop = asyncio.get_running_loop()
        self._service.prepare()
        watcher = asyncio.create_task(self._watch_engine())
        try:
            await super().serve(sockets)
        finally:
            watcher.cancel()
            if self._ending is not None:
                self._ending.cancel()
            self._service.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen. uvicorn calls it within `serve`."""
        await super().startup(sockets)
        if self._when_started is not None:
            self._when_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end, or hastens it. uvicorn calls it as a signal's handler."""
        assert self._event_loop is not None
        self._event_loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Begins the end, or hastens it. To be called in the event loop."""
        if self._ending is None:
            logger.info(
                "shutting down: %d requests have %g s to end", self._service.num_active, self._grace_s
            )
            self._service.drain(self._grace_s)
            self._ending = asyncio.create_task(self._end_within(self._grace_s))
        else:
            self._stop()

    async def _end_within(self, grace_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._service.num_active:
                    await asyncio.sleep(CHECK_INTERVAL_S / 4)
        self._stop()

    def _stop(self) -> None:
        if self._service.num_active:
            logger.warning("aborting %d requests", self._service.num_active)
            self._service.abort_all()
        self.should_exit = True

    async def _watch_engine(self) -> None:
        """Ends the server once the engine is dead. One that is about to start again is not."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                self._service.engine.check_open()
            except OverloadedError:
                continue
            except EngineError as error:
                if self._ending is None:
                    self.failure = str(error)
                    self._service.drain(0)
                    self._stop()
                return
