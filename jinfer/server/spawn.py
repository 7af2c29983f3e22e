"""The engine process as its parent sees it: how it is started, how it is ended, and how it ended."""

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process

from jinfer.child_environment import child_environment

CLOSE_S = 15.0
TERMINATE_S = 5.0


async def spawn_engine() -> tuple[Process, socket.socket]:
    """Starts an engine process, with this side of its one connection. It writes to this process's stderr."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # not to import from whatever folder the server was started in
            "-m",
            "jinfer.server.engine_process",
            "--fd",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=DEVNULL,
            env=child_environment(),
        )
    ours.setblocking(False)
    return process, ours


async def end_process(process: Process, *, close_s: float = CLOSE_S) -> None:
    """Waits for a process that was asked to end. One that takes too long gets SIGTERM, and then SIGKILL."""
    for patience_s, end in ((close_s, process.terminate), (TERMINATE_S, process.kill)):
        try:
            await asyncio.wait_for(process.wait(), patience_s)
            return
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                end()
    await process.wait()


def described_exit(status: int) -> str:
    """The end of a process in words, by its status: negative ones are signals."""
    if status >= 0:
        return f"it ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    out_of_memory = " (by the system, perhaps, for want of memory)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{out_of_memory}"
