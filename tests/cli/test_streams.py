"""The streams that a command writes to."""

import errno
import os

import pytest

from jinfer.cli.streams import Output, ReaderGoneError, WriteError
from tests.end_to_end.cli.helpers import Failing, wrapped

TEXT = "the cat, 猫, sat: é 😀"
ENCODINGS = (
    "ascii",
    "cp1252",
    "utf-16",
    "utf-8",
    "latin-1",
    "cp437",
    "koi8-r",
    "shift_jis",
    "iso2022_jp",
    "gb18030",
    "utf-8-sig",
    "utf-32",
)


def escaped(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pieces_of_text_are_encoded_as_the_whole_would_be(tmp_path, encoding):
    with open(tmp_path / "out", "w", encoding=encoding) as stream:
        writer = Output(stream)
        assert [writer.write(character) for character in TEXT] == [1] * len(TEXT)

    written = (tmp_path / "out").read_bytes()
    assert written.decode(encoding) == escaped(TEXT, encoding)
    if escaped(TEXT, encoding) == TEXT:
        assert written == TEXT.encode(encoding)


def test_half_of_a_surrogate_pair(tmp_path):
    with open(tmp_path / "out", "w", encoding="utf-8") as stream:
        Output(stream).write("a\ud83d\udce9b")

    assert (tmp_path / "out").read_text() == r"a\ud83d\udce9b"


def test_what_was_written_before_comes_first(tmp_path):
    with open(tmp_path / "out", "w", encoding="utf-8") as stream:
        writer = Output(stream)
        stream.write("one ")
        writer.write("two ")
        stream.write("three")

    assert (tmp_path / "out").read_text() == "one two three"


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EPERM, errno.ENXIO]
)
def test_every_error_names_itself_and_the_remedy(number):
    writer = Output(wrapped(Failing(2, OSError(number, os.strerror(number)))))
    with pytest.raises(WriteError, match=r"stdout cannot be written: .*; send it to a file") as caught:
        writer.write("abc")

    assert os.strerror(number) in str(caught.value)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET])
def test_a_reader_that_has_gone_is_no_error(number):
    with pytest.raises(ReaderGoneError):
        Output(wrapped(Failing(2, OSError(number, os.strerror(number))))).write("abc")


def test_a_file_that_takes_a_byte_at_a_time_gets_all():
    class Slow(Failing):
        def write(self, content) -> int:
            return super().write(bytes(content)[:1])

    raw = Slow(1000, OSError())
    Output(wrapped(raw)).write(TEXT)
    assert raw.content.decode() == TEXT
