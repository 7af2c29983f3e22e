"""The types in which a checkpoint's quantized kernels are served: their own, where all modules of a parameter
have one in common."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from jinfer.weights.formats.checkpoint_format import WEIGHT, CheckpointFormat
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor
from jinfer.weights.formats.kernel_parts import input_order
from jinfer.weights.formats.stored_matrix import CODES_OF_BITS, FLOAT4, FLOAT8, INT8, StoredMatrix
from jinfer.weights.kernel_types import (
    BlockFp8Kernel,
    Fp8Kernel,
    Int4Kernel,
    Int8Kernel,
    KernelType,
    Mxfp4Kernel,
)
from jinfer.weights.param_spec import ParamSpec, ParamSpecs
from jinfer.weights.params import named
from jinfer.weights.tensor_source import StoredTensor
from pallas_kernels.core.weights import Activations
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE

logger = logging.getLogger(__name__)

PermutedKernel = Int4Kernel | Int8Kernel
"""The types whose inputs may be in another order."""
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # of scales that stay as they are


def with_stored_types(
    specs: ParamSpecs, tensors: Mapping[str, StoredTensor]
) -> tuple[ParamSpecs, Mapping[str, StoredTensor]]:
    """The specs with the types of kernels whose modules are stored alike in all layers, and the tensors, with
    one scale of activations for modules that lie side by side. Other kernels become floats, and are named:
    also modules side by side whose inputs are in different orders."""
    types, changed, floats = dict[str, KernelType](), dict(tensors), []
    for path, spec in specs.by_path.items():
        quantized = {
            name: tensor
            for name in spec.tensor_names()
            if isinstance(tensor := tensors.get(name), DequantizedTensor)
        }
        if not quantized:
            continue
        kernel_type = _common_type(spec, tensors)
        if kernel_type is None:
            floats += list(quantized)
        else:
            types[path] = kernel_type
            changed |= _with_common_input_scale(spec, quantized)
    if floats:
        logger.info("stored quantized, and served as floats, in as much memory: %s", named(floats))
    return specs.typed(types), changed


def with_described_types(specs: ParamSpecs, stored_as: CheckpointFormat) -> ParamSpecs:
    """The specs with the types that kernels of a format have, by its configuration alone: for random weights.
    Kernels of a format that does not say it stay floats."""
    types = {path: _described_type(spec, stored_as) for path, spec in specs.by_path.items()}
    return specs.typed({path: kernel_type for path, kernel_type in types.items() if kernel_type is not None})


def _described_type(spec: ParamSpec, stored_as: CheckpointFormat) -> KernelType | None:
    is_expert = spec.num_experts is not None
    if not (spec.is_stacked and spec.is_transposed) or (spec.stays_float and not is_expert):
        return None
    types = {stored_as.kernel_type(name.removesuffix(f".{WEIGHT}")) for name in spec.tensor_names()}
    found = types.pop()
    if types or found is None or not found.joins([tensor.num_columns for tensor in spec.tensors]):
        return None
    return expert_type(found) if is_expert else found


def _common_type(spec: ParamSpec, tensors: Mapping[str, StoredTensor]) -> KernelType | None:
    if not (spec.is_stacked and spec.is_transposed):
        return None
    stored = [tensors.get(name) for name in spec.tensor_names()]
    types = {kernel_type_of(tensor) if isinstance(tensor, DequantizedTensor) else None for tensor in stored}
    permuted = {each for each in types if isinstance(each, PermutedKernel) and each.is_permuted}
    if permuted and None not in types:
        if not _have_common_orders(spec, tensors):
            return None
        # What is in order has a permutation that changes nothing.
        plain = {each for each in types - permuted if isinstance(each, PermutedKernel)}
        types = (types - plain) | {replace(each, is_permuted=True) for each in plain}
    found = types.pop()
    if types or found is None or not found.joins([tensor.num_columns for tensor in spec.tensors]):
        return None
    return found if spec.num_experts is None else expert_type(found)


def expert_type(kernel_type: KernelType) -> KernelType | None:
    """The type of experts whose kernels are of a type; None where experts are not served in it. What they
    multiply stays floats."""
    match kernel_type:
        case Fp8Kernel() | BlockFp8Kernel():
            return replace(kernel_type, activations="float")
        case Mxfp4Kernel():
            return kernel_type
    return None


def _have_common_orders(spec: ParamSpec, tensors: Mapping[str, StoredTensor]) -> bool:
    """True where the modules of each layer, which lie side by side, have their inputs in one order."""
    for place in spec.places():
        side_by_side = [tensors.get(name) for name in place.names]
        first, *others = [input_order(each) for each in side_by_side if isinstance(each, DequantizedTensor)]
        if not all(np.array_equal(first, other) for other in others):
            return False
    return True


def _with_common_input_scale(
    spec: ParamSpec, tensors: Mapping[str, DequantizedTensor]
) -> dict[str, DequantizedTensor]:
    """The modules of each layer with the largest of their scales: they read the same activations, of which
    none is clipped then."""
    changed: dict[str, DequantizedTensor] = {}
    for place in spec.places():
        names = place.names
        scales = [tensors[name].activations.input_scale for name in names if name in tensors]
        found = [scale for scale in scales if scale is not None]
        if found:
            changed |= {name: tensors[name].with_input_scale(max(found)) for name in names if name in tensors}
    return changed


def kernel_type_of(tensor: DequantizedTensor) -> KernelType | None:
    """The type that has the codes of a module as they are stored; None where there is none."""
    if tensor.codes.codes == FLOAT4:
        return Mxfp4Kernel()
    block, is_permuted = tensor.scales.grouping.block, tensor.scales.grouping.order is not None
    if block is None:
        return None  # groups of several sizes
    rows, columns = block
    num_out, num_in = tensor.shape
    if tensor.is_turned:
        rows, columns, num_out, num_in = columns, rows, num_in, num_out
    shares_all = rows >= num_out and columns >= num_in
    if tensor.codes.codes == FLOAT8 and is_permuted:
        return None
    if tensor.codes.codes == FLOAT8:
        return _float8_type(tensor, block, is_by_output=shares_all or (rows == 1 and columns >= num_in))
    if rows != 1 and not shares_all:
        return None
    group_size = None if columns >= num_in else columns
    return _integer_type(tensor, group_size, is_permuted)


def _float8_type(
    tensor: DequantizedTensor, block: tuple[int, int], *, is_by_output: bool
) -> KernelType | None:
    activations = tensor.activations.kind
    if block == (BLOCK_SIZE, BLOCK_SIZE):
        return BlockFp8Kernel("float" if activations == "float" else "dynamic")
    if not is_by_output or isinstance(tensor.scales.zeros, StoredMatrix):
        return None
    return Fp8Kernel(activations)


def _integer_type(tensor: DequantizedTensor, group_size: int | None, is_permuted: bool) -> KernelType | None:
    has_zeros = isinstance(tensor.scales.zeros, StoredMatrix)
    if tensor.codes.codes == CODES_OF_BITS[4]:
        return Int4Kernel(group_size, has_zeros, DTYPES[tensor.scales.matrix.codes], is_permuted)
    if tensor.codes.codes not in (INT8, CODES_OF_BITS[8]):
        return None
    activations: Activations = tensor.activations.kind
    if has_zeros or group_size is not None:
        activations = "float"  # sums of integers have one scale
    return Int8Kernel(group_size, has_zeros, activations, is_permuted)
