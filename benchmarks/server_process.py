"""`jinfer serve` as a process of its own: its address, its log, its memory and its end. Linux alone."""

import collections
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ENGINE_MODULE = "jinfer.server.engine_process"
FAILURE = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback ")
ADDRESS = re.compile(r"address +(http://\S+)/v1")
MODEL = re.compile(r"model +.* \(\w+, (?P<dtype>\w+)\) on ")
CONTEXT = re.compile(r"context +(?P<length>\d+) tokens, (?P<rows>\d+) sequences at a time")
MAX_KEPT_LINES = 200
END_S = 120.0


class ServerError(Exception):
    """A server did not start, or did not end; the message has the end of its log."""


class ServerProcess:
    """A server on a free port. Made by `running_server`.

    - `url`: its address, such as http://127.0.0.1:41234.
    - `dtype`, `max_model_len`, `max_num_seqs`: as its banner says.
    - `failures`: the lines of its log that tell of an error, after the banner.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jinfer", "serve", *words], stderr=subprocess.PIPE, text=True
        )
        self.failures: list[str] = []
        self._log: collections.deque[str] = collections.deque(maxlen=MAX_KEPT_LINES)
        self._has_banner = threading.Event()  # or has ended without one
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self._has_banner.wait()
        banner = self.log
        address, model, context = (pattern.search(banner) for pattern in (ADDRESS, MODEL, CONTEXT))
        if address is None or model is None or context is None:
            self.end()
            raise ServerError(f"the server did not start:\n{self.log}")
        self.url, self.dtype = address[1], model["dtype"]
        self.max_model_len, self.max_num_seqs = int(context["length"]), int(context["rows"])

    @property
    def log(self) -> str:
        """The last lines of the log."""
        return "".join(tuple(self._log))

    def resident_mib(self) -> dict[str, float]:
        """The resident memory of the front, of the engine, and of all other processes of the server, in
        MiB."""
        memory = {"front": _resident_mib(self._process.pid), "engine": 0.0, "others": 0.0}
        for pid in _descendants(self._process.pid):
            memory["engine" if ENGINE_MODULE in _command(pid) else "others"] += _resident_mib(pid)
        return {name: round(mib, 1) for name, mib in memory.items()}

    def end(self) -> int:
        """Ends the server by SIGTERM, and gives its status. May be repeated. Raises ServerError where it does
        not end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise ServerError(
                f"the server has not ended {END_S:g} s after SIGTERM, and was killed:\n{self.log}"
            ) from error
        self._reading.join(END_S)
        return status

    def _read(self) -> None:
        """Reads the log to its end, whoever looks at it: a full pipe would stop the server."""
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if self._has_banner.is_set() and FAILURE.search(line):
                    self.failures.append(line.rstrip())
                if ADDRESS.search(line):
                    self._has_banner.set()
        self._has_banner.set()


@contextlib.contextmanager
def running_server(options: Mapping[str, Any]) -> Iterator[ServerProcess]:
    """Serves on a free port until the block ends. `options` are those of `jinfer serve`, by name. Raises
    ServerError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="jinfer-server-") as directory:
        file = Path(directory) / "options.yaml"
        file.write_text(json.dumps({"port": 0, **options}))  # JSON is YAML
        server = ServerProcess(["--config", str(file)])
    try:
        yield server
    finally:
        server.end()


def model_options(model: str | None, config: Path | None) -> dict[str, Any]:
    """Options of a server for a checkpoint (None: the demo model), or for a config.json and random
    weights."""
    if config is not None:
        return {"model": str(config), "dummy_weights": True}
    return {} if model is None else {"model": model}


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _read_gone(task).split()):
            yield child
            yield from _descendants(child)


def _command(pid: int) -> str:
    return _read_gone(Path(f"/proc/{pid}/cmdline"))


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", _read_gone(Path(f"/proc/{pid}/status")))
    return int(found[1]) / 1024 if found else 0.0


def _read_gone(file: Path) -> str:
    """The text of a file of /proc; '' where the process has ended meanwhile."""
    try:
        return file.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
