"""What the command line does where stdout or stderr cannot take what it writes."""

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jinfer import LLM, RequestOutput, cli
from jinfer.cli.output import json_line
from jinfer.cli.streams import Output, ReaderGoneError, WriteError
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.end_to_end.test_cli import ENGINE, GREEDY, GREEDY_OPTIONS, REPOSITORY, new_environment

TEXT = "the cat, 猫, sat: é 😀"
ENCODINGS = ("ascii", "cp1252", "utf-16", "utf-8")
MORE_ENCODINGS = (
    *ENCODINGS,
    "latin-1",
    "cp437",
    "koi8-r",
    "shift_jis",
    "iso2022_jp",
    "gb18030",
    "utf-8-sig",
    "utf-32",
)
READER_GONE, FAILED, INTERRUPTED = 141, 1, 130


class Ended(NamedTuple):
    status: int
    stderr: str
    llm: LLM | None

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("jinfer: ")]


class Failing(io.RawIOBase):
    """A file that takes so many bytes, and then raises."""

    def __init__(self, num_bytes: int, fault: BaseException) -> None:
        self.content, self._room, self._fault = b"", num_bytes, fault

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        taken = bytes(content)[: self._room]
        if content and not taken:
            raise self._fault
        self.content, self._room = self.content + taken, self._room - len(taken)
        return len(taken)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def completed(directory) -> RequestOutput:
    with LLM(directory, **TINY_ENGINE) as llm:
        return llm.generate(TEXT, **GREEDY_OPTIONS)[0]


@pytest.fixture(scope="module")
def completion(completed) -> str:
    return completed.text


@pytest.fixture
def generate(directory, capsys, monkeypatch):
    """`jinfer generate` of TEXT to a stdout, or with a stderr, of its own."""

    def generate(*words: str, **streams) -> Ended:
        llms: list[LLM] = []

        class Kept(LLM):
            def __init__(self, *arguments, **options) -> None:
                super().__init__(*arguments, **options)
                llms.append(self)

        monkeypatch.setattr("jinfer.cli.generate.LLM", Kept)
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        status = cli.main(["generate", "--model", str(directory), *ENGINE, "--prompt", TEXT, *GREEDY, *words])
        for stream in streams.values():
            if stream is not None and not stream.closed:
                stream.flush()  # as Python does at its end: nothing is left that would fail once more
        return Ended(status, capsys.readouterr().err, llms[0] if llms else None)

    return generate


def escaped(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def wrapped(raw: io.RawIOBase, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)


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


class TestWriter:
    @pytest.mark.parametrize("encoding", MORE_ENCODINGS)
    def test_pieces_of_text_are_encoded_as_the_whole_would_be(self, tmp_path, encoding):
        with open(tmp_path / "out", "w", encoding=encoding) as stream:
            writer = Output(stream)
            assert [writer.write(character) for character in TEXT] == [1] * len(TEXT)

        written = (tmp_path / "out").read_bytes()
        assert written.decode(encoding) == escaped(TEXT, encoding)
        if escaped(TEXT, encoding) == TEXT:
            assert written == TEXT.encode(encoding)

    def test_half_of_a_surrogate_pair(self, tmp_path):
        with open(tmp_path / "out", "w", encoding="utf-8") as stream:
            Output(stream).write("a\ud83d\udce9b")

        assert (tmp_path / "out").read_text() == r"a\ud83d\udce9b"

    def test_what_was_written_before_comes_first(self, tmp_path):
        with open(tmp_path / "out", "w", encoding="utf-8") as stream:
            writer = Output(stream)
            stream.write("one ")
            writer.write("two ")
            stream.write("three")

        assert (tmp_path / "out").read_text() == "one two three"

    @pytest.mark.parametrize(
        "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EPERM, errno.ENXIO]
    )
    def test_every_error_names_itself_and_the_remedy(self, number):
        writer = Output(wrapped(Failing(2, OSError(number, os.strerror(number)))))
        with pytest.raises(WriteError, match=r"stdout cannot be written: .*; send it to a file") as caught:
            writer.write("abc")

        assert os.strerror(number) in str(caught.value)

    @pytest.mark.parametrize("number", [errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET])
    def test_a_reader_that_has_gone_is_no_error(self, number):
        with pytest.raises(ReaderGoneError):
            Output(wrapped(Failing(2, OSError(number, os.strerror(number))))).write("abc")

    def test_a_file_that_takes_a_byte_at_a_time_gets_all(self):
        class Slow(Failing):
            def write(self, content) -> int:
                return super().write(bytes(content)[:1])

        raw = Slow(1000, OSError())
        Output(wrapped(raw)).write(TEXT)
        assert raw.content.decode() == TEXT


class TestJsonLine:
    def test_numbers_that_json_lacks_are_null(self, completed):
        (first,) = completed.outputs
        odd = dataclasses.replace(first, cumulative_logprob=-math.inf, logprobs=({5: math.nan, 6: -0.5},))
        line = json_line(dataclasses.replace(completed, outputs=(odd,)), "utf-8")

        printed = json.loads(line, parse_constant=pytest.fail)
        assert (printed["cumulative_logprob"], printed["logprobs"]) == (None, [{"5": None, "6": -0.5}])

    def test_an_object_is_one_line_by_every_rule(self, completed):
        text = "a\nb\rc\x85d\u2028e\u2029f\x0bg\x1ch😀"
        (first,) = completed.outputs
        line = json_line(
            dataclasses.replace(completed, outputs=(dataclasses.replace(first, text=text),)), "utf-8"
        )

        assert line.splitlines() == [line]
        assert "😀" in line
        assert json.loads(line)["text"] == text


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
        assert "closed" in repr(ended.llm)

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
        assert "closed" in repr(ended.llm)

    def test_ctrl_c_while_it_writes(self, generate, completion):
        raw = Failing(10, KeyboardInterrupt())
        ended = generate("--echo", stdout=wrapped(raw))

        assert (ended.status, ended.errors) == (INTERRUPTED, ["jinfer: interrupted"])
        assert (TEXT + completion).encode().startswith(raw.content)
        assert "closed" in repr(ended.llm)

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
        assert (ended.status, ended.llm) == (FAILED, None)

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
        reader.join(30)
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

    def test_the_work_goes_on_without_it(self, generate, completion, tmp_path, stderr):
        with open(tmp_path / "out", "w", encoding="utf-8") as stdout:
            assert generate(stdout=stdout, stderr=stderr).status == 0

        assert (tmp_path / "out").read_text(encoding="utf-8") == completion

    def test_an_error_has_its_status_without_it(self, stderr, monkeypatch):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert cli.main(["generate"]) == FAILED

    def test_messages_have_escapes_for_what_the_encoding_lacks(self, monkeypatch, tmp_path):
        with open(tmp_path / "err", "w", encoding="ascii") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            assert cli.main(["generate", "--model", "模型", "--prompt", "a"]) == FAILED

        assert r"'\u6a21\u578b' is not a directory" in (tmp_path / "err").read_text(encoding="ascii")

    def test_bars_are_drawn_in_ascii_on_such_a_terminal(self, generate, completion, tmp_path):
        terminal, end = pty.openpty()
        with (
            open(tmp_path / "out", "w", encoding="utf-8") as stdout,
            open(end, "w", encoding="ascii") as stderr,
        ):
            shown: list[bytes] = []
            reader = threading.Thread(target=lambda: shown.extend(iter(lambda: os.read(terminal, 4096), b"")))
            threading.excepthook, hook = (lambda _: None), threading.excepthook  # reading ends with an error
            reader.start()
            assert generate(stdout=stdout, stderr=stderr).status == 0
        reader.join(30)
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
        words = [
            "--model",
            str(directory),
            *ENGINE,
            "--prompt",
            TEXT,
            *GREEDY,
            "--max-tokens",
            "40",
            "--echo",
        ]
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
