"""The engine process: `python -m jinfer.server.engine_process --fd N`, started by an EngineClient.

It has one connection, the socket N that it inherits, and listens to nothing. The main thread steps the
engine, and sends one message after each step; a thread reads commands. It ends when the connection ends,
which is also how it learns of its front's death, at a Close, and at SIGTERM: what runs is aborted, and the
memory given back.
"""

import argparse
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jinfer.config import EngineConfig
from jinfer.engine.engine import Engine
from jinfer.engine.loop import EngineLoop
from jinfer.errors import EngineError, JinferError
from jinfer.requests.request_rules import RulesFactory
from jinfer.server.command_reader import CommandReader, MessageStream
from jinfer.server.engine_outbox import EngineOutbox
from jinfer.server.frames import SocketWriter
from jinfer.server.garbage import collect_rarely
from jinfer.server.log_format import JsonFormatter
from jinfer.server.model_info import model_info
from jinfer.server.served_engine import ModelInfo
from jinfer.server.wire import (
    PROTOCOL,
    EngineSpec,
    Fatal,
    Hello,
    Ready,
    Starting,
    ToFront,
    check_protocol,
    encode,
)
from jinfer.startup import start_engine

logger = logging.getLogger(__name__)

EXIT_CLOSED, EXIT_FAILED = 0, 1


@dataclass(frozen=True)
class StartedEngine:
    """An engine, what the front needs to know of it, what makes the rules of its requests, and the function
    that gives back what is left when it is closed."""

    engine: Engine
    info: ModelInfo
    rules: RulesFactory
    give_back: Callable[[], None]


EngineStarter = Callable[[EngineSpec], StartedEngine]


def serve(connection: socket.socket, start: EngineStarter, *, exit_now: Callable[[], None]) -> int:
    """Starts an engine and serves it over a connection until that ends, in this thread and another. Gives the
    exit status.

    `exit_now` leaves the process where nothing can be ended in order; see CommandReader.
    """
    writer = SocketWriter(connection)
    send = functools.partial(_send, writer)
    try:
        messages = MessageStream(connection)
        send(Hello(PROTOCOL))
        check_protocol(next(messages))
        request = next(messages)
        if not isinstance(request, EngineSpec):
            raise EngineError(f"{type(request).__name__} came where EngineSpec was expected")
        reader = CommandReader(messages, exit_now)
        reader.start()
        with _told_progress(send):
            started = start(request)
        return _run(started, reader, writer)
    except StopIteration:
        return EXIT_FAILED  # the front is gone
    except Exception as error:
        _report(error, writer)
        return EXIT_FAILED


def _run(started: StartedEngine, reader: CommandReader, writer: SocketWriter) -> int:
    loop = EngineLoop(started.engine, started.give_back)
    outbox = EngineOutbox(started.engine)
    try:
        reader.attach(loop, outbox, started.rules)
        _send(writer, Ready(started.info, started.engine.stats()))
        loop.run(functools.partial(_after_turn, loop, started.engine, outbox, writer))
    finally:
        loop.close()
        reader.detach()
    return EXIT_CLOSED


def _after_turn(loop: EngineLoop, engine: Engine, outbox: EngineOutbox, writer: SocketWriter) -> None:
    """Sends what a step brought. Raises EngineError where the front does not read it, or the engine cannot go
    on."""
    for message in outbox.take():
        _send(writer, message)
    if loop.failure is not None:
        raise EngineError(loop.failure)
    if not engine.has_work:
        writer.drain()


def _send(writer: SocketWriter, message: ToFront) -> None:
    writer.send(encode(message))


def _report(error: Exception, writer: SocketWriter) -> None:
    """Tells the front why the process ends, and the log whatever jinfer did not expect."""
    is_expected = isinstance(error, JinferError)
    logger.error("the engine process ends: %s", error, exc_info=None if is_expected else error)
    reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
    with contextlib.suppress(EngineError):  # where it is the front that is gone
        _send(writer, Fatal(type(error).__name__ if is_expected else "EngineError", reason))
        writer.drain()


@contextlib.contextmanager
def _told_progress(send: Callable[[ToFront], None]) -> Iterator[None]:
    """Sends what jinfer logs in this block to the front, line by line."""
    handler = _ProgressHandler(send)
    root = logging.getLogger("jinfer")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _ProgressHandler(logging.Handler):
    def __init__(self, send: Callable[[ToFront], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(EngineError):  # the thread that reads commands sees that the front is gone
            self._send(Starting(record.getMessage()))


def start_real_engine(message: EngineSpec) -> StartedEngine:
    """Starts the engine of a model. Raises ConfigError and ModelError, as `LLM` does."""
    config = EngineConfig.from_options(message.options)
    parts = start_engine(message.model, config, tokenizer=message.tokenizer)
    return StartedEngine(parts.engine, model_info(parts), parts.requests.rules, parts.give_back)


def _start_alone(message: EngineSpec) -> StartedEngine:
    """Starts the engine of a model in a process that has nothing else to do."""
    if message.log_format == "json":  # in text its lines have no head
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    started = start_real_engine(message)
    collect_rarely()
    return started


def _stop_reading(connection: socket.socket) -> None:
    """Ends the process as if the front had left."""
    with contextlib.suppress(OSError):  # it has
        connection.shutdown(socket.SHUT_RD)


def main(arguments: list[str]) -> int:
    """Runs the process. Its standard output is its standard error: nothing but messages may come from it."""
    parser = argparse.ArgumentParser(prog="python -m jinfer.server.engine_process", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the connected socket to the front")
    connection = socket.socket(fileno=parser.parse_args(arguments).fd)
    connection.set_inheritable(False)  # else a child of this process would keep it open
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)  # an import may have had its own
    logging.getLogger("jinfer").setLevel(logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the front decides
    signal.signal(signal.SIGTERM, lambda *_: _stop_reading(connection))
    return serve(connection, _start_alone, exit_now=lambda: os._exit(EXIT_FAILED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
