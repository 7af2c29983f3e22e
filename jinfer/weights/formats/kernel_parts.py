"""The arrays of a quantized kernel, from what a checkpoint stores of it: read row by row, as the devices have
them, and never as floats."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from jinfer.weights.formats.dequantized_tensor import DequantizedTensor
from jinfer.weights.formats.packed_words import packed, packed_turned, zero_words, zero_words_turned
from jinfer.weights.formats.stored_matrix import CODES_OF_BITS, ReorderedMatrix, StoredMatrix
from jinfer.weights.kernel_part import INPUT_SCALE, PACKED, PACKED_ZEROS, PERMUTATION, SCALES, VALUES, ZEROS
from jinfer.weights.kernel_types import (
    BlockFp8Kernel,
    Fp8Kernel,
    Int4Kernel,
    Int8Kernel,
    KernelType,
    Mxfp4Kernel,
)
from jinfer.weights.tensor_source import ComputedRows, PartSource, ReadRows

MIDDLE = 128  # of unsigned codes of eight bits, where signed ones have 0


def kernel_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    """The parts of one module of a type that its codes have."""
    return PARTS_OF[type(kernel_type)](tensor, kernel_type)


def _int8_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    assert isinstance(kernel_type, Int8Kernel)
    offset, codes = MIDDLE if tensor.codes.codes == CODES_OF_BITS[8] else 0, _ordered_codes(tensor)
    parts = {
        VALUES: _values(tensor, lambda first, count: codes.read(first, count) - offset, np.dtype(np.int8)),
        SCALES: _of_groups(tensor, tensor.scales.matrix, jnp.dtype("float32")),
    }
    if isinstance(tensor.scales.zeros, StoredMatrix):
        parts[ZEROS] = _of_groups(tensor, tensor.scales.zeros, np.dtype(np.int8), offset)
    parts |= _input_scale(tensor, kernel_type.activations)
    return parts | _permutation(tensor, kernel_type.is_permuted)


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
    pack = packed_turned if tensor.is_turned else packed
    parts = {
        PACKED: pack(tensor.codes.shape, _ordered_codes(tensor).read),
        SCALES: _of_groups(tensor, tensor.scales.matrix, jnp.dtype(kernel_type.scale_dtype)),
    }
    if isinstance(tensor.scales.zeros, StoredMatrix):
        of_words = zero_words_turned if tensor.is_turned else zero_words
        parts[PACKED_ZEROS] = of_words(tensor, tensor.scales.zeros)
    return parts | _permutation(tensor, kernel_type.is_permuted)


def _mxfp4_parts(tensor: DequantizedTensor, kernel_type: KernelType) -> dict[str, PartSource]:
    matrix = tensor.scales.matrix
    scales = ComputedRows(matrix.shape, np.dtype(np.uint8), matrix.read_raw)
    return {
        PACKED: packed(tensor.codes.shape, tensor.codes.read_raw),
        SCALES: PartSource(scales, is_transposed=True),
    }


PARTS_OF: Mapping[type[KernelType], Callable[[DequantizedTensor, KernelType], dict[str, PartSource]]] = {
    Int8Kernel: _int8_parts,
    Fp8Kernel: _fp8_parts,
    BlockFp8Kernel: _block_fp8_parts,
    Int4Kernel: _int4_parts,
    Mxfp4Kernel: _mxfp4_parts,
}


def input_order(tensor: DequantizedTensor) -> np.ndarray:
    """The input that each code of an output multiplies, as the groups lie side by side."""
    order = tensor.scales.grouping.order
    return np.arange(tensor.shape[0 if tensor.is_turned else 1]) if order is None else order


def _ordered_codes(tensor: DequantizedTensor) -> StoredMatrix:
    grouping = tensor.scales.grouping
    if grouping.order is None:
        return tensor.codes
    return ReorderedMatrix(tensor.codes, tensor.codes.shape, grouping.order, grouping.ordered_axis)


def _permutation(tensor: DequantizedTensor, is_permuted: bool) -> dict[str, PartSource]:
    if not is_permuted:
        return {}
    order = input_order(tensor).astype(np.int32)
    source = ComputedRows(order.shape, order.dtype, lambda first, count: order[first : first + count])
    return {PERMUTATION: PartSource(source)}


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


def _input_scale(tensor: DequantizedTensor, activations: str) -> dict[str, PartSource]:
    if activations != "static":
        return {}
    scale = np.array([tensor.activations.input_scale], np.float32)
    source = ComputedRows((1,), scale.dtype, lambda first, count: scale)
    return {INPUT_SCALE: PartSource(source)}
