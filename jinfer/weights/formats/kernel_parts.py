"""The arrays of a quantized kernel, from what a checkpoint stores of it: read row by row, as the devices have
them, and never as floats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jinfer.weights.formats.dequantized_tensor import DequantizedTensor
from jinfer.weights.formats.stored_matrix import CODES_OF_BITS, StoredMatrix
from jinfer.weights.kernel_types import (
    INPUT_SCALE,
    PACKED,
    PACKED_ZEROS,
    SCALES,
    VALUES,
    ZEROS,
    BlockFp8Kernel,
    Fp8Kernel,
    Int4Kernel,
    Int8Kernel,
    KernelType,
)
from jinfer.weights.tensor_source import TensorSource
from pallas_kernels.core.weights.four_bits import CODES_OF_A_WORD, PIECE, SLOT
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD

ReadRows = Callable[[int, int], np.ndarray]
MIDDLE = 128  # of unsigned codes of eight bits, where signed ones have 0


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


def kernel_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    """The parts of one module of a type that its codes have."""
    return PARTS_OF[type(kernel_type)](tensor, kernel_type)


def _int8_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    assert isinstance(kernel_type, Int8Kernel)
    offset = MIDDLE if tensor.codes.codes == CODES_OF_BITS[8] else 0
    parts = {
        VALUES: _values(
            tensor, lambda first, count: tensor.codes.read(first, count) - offset, np.dtype(np.int8)
        ),
        SCALES: _of_groups(tensor, tensor.scales.matrix, jnp.dtype("float32")),
    }
    if isinstance(tensor.scales.zeros, StoredMatrix):
        parts[ZEROS] = _of_groups(tensor, tensor.scales.zeros, np.dtype(np.int8), offset)
    return parts | _input_scale(tensor, kernel_type.activations)


def _fp8_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    assert isinstance(kernel_type, Fp8Kernel)
    scales = _of_groups(tensor, tensor.scales.matrix, jnp.dtype("float32")).source
    assert isinstance(scales, ComputedRows)
    by_output = ComputedRows(scales.shape[:1], scales.row_dtype, scales.read)
    parts = {VALUES: _float8_values(tensor), SCALES: PartSource(by_output)}
    return parts | _input_scale(tensor, kernel_type.activations)


def _block_fp8_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    matrix = tensor.scales.matrix
    scales = ComputedRows(matrix.shape, jnp.dtype("float32"), matrix.read)
    return {VALUES: _float8_values(tensor), SCALES: PartSource(scales)}


def _int4_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    assert isinstance(kernel_type, Int4Kernel)
    pack = _packed_turned if tensor.is_turned else _packed
    parts = {
        PACKED: pack(tensor.codes),
        SCALES: _of_groups(tensor, tensor.scales.matrix, jnp.dtype(kernel_type.scale_dtype)),
    }
    if isinstance(tensor.scales.zeros, StoredMatrix):
        of_words = _zero_words_turned if tensor.is_turned else _zero_words
        parts[PACKED_ZEROS] = of_words(tensor, tensor.scales.zeros)
    return parts


PARTS_OF: Mapping[type[KernelType], Callable[[DequantizedTensor, KernelType], dict[str, PartSource]]] = {
    Int8Kernel: _int8_parts,
    Fp8Kernel: _fp8_parts,
    BlockFp8Kernel: _block_fp8_parts,
    Int4Kernel: _int4_parts,
}


def _values(tensor: DequantizedTensor, read: ReadRows, dtype: np.dtype) -> PartSource:
    """Codes as [out, in]: turned ones are turned back on the device."""
    return PartSource(ComputedRows(tensor.shape, dtype, read), tensor.is_turned)


def _float8_values(tensor: DequantizedTensor) -> PartSource:
    return _values(tensor, tensor.codes.read_raw, jnp.dtype("float8_e4m3fn"))


def _of_groups(
    tensor: DequantizedTensor, matrix: StoredMatrix, dtype: np.dtype, offset: int = 0
) -> PartSource:
    """Numbers of groups as [groups, out], less an offset. Those of one group for all outputs are repeated."""
    if tensor.is_turned:
        return PartSource(
            ComputedRows(matrix.shape, dtype, lambda first, count: matrix.read(first, count) - offset)
        )

    def read(first: int, count: int) -> np.ndarray:
        return tensor.scales.of_outputs(matrix, first, count) - offset

    return PartSource(ComputedRows((tensor.shape[0], matrix.shape[1]), dtype, read), is_transposed=True)


def _packed(codes: StoredMatrix) -> PartSource:
    """Codes [out, in] as words of 16 bits [out, words]."""
    num_out, num_in = codes.shape
    num_pieces = -(-num_in // PIECE)

    def read(first: int, count: int) -> np.ndarray:
        rows = codes.read(first, count).astype(np.uint16)
        filled = np.pad(rows, ((0, 0), (0, num_pieces * PIECE - num_in)))
        return _words(filled.reshape(count, num_pieces, CODES_OF_A_WORD, SLOT), axis=2)

    return PartSource(ComputedRows((num_out, num_pieces * SLOT), np.dtype(np.uint16), read))


def _packed_turned(codes: StoredMatrix) -> PartSource:
    """Codes [in, out] as words of 16 bits [words, out], which the device turns: a piece of inputs gives a
    quarter as many rows."""
    num_in, num_out = codes.shape
    num_pieces = -(-num_in // PIECE)

    def read(first: int, count: int) -> np.ndarray:
        begin, end = first // SLOT, -(-(first + count) // SLOT)
        rows = codes.read(begin * PIECE, min(end * PIECE, num_in) - begin * PIECE).astype(np.uint16)
        filled = np.pad(rows, ((0, (end - begin) * PIECE - len(rows)), (0, 0)))
        slots = filled.reshape(end - begin, CODES_OF_A_WORD, SLOT, num_out)
        return _words(slots, axis=1).reshape(-1, num_out)[first - begin * SLOT :][:count]

    source = ComputedRows((num_pieces * SLOT, num_out), np.dtype(np.uint16), read)
    return PartSource(source, is_transposed=True)


def _zero_words(tensor: DequantizedTensor, zeros: StoredMatrix) -> PartSource:
    """Zeros [out, groups] as words [out, words]."""
    num_words = -(-zeros.shape[1] // ZEROS_OF_A_WORD)

    def read(first: int, count: int) -> np.ndarray:
        rows = tensor.scales.of_outputs(zeros, first, count).astype(np.uint32)
        filled = np.pad(rows, ((0, 0), (0, num_words * ZEROS_OF_A_WORD - rows.shape[1])))
        return _words(filled.reshape(count, num_words, ZEROS_OF_A_WORD), axis=2)

    source = ComputedRows((tensor.shape[0], num_words), np.dtype(np.uint32), read)
    return PartSource(source, is_transposed=True)


def _zero_words_turned(tensor: DequantizedTensor, zeros: StoredMatrix) -> PartSource:
    """Zeros [groups, out] as words [words, out]."""
    num_groups, num_out = zeros.shape

    def read(first: int, count: int) -> np.ndarray:
        begin = first * ZEROS_OF_A_WORD
        rows = zeros.read(begin, min(count * ZEROS_OF_A_WORD, num_groups - begin)).astype(np.uint32)
        filled = np.pad(rows, ((0, count * ZEROS_OF_A_WORD - len(rows)), (0, 0)))
        return _words(filled.reshape(count, ZEROS_OF_A_WORD, num_out), axis=1)

    num_words = -(-num_groups // ZEROS_OF_A_WORD)
    return PartSource(ComputedRows((num_words, num_out), np.dtype(np.uint32), read))


def _words(fields: np.ndarray, axis: int) -> np.ndarray:
    """All fields of four bits along an axis in one word of their dtype, the first in the lowest bits."""
    shifts = 4 * np.arange(fields.shape[axis], dtype=fields.dtype)
    shape = tuple(-1 if i == axis else 1 for i in range(fields.ndim))
    return np.bitwise_or.reduce(fields << shifts.reshape(shape), axis=axis)


def _input_scale(tensor: DequantizedTensor, activations: str) -> dict[str, PartSource]:
    if activations != "static":
        return {}
    scale = np.array([tensor.activations.input_scale], np.float32)
    source = ComputedRows((1,), scale.dtype, lambda first, count: scale)
    return {INPUT_SCALE: PartSource(source)}
