"""One safetensors file: the tensors that its header names, and their bytes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jinfer.errors import CheckpointError
from jinfer.weights.tensor_source import StoredTensor

SUPPORTED_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
METADATA = "__metadata__"  # the only entry of a header that is no tensor
LENGTH_BYTES = 8  # of the first number of a file, which is the length of its header


@dataclass(frozen=True)
class SafetensorsTensor(StoredTensor):
    """A tensor in a file, not read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype_name: str
    first_byte: int
    num_bytes: int

    @property
    def dtype(self) -> np.dtype:
        """The dtype, of a tensor whose `dtype_name` is among SUPPORTED_DTYPES."""
        return jnp.dtype(SUPPORTED_DTYPES[self.dtype_name])

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        """Fills `out`, bytes, with whole rows of the first axis. Raises CheckpointError if the file is short
        of it."""
        self.read_bytes(first_row * (self.num_bytes // self.shape[0]), out)

    def read_bytes(self, first: int, out: np.ndarray) -> None:
        """Fills `out` with the tensor's bytes from `first` on. Raises CheckpointError if the file is short of
        them."""
        unread = out.data
        try:
            with self.file.open("rb", buffering=0) as opened:
                opened.seek(self.first_byte + first)
                while len(unread):
                    num_read = opened.readinto(unread)
                    if not num_read:
                        raise EOFError("it ended early")
                    unread = unread[num_read:]
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self.file} cannot be read ({error}); fetch it again") from error


class Float64Tensor(SafetensorsTensor):
    """A tensor of float64, which is read as float32: devices have no float64. torch rounds on this way,
    too."""

    @property
    def dtype(self) -> np.dtype:
        return jnp.dtype("float32")

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        """Fills `out`, bytes, by way of twice as many: they are read as float64 and converted."""
        wide = np.empty(2 * len(out), np.uint8)
        super().read_rows(first_row, wide)
        with np.errstate(over="ignore"):
            np.copyto(out.view(np.float32), wide.view(np.float64), casting="unsafe")


def read_header(file: Path) -> dict[str, SafetensorsTensor]:
    """The tensors of a file: [length: 8 bytes][header: JSON of that length][the tensors' bytes].

    The safetensors library checks the header: sizes, offsets, gaps, overlaps, types. What it does not see, a
    name that is there twice, is seen here. Raises CheckpointError.
    """
    try:
        with safe_open(file, framework="numpy"), file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            pairs = json.loads(opened.read(length), object_pairs_hook=tuple)
        tensors = [
            (name, _read_entry(file, entry, LENGTH_BYTES + length))
            for name, entry in pairs
            if name != METADATA
        ]
        by_name = dict(tensors)
        if len(by_name) < len(tensors):
            names = [name for name, _ in tensors]
            raise ValueError(f"it holds {next(name for name in names if names.count(name) > 1)} twice")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{file} is truncated or corrupt ({error}); fetch it again") from error
    return by_name


def _read_entry(file: Path, pairs: Any, data_start: int) -> SafetensorsTensor:
    try:
        entry = dict(pairs)
        begin, end = entry["data_offsets"]
        kind = Float64Tensor if entry["dtype"] == "F64" else SafetensorsTensor
        return kind(file, tuple(entry["shape"]), entry["dtype"], data_start + begin, end - begin)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a tensor has the header {pairs!r:.100}, not an object of dtype, shape and offsets"
        ) from error
