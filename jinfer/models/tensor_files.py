"""Safetensors files, one or several with an index: which tensors they hold, and their bytes."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinfer.errors import CheckpointError
from jinfer.models.stored_array import StoredArray

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUPPORTED_DTYPES = {"BF16": jnp.dtype("bfloat16"), "F16": jnp.dtype("float16"), "F32": jnp.dtype("float32")}
LENGTH_BYTES = 8  # of the number that a file begins with: how long its header is
MAX_HEADER_BYTES = 100 * 10**6  # what the format allows
MAX_RANK = 8


@dataclass(frozen=True)
class FileTensor(StoredArray):
    """A tensor in a file, not read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype_name: str
    first_byte: int
    num_bytes: int

    @property
    def dtype(self) -> np.dtype:
        """Of a tensor whose `dtype_name` is among SUPPORTED_DTYPES."""
        return SUPPORTED_DTYPES[self.dtype_name]

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        """Fills `out`, bytes, with whole rows of the first axis. Raises CheckpointError if the file is short of it."""
        row_bytes = self.num_bytes // self.shape[0]
        unread = out.data
        try:
            with self.file.open("rb", buffering=0) as opened:
                opened.seek(self.first_byte + first_row * row_bytes)
                while len(unread):
                    num_read = opened.readinto(unread)
                    if not num_read:
                        raise EOFError("it ended early")
                    unread = unread[num_read:]
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self.file} cannot be read ({error}); fetch it again") from error


def find_tensors(directory: Path) -> dict[str, FileTensor]:
    """Every tensor of the checkpoint by name, from the headers of its files. Raises CheckpointError."""
    return {name: tensor for file in _shards(directory) for name, tensor in _read_header(file)}


def _shards(directory: Path) -> list[Path]:
    index, single = directory / INDEX_FILE, directory / SINGLE_FILE
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [directory / name for name in sorted(set(names))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}; fetch it again") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{index} names {', '.join(missing)}, which {directory} lacks; fetch the model again")
        return files
    if single.is_file():
        return [single]
    raise CheckpointError(
        f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}; jinfer reads safetensors and Orbax checkpoints only"
    )


def _read_header(file: Path) -> Iterator[tuple[str, FileTensor]]:
    """[length: 8 bytes][header: JSON of that length][the tensors' bytes, at `data_offsets` from here on]."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            data_start, file_bytes = LENGTH_BYTES + length, file.stat().st_size
            if length > MAX_HEADER_BYTES or data_start > file_bytes:
                raise ValueError(f"a header of {length} bytes in a file of {file_bytes}")
            entries = json.loads(opened.read(length))
            if not isinstance(entries, dict):
                raise ValueError("its header is no JSON object")
        for name, entry in entries.items():
            if name != "__metadata__":
                yield name, _read_entry(file, name, entry, data_start, file_bytes)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is truncated or corrupt ({error}); fetch it again") from error


def _read_entry(file: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> FileTensor:
    try:
        shape, dtype_name, (begin, end) = tuple(entry["shape"]), str(entry["dtype"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} has the header {entry!r:.100}") from error
    if len(shape) > MAX_RANK or not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has the header {entry!r:.100}")
    if begin > end or data_start + end > file_bytes:
        raise ValueError(f"{name} is at bytes {begin} to {end} of {file_bytes - data_start}")
    if dtype_name in SUPPORTED_DTYPES and end - begin != math.prod(shape) * SUPPORTED_DTYPES[dtype_name].itemsize:
        raise ValueError(f"{name}, {dtype_name} of shape {shape}, has {end - begin} bytes")
    return FileTensor(file, shape, dtype_name, data_start + begin, end - begin)
