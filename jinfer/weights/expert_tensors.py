"""Experts that a checkpoint stores together, in one tensor of each layer, as tensors of each expert."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jinfer.errors import CheckpointError
from jinfer.weights.formats.dequantized_tensor import DequantizedStack, DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.stored_matrix import StoredMatrix
from jinfer.weights.param_spec import FusedTensor, ParamSpec, ParamSpecs
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES
from jinfer.weights.tensor_source import StoredTensor

EVERY_COLUMN = slice(None)


def with_expert_tensors(specs: ParamSpecs, files: TensorFiles) -> TensorFiles:
    """The tensors, with those of each expert by the names that the model has for them in the place of one
    that holds all experts of a layer. Nothing is read. Raises CheckpointError for a shape that does not
    fit."""
    parts: dict[str, Mapping[str, StoredTensor]] = {}
    for spec in specs.by_path.values():
        if spec.fused is None:
            continue
        for index, layer in enumerate(spec.layers):
            name = spec.fused.name.format(layer=layer)
            if name in files.tensors:
                _check_shape(name, files.tensors[name], spec, spec.fused)
                parts[name] = _parts(files.tensors[name], spec, spec.fused, index)
    if not parts:
        return files
    tensors = {
        name: tensor
        for stored_name, stored in files.tensors.items()
        for name, tensor in parts.get(stored_name, {stored_name: stored}).items()
    }
    return replace(files, tensors=tensors)


def _check_shape(name: str, stored: StoredTensor, spec: ParamSpec, fused: FusedTensor) -> None:
    needed = spec.shape[1:]
    is_stack_of_outputs = len(needed) == 3 and not (fused.is_turned or isinstance(stored, DequantizedStack))
    if is_stack_of_outputs:
        needed = (needed[0], needed[2], needed[1])
    is_readable = stored.dtype_name in SUPPORTED_DTYPES
    if stored.shape != needed or not is_readable:
        raise CheckpointError(
            f"{name} has dtype {stored.dtype_name} and shape {stored.shape}, and the model needs {needed}, "
            f"of {', '.join(SUPPORTED_DTYPES)}, for all experts of a layer together"
        )


def _parts(stored: StoredTensor, spec: ParamSpec, fused: FusedTensor, index: int) -> dict[str, StoredTensor]:
    """The tensors of the experts of one layer, by name."""
    return {
        name: _part(stored, place.indices[1], outputs, is_turned=fused.is_turned)
        for place in spec.places()
        if place.indices[0] == index
        for name, outputs in zip(place.names, _outputs(spec, fused), strict=True)
    }


def _outputs(spec: ParamSpec, fused: FusedTensor) -> Iterator[range]:
    """The outputs of each kind among all of an expert."""
    num_kinds, first = len(spec.tensors), 0
    for kind, tensor in enumerate(spec.tensors):
        if fused.is_interleaved:
            yield range(kind, spec.entry_shape[-1], num_kinds)
        else:
            yield range(first, first + tensor.num_columns)
        first += tensor.num_columns


def _part(stored: StoredTensor, expert: int, outputs: range, *, is_turned: bool) -> StoredTensor:
    """Some outputs of one expert."""
    if isinstance(stored, DequantizedStack):
        return _quantized_part(stored.rows, _further(outputs, expert * stored.shape[-1]))
    num_rows = stored.shape[1]
    if is_turned and len(stored.shape) == 3:
        columns = slice(outputs.start, outputs.stop, outputs.step)
        return ExpertTensor(stored, range(expert * num_rows, (expert + 1) * num_rows), columns)
    return ExpertTensor(stored, _further(outputs, expert * num_rows))


def _further(outputs: range, first: int) -> range:
    return range(first + outputs.start, first + outputs.stop, outputs.step)


def _quantized_part(matrix: DequantizedTensor, rows: range) -> DequantizedTensor:
    """Some rows of a matrix, each of which has scales of its own."""
    block = matrix.scales.grouping.block
    assert block is not None
    assert block[0] == 1, "rows do not share scales"
    codes, scales = ChosenRows(matrix.codes, rows), ChosenRows(matrix.scales.matrix, rows)
    return DequantizedTensor(codes, Scales(scales, Grouping.of_blocks(codes.shape, block)), is_turned=False)


class ChosenRows(StoredMatrix):
    """Rows of a matrix at equal distances."""

    def __init__(self, matrix: StoredMatrix, rows: range) -> None:
        self.shape = len(rows), matrix.shape[1]
        self._matrix = matrix
        self._rows = rows

    @property
    def codes(self) -> str:
        return self._matrix.codes

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        among = self._rows[first_row : first_row + num_rows]
        return self._matrix.read_raw(among[0], among[-1] + 1 - among[0])[:: among.step]

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        among = self._rows[first_row : first_row + num_rows]
        return self._matrix.read(among[0], among[-1] + 1 - among[0])[:: among.step].copy()


class ExpertTensor(StoredTensor):
    """Floats of one expert, in a tensor of all: some `rows`, at equal distances, of the matrix
    [experts * n, k] that a stack [experts, n, k] is, or some `columns` of them, which are outputs then. Of
    vectors [experts, n] the rows have one element each."""

    def __init__(self, stack: StoredTensor, rows: range, columns: slice = EVERY_COLUMN) -> None:
        self._stack, self._rows, self._columns = stack, rows, columns
        self._stored_dtype = jnp.dtype(SUPPORTED_DTYPES[stack.dtype_name])
        self._row_size = math.prod(stack.shape[2:])
        self.dtype_name = stack.dtype_name
        self.is_turned = columns != EVERY_COLUMN
        num_columns = len(range(self._row_size)[columns])
        self.shape = (len(rows),) if len(stack.shape) == 2 else (len(rows), num_columns)
        self.num_bytes = math.prod(self.shape) * self._stored_dtype.itemsize

    @property
    def dtype(self) -> np.dtype:
        return self._stack.dtype

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        rows = out.view(self.dtype).reshape(-1, *self.shape[1:])
        np.copyto(rows, self._read(first_row, len(rows)).reshape(rows.shape), casting="unsafe")

    def read_bytes(self, first: int, out: np.ndarray) -> None:
        """Fills `out` from the rows that hold these bytes."""
        row_bytes = self.num_bytes // self.shape[0]
        first_row, end_row = first // row_bytes, -(-(first + len(out)) // row_bytes)
        rows = np.ascontiguousarray(self._read(first_row, end_row - first_row)).view(np.uint8).reshape(-1)
        skipped = first - first_row * row_bytes
        out[:] = rows[skipped : skipped + len(out)]

    def _read(self, first_row: int, num_rows: int) -> np.ndarray:
        """Rows as they are stored, by way of those between them."""
        among = self._rows[first_row : first_row + num_rows]
        row_bytes = self._row_size * self._stored_dtype.itemsize
        stored = np.empty((among[-1] + 1 - among[0]) * row_bytes, np.uint8)
        self._stack.read_bytes(among[0] * row_bytes, stored)
        return stored.view(self._stored_dtype).reshape(-1, self._row_size)[:: among.step, self._columns]
