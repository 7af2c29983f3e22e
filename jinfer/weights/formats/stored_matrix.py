"""Matrices as quantized checkpoints store them: plain, or several numbers in a word or a byte. Each is read
row by row, as float32."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from jinfer.errors import CheckpointError
from jinfer.weights.tensor_source import StoredTensor

FLOATS = ("BF16", "F16", "F32")
INT8, FLOAT8, INT32, INT64, UINT8 = "I8", "F8_E4M3", "I32", "I64", "U8"
FLOAT4, POWER8 = "e2m1", "e8m0"
WORD_BITS = 32
FLOAT8_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""The value of each byte of e4m3: a table is much faster than a conversion."""
FLOAT4_VALUES = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
POWER8_VALUES = np.ldexp(np.float32(1), np.arange(-127, 128))
"""The value of each byte of e8m0 but the last, which is NaN."""
POWER8_NAN = 255
DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    INT8: np.dtype(np.int8),
    FLOAT8: np.dtype(np.uint8),
    INT32: np.dtype("<i4"),
    INT64: np.dtype("<i8"),
    UINT8: np.dtype(np.uint8),
}
"""The dtypes that formats read their parts in, by safetensors' names."""
CODES_OF_BITS = {4: "unsigned 4", 8: "unsigned 8"}
"""Names of unsigned integers of several to a word, by their bits."""


class StoredMatrix(ABC):
    """A matrix [rows, columns]. Several threads may read it at a time."""

    shape: tuple[int, int]

    @property
    @abstractmethod
    def codes(self) -> str:
        """The kind of the numbers: safetensors' name of a dtype, FLOAT4, POWER8, or one of CODES_OF_BITS."""

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        """Whole rows as they are stored, if each number is one of a dtype."""
        raise AssertionError(f"{type(self).__name__} stores no number by itself")

    @abstractmethod
    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Whole rows, float32, in memory of their own."""

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Whole rows in any order, float32."""
        first = int(rows.min())
        return self.read(first, int(rows.max()) + 1 - first)[rows - first]


@dataclass(frozen=True, eq=False)
class ReorderedMatrix(StoredMatrix):
    """The rows (axis 0) or columns (axis 1) of a matrix in another order."""

    matrix: StoredMatrix
    shape: tuple[int, int]
    order: np.ndarray
    axis: int

    @property
    def codes(self) -> str:
        return self.matrix.codes

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        if self.axis == 0:
            return self.matrix.take(self.order[first_row : first_row + num_rows])
        return self.matrix.read(first_row, num_rows).take(self.order, axis=1)


@dataclass(frozen=True, eq=False)
class PlainMatrix(StoredMatrix):
    """A tensor of as many numbers, of int8, e4m3 or a float. `added` is added to each."""

    tensor: StoredTensor
    shape: tuple[int, int]
    added: int = 0

    @property
    def codes(self) -> str:
        return self.tensor.dtype_name

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        stored = read_elements(self.tensor, first_row * self.shape[1], num_rows * self.shape[1])
        dtype = ml_dtypes.float8_e4m3fn if self.tensor.dtype_name == FLOAT8 else stored.dtype
        return stored.view(dtype).reshape(num_rows, self.shape[1])

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        stored = read_elements(self.tensor, first_row * self.shape[1], num_rows * self.shape[1])
        values = FLOAT8_VALUES.take(stored) if self.tensor.dtype_name == FLOAT8 else stored.astype(np.float32)
        if self.added:
            values += np.float32(self.added)
        return values.reshape(num_rows, self.shape[1])


@dataclass(frozen=True, eq=False)
class PackedMatrix(StoredMatrix):
    """Unsigned integers of `bits` bits, several of the same row in each word of an int32 tensor.

    The integer at place i of a word is in bits `bits * order[i]` and above; the order is that of the places
    where none is given. A row that no whole number of words holds is padded. `added` is added to each
    integer, which stays within its bits.
    """

    tensor: StoredTensor
    shape: tuple[int, int]
    bits: int
    order: tuple[int, ...] = ()
    added: int = 0

    @property
    def codes(self) -> str:
        return CODES_OF_BITS[self.bits]

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        words_per_row = num_words(self.shape[1], self.bits)
        words = read_elements(self.tensor, first_row * words_per_row, num_rows * words_per_row)
        values = unpacked(words.reshape(num_rows, words_per_row, 1), self.bits, self.order)
        return _as_floats(values.reshape(num_rows, -1)[:, : self.shape[1]], self.bits, self.added)


@dataclass(frozen=True, eq=False)
class RowPackedMatrix(StoredMatrix):
    """The same, with several integers of the same column in each word: the tensor has as many columns, and a
    row of words for several rows."""

    tensor: StoredTensor
    shape: tuple[int, int]
    bits: int

    @property
    def codes(self) -> str:
        return CODES_OF_BITS[self.bits]

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        per_word = WORD_BITS // self.bits
        first, end = first_row // per_word, num_words(first_row + num_rows, self.bits)
        words = read_elements(self.tensor, first * self.shape[1], (end - first) * self.shape[1])
        values = unpacked(words.reshape(end - first, 1, self.shape[1]), self.bits, axis=1)
        skipped = first_row - first * per_word
        return _as_floats(values.reshape(-1, self.shape[1])[skipped : skipped + num_rows], self.bits)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Whole rows in any order, float32. No more is unpacked than these."""
        per_word = WORD_BITS // self.bits
        first, end = int(rows.min()) // per_word, int(rows.max()) // per_word + 1
        words = read_elements(self.tensor, first * self.shape[1], (end - first) * self.shape[1])
        of_rows = words.view(np.uint32).reshape(end - first, self.shape[1])[rows // per_word - first]
        shifts = (rows % per_word * self.bits).astype(np.uint32)[:, None]
        return _as_floats((of_rows >> shifts) & np.uint32(2**self.bits - 1), self.bits)


@dataclass(frozen=True, eq=False)
class Float4Matrix(StoredMatrix):
    """e2m1, two columns in each byte of a tensor, the first in the lower bits. Raw rows are codes of 0 to
    15."""

    tensor: StoredTensor
    shape: tuple[int, int]

    @property
    def codes(self) -> str:
        return FLOAT4

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        row_bytes = self.shape[1] // 2
        pairs = read_elements(self.tensor, first_row * row_bytes, num_rows * row_bytes)
        return np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(num_rows, self.shape[1])

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        return FLOAT4_VALUES.take(self.read_raw(first_row, num_rows))


@dataclass(frozen=True, eq=False)
class Power8Matrix(StoredMatrix):
    """Powers of two, 2 ** (byte - 127), of the bytes of a tensor (e8m0), called `name` where one is NaN. Raw
    rows are the bytes. Reading raises CheckpointError for a NaN."""

    tensor: StoredTensor
    shape: tuple[int, int]
    name: str

    @property
    def codes(self) -> str:
        return POWER8

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        stored = read_elements(self.tensor, first_row * self.shape[1], num_rows * self.shape[1])
        rows = stored.reshape(num_rows, self.shape[1])
        if rows.max(initial=0) == POWER8_NAN:
            row, column = np.argwhere(rows == POWER8_NAN)[0]
            raise CheckpointError(
                f"{self.name} has the scale {POWER8_NAN}, which is NaN, in row {first_row + row} and column "
                f"{column}; fetch it again"
            )
        return rows

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        return POWER8_VALUES.take(self.read_raw(first_row, num_rows))


def num_words(count: int, bits: int) -> int:
    """The words that hold `count` integers."""
    return -(-count * bits // WORD_BITS)


def unpacked(words: np.ndarray, bits: int, order: tuple[int, ...] = (), *, axis: int = 2) -> np.ndarray:
    """The fields of each word, uint32, along an axis of `words` that is of size one."""
    places = np.array(order or range(WORD_BITS // bits), np.uint32) * np.uint32(bits)
    shifts = np.expand_dims(places, tuple(i for i in range(words.ndim) if i != axis))
    return (words.view(np.uint32) >> shifts) & np.uint32(2**bits - 1)


def read_elements(tensor: StoredTensor, first: int, count: int) -> np.ndarray:
    """Elements of a tensor in their order, as it stores them; e4m3 as its bytes."""
    dtype = DTYPES[tensor.dtype_name]
    stored = np.empty(count * dtype.itemsize, np.uint8)
    tensor.read_bytes(first * dtype.itemsize, stored)
    return stored.view(dtype)


def _as_floats(values: np.ndarray, bits: int, added: int = 0) -> np.ndarray:
    return ((values + np.uint32(added)) & np.uint32(2**bits - 1) if added else values).astype(np.float32)
