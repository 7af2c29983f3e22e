"""Headers of safetensors files, with the format's own library as the judge: what it refuses is refused, with
the file and a remedy, and what it accepts is read."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jinfer.errors import CheckpointError
from jinfer.weights.safetensors_file import read_header

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "I16": 16,
    "U16": 16,
    "I32": 32,
    "U32": 32,
    "I64": 64,
    "U64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
}


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


ENTRY = json.dumps(entry())
WITHOUT_END = ENTRY[:-1]
ACCEPTED = {
    "one tensor": {"x": entry()},
    "no tensor": {},
    "in another order": {"y": entry(offsets=[16, 32]), "x": entry()},
    "a scalar": {"x": entry(shape=[], offsets=[0, 4])},
    "many axes": {"x": entry(shape=[1] * 9 + [4])},
    "nothing at the start": {"x": entry(shape=[0, 2], offsets=[0, 0]), "y": entry()},
    "nothing at the end": {"x": entry(shape=[0, 2], offsets=[16, 16]), "y": entry()},
    "metadata": {"__metadata__": {"format": "pt"}, "x": entry()},
    "metadata of null": {"__metadata__": None, "x": entry()},
    "a field of its own": {"x": entry(more=5)},
    "spaces behind": '{"x":' + ENTRY + "}   ",
    "spaces before": '  {"x":' + ENTRY + "}",
    "metadata with a key twice": '{"__metadata__":{"a":"b","a":"c"},"x":' + ENTRY + "}",
    "an escaped name": '{"\\u0078":' + ENTRY + "}",
}
REFUSED = {
    "a list": [],
    "no object": 5,
    "a gap at the start": {"x": entry(offsets=[4, 20])},
    "a gap between": {"x": entry(), "y": entry(offsets=[20, 36])},
    "an overlap": {"x": entry(), "y": entry(offsets=[12, 28])},
    "the same bytes": {"x": entry(), "y": entry()},
    "bytes behind the last": ({"x": entry()}, 20),
    "bytes of no tensor": ({}, 16),
    "fewer bytes": ({"x": entry()}, 12),
    "nothing in the middle": {"x": entry(shape=[0, 2], offsets=[8, 8]), "y": entry()},
    "offsets that go back": {"x": entry(offsets=[16, 0])},
    "negative offsets": {"x": entry(offsets=[-16, 0])},
    "three offsets": {"x": entry(offsets=[0, 16, 16])},
    "float offsets": {"x": entry(offsets=[0, 16.0])},
    "a float size": {"x": entry(shape=[2.0, 2])},
    "a bool size": {"x": entry(shape=[True, 4])},
    "a size of text": {"x": entry(shape=["2", 2])},
    "negative sizes": {"x": entry(shape=[-2, -2])},
    "a huge size": {"x": entry(shape=[2**70])},
    "a product that overflows": {"x": entry(shape=[2**40, 2**40])},
    "a product that overflows to nothing": {"x": entry(shape=[2**40, 2**40, 0], offsets=[0, 0])},
    "an unknown dtype": {"x": entry("X9")},
    "a dtype in small letters": {"x": entry("f32")},
    "a dtype that is no text": {"x": entry(5)},
    "no dtype": {"x": {"shape": [4], "data_offsets": [0, 16]}},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 16]}},
    "no offsets": {"x": {"dtype": "F32", "shape": [4]}},
    "no entry": {"x": None},
    "half a byte": {"x": entry("F4", [31], [0, 16])},
    "metadata of numbers": {"__metadata__": {"a": 1}, "x": entry()},
    "metadata of a list": {"__metadata__": [], "x": entry()},
    "metadata twice": '{"__metadata__":{},"__metadata__":{},"x":' + ENTRY + "}",
    "a field twice": '{"x":' + WITHOUT_END + ',"shape":[4]}}',
    "a name twice, with other bytes": f'{{"x":{ENTRY},"x":{json.dumps(entry(offsets=[16, 32]))}}}',
    "not UTF-8": b'{"\xff":' + ENTRY.encode() + b"}",
    "half a surrogate": '{"\\ud800":' + ENTRY + "}",
    "a byte order mark": "\ufeff" + '{"x":' + ENTRY + "}",
    "a zero behind": '{"x":' + ENTRY + "}\0",
    "NaN": '{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}',
    "minus zero": '{"x":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}',
    "a comma too many": '{"x":' + ENTRY + ",}",
    "deep": '{"x":' + "[" * 5000 + "]" * 5000 + "}",
    "no JSON": "junk",
    "empty": "",
}


def write(file: Path, header: Any) -> Path:
    """The length, the header and as many bytes as its last offset says, or as it is said beside it."""
    header, num_bytes = header if isinstance(header, tuple) else (header, None)
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    encoded = text if isinstance(text, bytes) else text.encode()
    if num_bytes is None:
        entries = header.values() if isinstance(header, dict) else ()
        ends = [x["data_offsets"][1] for x in entries if isinstance(x, dict) and "data_offsets" in x]
        num_bytes = int(max(ends, default=0 if header == {} else 32 if b"32]" in encoded else 16))
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(num_bytes))
    return file


def names_by_the_library(file: Path) -> set[str]:
    with safe_open(file, framework="numpy") as opened:
        return set(opened.keys())


@pytest.mark.parametrize("header", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_library_accepts_is_read(header, tmp_path):
    file = write(tmp_path / "model.safetensors", header)

    assert read_header(file).keys() == names_by_the_library(file)


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_what_the_library_refuses_is_refused_with_the_file_and_a_remedy(header, tmp_path):
    file = write(tmp_path / "model.safetensors", header)
    with pytest.raises(SafetensorError):
        names_by_the_library(file)

    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or corrupt .*fetch it again"):
        read_header(file)


@pytest.mark.parametrize("second", ["x", "\\u0078"], ids=["plain", "escaped"])
def test_a_name_that_is_there_twice_is_refused_though_the_library_takes_the_last(second, tmp_path):
    file = write(tmp_path / "model.safetensors", f'{{"x":{ENTRY},"{second}":{ENTRY}}}')
    assert names_by_the_library(file) == {"x"}

    with pytest.raises(CheckpointError, match="it holds x twice"):
        read_header(file)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("is_right", [True, False])
def test_the_bytes_of_every_dtype_are_counted(dtype, is_right, tmp_path):
    num_bytes = 24 * BITS[dtype] // 8 + (not is_right) * BITS[dtype] // math.gcd(8, BITS[dtype])
    file = write(tmp_path / "model.safetensors", {"x": entry(dtype, [4, 6], [0, num_bytes])})

    if is_right:
        assert read_header(file)["x"].num_bytes == num_bytes
    else:
        with pytest.raises(CheckpointError, match="truncated or corrupt"):
            read_header(file)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", b"\0" * 8]
)
def test_a_length_that_the_file_has_not_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        read_header(tmp_path / "model.safetensors")


def test_the_bytes_are_those_that_were_written(tmp_path):
    wanted = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(4, dtype=np.float16)}
    save_file(wanted, tmp_path / "model.safetensors")
    for name, tensor in read_header(tmp_path / "model.safetensors").items():
        read = np.empty(tensor.num_bytes, np.uint8)
        tensor.read_rows(0, read)

        np.testing.assert_array_equal(read.view(wanted[name].dtype).reshape(tensor.shape), wanted[name])
        assert tensor.dtype == wanted[name].dtype


def test_rows_of_float64_are_read_as_float32_rounded_once(tmp_path):
    stored = np.array([[1 + 2**-24, 1e300], [-1e300, np.nan], [np.pi, -0.0]])
    save_file({"x": stored}, tmp_path / "model.safetensors")
    tensor = read_header(tmp_path / "model.safetensors")["x"]
    read = np.empty(16, np.uint8)
    tensor.read_rows(1, read)

    assert tensor.dtype == np.float32
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(read.view(np.float32).reshape(2, 2), stored[1:].astype(np.float32))
