"""A server in a thread of the test's process, over an engine of this process or a stand-in for one."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from jinfer.server.assembly import build_server
from jinfer.server.http_server import HttpServer, bind, url_of
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions
from jinfer.server.served_engine import ServedEngine
from tests.server.http.scripted_engine import WAIT_S


@dataclass
class RunningServer:
    """The address of a server, and the server for what no client can do."""

    url: str
    server: HttpServer
    event_loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def end(self) -> None:
        """What a signal does."""
        self.event_loop.call_soon_threadsafe(self.server.end)

    def wait_for_end(self) -> None:
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running_server(
    engine: ServedEngine, options: ServerOptions | None = None, limits: ServerLimits | None = None
) -> Iterator[RunningServer]:
    """Serves on a free port until the block ends."""
    server = build_server(engine, options or ServerOptions(grace_s=0), limits or ServerLimits())
    bound = bind("127.0.0.1", 0)
    event_loop = uvloop.new_event_loop()
    thread = threading.Thread(
        target=lambda: event_loop.run_until_complete(server.serve([bound])), daemon=True
    )
    running = RunningServer(url_of(bound), server, event_loop, thread)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield running
    finally:
        if thread.is_alive():
            running.end()
        running.wait_for_end()
        event_loop.close()


def _wait_until_started(server: HttpServer, thread: threading.Thread) -> None:
    pause = threading.Event()
    while not server.started:
        assert thread.is_alive(), "the server ended at its start"
        pause.wait(0.01)
