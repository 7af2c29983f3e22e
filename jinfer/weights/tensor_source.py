"""Tensors outside of the device, which are read row by row into memory that the caller provides."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

STREAMED_DTYPES = tuple(map(jnp.dtype, ("bfloat16", "float16", "float32")))
"""The dtypes that `read_rows` may give: the device converts each to the dtype of a parameter."""
WEIGHT_DTYPES = (*STREAMED_DTYPES, jnp.dtype("float64"))
"""The dtypes that weights may be stored in. Narrower floats and integers are quantized: their scales are
elsewhere."""
ReadRows = Callable[[int, int], np.ndarray]
"""A function that gives rows, from the first and their number."""


class TensorSource(ABC):
    """A tensor in a file or in host memory. Several threads may read it at a time."""

    shape: tuple[int, ...]

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype that `read_rows` gives."""

    @abstractmethod
    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        """Fills `out`, bytes, with whole rows of the first axis."""


class StoredTensor(TensorSource):
    """A tensor of a checkpoint, of which any bytes can be read. `dtype_name` is safetensors' name of its
    dtype.

    One that `is_turned` holds the columns of a checkpoint's tensor as rows: [in, out], where checkpoints have
    a Linear as [out, in].
    """

    dtype_name: str
    num_bytes: int
    is_turned = False

    @property
    def checkpoint_shape(self) -> tuple[int, ...]:
        """The shape that a checkpoint has it in."""
        return self.shape[::-1] if self.is_turned else self.shape

    @abstractmethod
    def read_bytes(self, first: int, out: np.ndarray) -> None:
        """Fills `out` with the tensor's bytes from `first` on."""


class HostTensor(TensorSource):
    """A numpy array, read as `dtype`, to which numpy converts it."""

    def __init__(self, array: np.ndarray, dtype: np.dtype) -> None:
        self.shape = array.shape
        self._array = array
        self._dtype = dtype

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        rows = out.view(self.dtype).reshape(-1, *self.shape[1:])
        np.copyto(rows, self._array[first_row : first_row + len(rows)], casting="unsafe")


@dataclass(frozen=True, eq=False)
class ComputedRows(TensorSource):
    """Rows of a dtype that `read` makes, given the first and their number."""

    shape: tuple[int, ...]
    row_dtype: np.dtype
    read: ReadRows

    @property
    def dtype(self) -> np.dtype:
        return self.row_dtype

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        rows = out.view(self.row_dtype).reshape(-1, *self.shape[1:])
        rows[...] = self.read(first_row, len(rows)).astype(self.row_dtype, copy=False).reshape(rows.shape)


@dataclass(frozen=True, eq=False)
class PartSource:
    """The source of a part of a kernel. With `is_transposed` the last axis comes first."""

    source: TensorSource
    is_transposed: bool = False
