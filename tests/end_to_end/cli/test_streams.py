"""What the command line does where stdout or stderr cannot take what it writes."""

import contextlib
import errno
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jinfer import LLM, cli
from jinfer.cli import generate as command
from tests.end_to_end.cli.helpers import (
    ENGINE,
    GREEDY,
    GREEDY_OPTIONS,
    REPOSITORY,
    Failing,
    new_environment,
    wrapped,
)

TEXT = "the cat, 猫, sat: é 😀"
ENCODINGS = ("ascii", "cp1252", "utf-16", "utf-8")
READER_GONE, FAILED, INTERRUPTED = 141, 1, 130
SECONDS = 120  # nothing takes so long that does not hang


class Ended(NamedTuple):
    status: int
    stderr: str
    has_started: bool

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("jinfer: ")]


@pytest.fixture
def completion(llm) -> str:
    return llm.generate(TEXT, **GREEDY_OPTIONS)[0].text


@pytest.fixture
def start(directory, capsys, monkeypatch) -> Callable[..., Ended]:
    """`jinfer generate` of TEXT to a stdout, or with a stderr, of its own."""

    def start(*words: str, **streams: Any) -> Ended:
        llms: list[Any] = []
        make = command.LLM

        def kept(*given: Any, **options: Any) -> Any:
            llms.append(make(*given, **options))
            return llms[-1]

        monkeypatch.setattr(command, "LLM", kept)
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        status = cli.main(["generate", "--model", str(directory), *ENGINE, "--prompt", TEXT, *GREEDY, *words])
        for stream in streams.values():
            if stream is not None and not stream.closed:
                stream.flush()  # as Python does at its end: nothing is left that would fail once more
        assert all("closed" in repr(llm) for llm in llms if isinstance(llm, LLM))
        return Ended(status, capsys.readouterr().err, bool(llms))

    return start


@pytest.fixture
def generate(start, lend, llm) -> Callable[..., Ended]:
    """The same with the LLM that the tests share, which it must leave idle."""
    lend(llm)
    return start


def escaped(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def opened(kind: str, file: Path) -> Iterator[io.TextIOWrapper | None]:
    """A stream that cannot be written."""
    if kind == "absent":
        yield None
        return
    with contextlib.ExitStack() as stack:
        if kind == "without a reader":
            read, descriptor = os.pipe()
            os.close(read)
        elif kind == "a terminal that is gone":
            terminal, descriptor = pty.openpty()
            os.close(terminal)
        elif kind == "for reading":
            file.touch()
            descriptor = os.open(file, os.O_RDONLY)
        else:
            descriptor = os.open("/dev/full" if kind == "full" else os.devnull, os.O_WRONLY)
        stream = stack.enter_context(open(descriptor, "w", encoding="utf-8"))
        if kind == "closed":
            stream.close()
        yield stream


class TestEncodings:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_text_has_escapes_for_what_the_encoding_lacks(self, generate, completion, tmp_path, encoding):
        with open(tmp_path / "out", "w", encoding=encoding) as stdout:
            assert generate("--echo", stdout=stdout).status == 0

        assert (tmp_path / "out").read_bytes().decode(encoding) == escaped(TEXT + completion, encoding)

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_json_is_the_same_in_every_encoding(self, generate, completion, tmp_path, encoding):
        with open(tmp_path / "out", "w", encoding=encoding) as stdout:
            assert generate("--json", stdout=stdout).status == 0

        written = (tmp_path / "out").read_bytes().decode(encoding)
        printed = json.loads(written)
        assert (printed["prompt"], printed["text"]) == (TEXT, completion)
        assert ("😀" in written) == encoding.startswith("utf")

    def test_what_the_stream_does_with_such_characters_is_left_to_it(self, generate, completion, tmp_path):
        with open(tmp_path / "out", "w", encoding="ascii", errors="replace") as stdout:
            assert generate("--echo", stdout=stdout).status == 0

        assert (tmp_path / "out").read_text() == (TEXT + completion).encode("ascii", "replace").decode()

    def test_the_c_locale(self, generate, completion, tmp_path):
        """Python opens stdout so for LC_ALL=C without its UTF-8 mode."""
        with open(tmp_path / "out", "w", encoding="ascii", errors="surrogateescape") as stdout:
            assert generate("--echo", stdout=stdout).status == 0

        assert (tmp_path / "out").read_text() == escaped(TEXT + completion, "ascii")

    def test_a_stream_in_memory_gets_what_it_can_hold(self, generate, completion):
        memory = io.StringIO()
        assert generate("--echo", stdout=memory).status == 0
        assert memory.getvalue() == TEXT + completion

        held = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        assert generate("--echo", stdout=held).status == 0
        assert held.buffer.getvalue().decode("ascii") == escaped(TEXT + completion, "ascii")


class TestStdout:
    @pytest.mark.parametrize("words", [(), ("--echo",), ("--json",)])
    def test_a_reader_that_has_gone_ends_it_quietly(self, generate, tmp_path, words):
        with opened("without a reader", tmp_path) as stdout:
            ended = generate(*words, stdout=stdout)

        assert (ended.status, ended.errors) == (READER_GONE, [])
        assert "Traceback" not in ended.stderr

    @pytest.mark.parametrize("words", [("--echo",), ("--json",)])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_an_error_on_the_way_is_a_line_and_what_was_written_stays(
        self, generate, completion, words, number
    ):
        raw = Failing(10, OSError(number, os.strerror(number)))
        ended = generate(*words, stdout=wrapped(raw))

        (line,) = ended.errors
        assert line.startswith(
            f"jinfer: error: stdout cannot be written: [Errno {number}] {os.strerror(number)}; "
        )
        assert ended.status == FAILED
        assert len(raw.content) == 10
        if words == ("--echo",):
            assert (TEXT + completion).encode().startswith(raw.content)

    def test_ctrl_c_while_it_writes(self, start, completion):
        raw = Failing(10, KeyboardInterrupt())
        ended = start("--echo", stdout=wrapped(raw))

        assert (ended.status, ended.errors) == (INTERRUPTED, ["jinfer: interrupted"])
        assert (TEXT + completion).encode().startswith(raw.content)

    @pytest.mark.parametrize("words", [(), ("--json",)])
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("absent", "it is closed"),
            ("closed", "closed file"),
            ("for reading", "Bad file descriptor"),
            ("full", "No space left on device"),
        ],
    )
    def test_what_cannot_be_written_at_all_is_refused_before_the_start(
        self, generate, tmp_path, kind, reason, words
    ):
        with opened(kind, tmp_path / "file") as stdout:
            ended = generate(*words, stdout=stdout)

        (line,) = ended.errors
        assert line.startswith("jinfer: error: stdout cannot be written: ")
        assert reason in line
        assert (ended.status, ended.has_started) == (FAILED, False)

    @pytest.mark.parametrize("words", [("--echo",), ("--json",)])
    def test_a_full_pipe_that_does_not_block_is_waited_for(self, generate, completion, words):
        read, write = os.pipe()
        os.set_blocking(write, False)
        num_before = fill(write)
        with open(write, "w", encoding="utf-8") as stdout:
            got: list[bytes] = []

            def take() -> None:
                while chunk := os.read(read, 1 << 16):
                    got.append(chunk)

            reader = threading.Timer(0.5, take)
            reader.start()
            ended = generate(*words, stdout=stdout)
        reader.join(SECONDS)
        os.close(read)

        written = b"".join(got)[num_before:].decode()
        assert (ended.status, ended.errors) == (0, [])
        assert (json.loads(written)["text"] if words == ("--json",) else written) in (
            completion,
            TEXT + completion,
        )

    def test_a_pipe_that_nobody_empties_is_an_error(self, generate, monkeypatch):
        monkeypatch.setattr("jinfer.cli.streams.LONGEST_STALL_S", 0.2)
        read, write = os.pipe()
        os.set_blocking(write, False)
        fill(write)
        with open(write, "w", encoding="utf-8") as stdout:
            ended = generate("--echo", stdout=stdout)
        os.close(read)

        (line,) = ended.errors
        assert "stdout cannot be written: its reader has taken nothing for" in line
        assert ended.status == FAILED


class TestStderr:
    @pytest.fixture(
        params=["absent", "closed", "without a reader", "full", "for reading", "a terminal that is gone"]
    )
    def stderr(self, request, tmp_path) -> Iterator[io.TextIOWrapper | None]:
        with opened(request.param, tmp_path / "file") as stream:
            yield stream

    def test_the_work_goes_on_without_it(self, start, completion, tmp_path, stderr):
        with open(tmp_path / "out", "w", encoding="utf-8") as stdout:
            assert start(stdout=stdout, stderr=stderr).status == 0

        assert (tmp_path / "out").read_text(encoding="utf-8") == completion

    def test_an_error_has_its_status_without_it(self, stderr, monkeypatch):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert cli.main(["generate"]) == FAILED

    def test_messages_have_escapes_for_what_the_encoding_lacks(self, monkeypatch, tmp_path):
        with open(tmp_path / "err", "w", encoding="ascii") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            assert cli.main(["generate", "--model", "模型", "--prompt", "a"]) == FAILED

        assert r"'\u6a21\u578b' is not a directory" in (tmp_path / "err").read_text(encoding="ascii")

    def test_bars_are_drawn_in_ascii_on_such_a_terminal(self, start, completion, tmp_path):
        terminal, end = pty.openpty()
        with (
            open(tmp_path / "out", "w", encoding="utf-8") as stdout,
            open(end, "w", encoding="ascii") as stderr,
        ):
            shown: list[bytes] = []
            reader = threading.Thread(target=lambda: shown.extend(iter(lambda: os.read(terminal, 4096), b"")))
            threading.excepthook, hook = (lambda _: None), threading.excepthook  # reading ends with an error
            reader.start()
            assert start(stdout=stdout, stderr=stderr).status == 0
        reader.join(SECONDS)
        threading.excepthook = hook

        assert (tmp_path / "out").read_text(encoding="utf-8") == completion
        assert b"compiling" in b"".join(shown)
        assert b"tokens/s" in b"".join(shown)


class TestProcesses:
    """With the descriptors of a process, and what Python does with them when it ends."""

    def run(self, redirection: str, *words: str) -> subprocess.CompletedProcess:
        command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "jinfer", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)

    @pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "1</dev/null"])
    def test_help_that_cannot_be_written(self, redirection):
        done = self.run(redirection, "--help")

        (line,) = done.stderr.splitlines()
        assert line.startswith("jinfer: error: stdout cannot be written: ")
        assert done.returncode == FAILED

    def test_help_that_nobody_reads(self):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "jinfer", "generate", "--help"]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, timeout=300)
        os.close(write)

        assert (done.returncode, done.stderr) == (READER_GONE, b"")

    def test_nothing_is_left_when_the_reader_goes_on_the_way(self, directory):
        prompts = ["--prompt", TEXT] * 300  # so many that it is never done before the reader goes
        words = ["--model", str(directory), *ENGINE, *prompts, *GREEDY, "--max-tokens", "40", "--echo"]
        command = [sys.executable, "-m", "jinfer", "generate", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=REPOSITORY, env=new_environment(), **pipes) as process:
            assert process.stdout.read(5) == TEXT[:5].encode()
            process.stdout.close()
            stderr = process.stderr.read().decode()

        assert process.returncode == READER_GONE
        assert "Traceback" not in stderr
        assert "ignored" not in stderr
        assert "error" not in stderr

    def test_both_closed(self, directory, tmp_path):
        words = ["--model", str(directory), "--to", "orbax", str(tmp_path / "out")]
        done = self.run(">&- 2>&- <&-", "convert", *words)

        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "out" / "params").is_dir()


def fill(descriptor: int) -> int:
    """Fills a pipe that does not block. Returns how much it holds."""
    count = 0
    try:
        while True:
            count += os.write(descriptor, b"." * 4096)
    except BlockingIOError:
        return count
