"""Codes of four bits in the words that kernels read, from what a checkpoint stores of them: row by row."""

import numpy as np

from jinfer.weights.formats.dequantized_tensor import DequantizedTensor
from jinfer.weights.formats.stored_matrix import StoredMatrix
from jinfer.weights.tensor_source import ComputedRows, PartSource, ReadRows
from pallas_kernels.core.weights.four_bits import CODES_OF_A_WORD, PIECE, SLOT
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD


def packed(shape: tuple[int, int], read_codes: ReadRows) -> PartSource:
    """Codes [out, in] as words of 16 bits [out, words]."""
    num_out, num_in = shape
    num_pieces = -(-num_in // PIECE)

    def read(first: int, count: int) -> np.ndarray:
        rows = read_codes(first, count).astype(np.uint16)
        filled = np.pad(rows, ((0, 0), (0, num_pieces * PIECE - num_in)))
        return _words(filled.reshape(count, num_pieces, CODES_OF_A_WORD, SLOT), axis=2)

    return PartSource(ComputedRows((num_out, num_pieces * SLOT), np.dtype(np.uint16), read))


def packed_turned(shape: tuple[int, int], read_codes: ReadRows) -> PartSource:
    """Codes [in, out] as words of 16 bits [words, out], which the device turns: a piece of inputs gives a
    quarter as many rows."""
    num_in, num_out = shape
    num_pieces = -(-num_in // PIECE)

    def read(first: int, count: int) -> np.ndarray:
        begin, end = first // SLOT, -(-(first + count) // SLOT)
        rows = read_codes(begin * PIECE, min(end * PIECE, num_in) - begin * PIECE).astype(np.uint16)
        filled = np.pad(rows, ((0, (end - begin) * PIECE - len(rows)), (0, 0)))
        slots = filled.reshape(end - begin, CODES_OF_A_WORD, SLOT, num_out)
        return _words(slots, axis=1).reshape(-1, num_out)[first - begin * SLOT :][:count]

    source = ComputedRows((num_pieces * SLOT, num_out), np.dtype(np.uint16), read)
    return PartSource(source, is_transposed=True)


def zero_words(tensor: DequantizedTensor, zeros: StoredMatrix) -> PartSource:
    """Zeros [out, groups] as words [out, words]."""
    num_words = -(-zeros.shape[1] // ZEROS_OF_A_WORD)

    def read(first: int, count: int) -> np.ndarray:
        rows = tensor.scales.of_outputs(zeros, first, count).astype(np.uint32)
        filled = np.pad(rows, ((0, 0), (0, num_words * ZEROS_OF_A_WORD - rows.shape[1])))
        return _words(filled.reshape(count, num_words, ZEROS_OF_A_WORD), axis=2)

    source = ComputedRows((tensor.shape[0], num_words), np.dtype(np.uint32), read)
    return PartSource(source, is_transposed=True)


def zero_words_turned(tensor: DequantizedTensor, zeros: StoredMatrix) -> PartSource:
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
