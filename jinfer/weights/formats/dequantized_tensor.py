"""The float weight that integers or narrow floats with scales stand for, computed while it is read."""

import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from jinfer.weights.formats.stored_matrix import StoredMatrix
from jinfer.weights.tensor_source import StoredTensor
from pallas_kernels.core.weights import Activations

FLOAT32 = jnp.dtype("float32")


@dataclass(frozen=True, eq=False)
class Grouping:
    """The elements of a matrix that share a scale: element [r, c] has `scales[row_groups[r],
    column_groups[c]]`, of scales of a `shape`.

    Without `column_groups`, the columns are those of the scales, or have one in common. `block` is the
    size of the groups where they lie side by side in their order, and None where they do not. `order` are the
    rows (`ordered_axis` 0) or the columns (1) sorted by their groups, where these lie side by side only then.
    """

    shape: tuple[int, int]
    row_groups: np.ndarray
    column_groups: np.ndarray | None
    block: tuple[int, int] | None
    order: np.ndarray | None = None
    ordered_axis: int = 0

    @classmethod
    def of_blocks(cls, shape: tuple[int, int], block: tuple[int, int]) -> "Grouping":
        """Blocks of a matrix, of which those at the edges may be smaller."""
        (num_rows, num_columns), (rows, columns) = shape, block
        groups = -(-num_rows // rows), -(-num_columns // columns)
        is_plain = groups[1] in (1, num_columns)
        column_groups = None if is_plain else np.arange(num_columns) // columns
        return cls(groups, np.arange(num_rows) // rows, column_groups, block)

    def with_groups(self, groups: np.ndarray, axis: int) -> "Grouping":
        """The same groups, of which each row (axis 0) or column (axis 1) names its own."""
        assert self.block is not None
        in_order = np.arange(len(groups)) // self.block[axis]
        if np.array_equal(groups, in_order):
            return self
        order = np.argsort(groups, kind="stable")
        named = replace(self, row_groups=groups) if axis == 0 else replace(self, column_groups=groups)
        if not np.array_equal(groups[order], in_order):
            return replace(named, block=None)  # groups of other sizes
        return replace(named, order=order, ordered_axis=axis)


@dataclass(frozen=True, eq=False)
class Scales:
    """The scale of each group of elements, and the code that stands for zero there, which may be one for
    all."""

    matrix: StoredMatrix
    grouping: Grouping
    zeros: StoredMatrix | int = 0

    def apply(self, codes: np.ndarray, first_row: int) -> None:
        """Turns the codes of rows, float32, into what they stand for: (code - zero) * scale, in float32."""
        groups = self.grouping.row_groups[first_row : first_row + len(codes)]
        if isinstance(self.zeros, StoredMatrix):
            codes -= self._of_rows(self.zeros, groups)
        elif self.zeros:
            codes -= np.float32(self.zeros)
        codes *= self._of_rows(self.matrix, groups)

    def of_outputs(self, matrix: StoredMatrix, first_row: int, num_rows: int) -> np.ndarray:
        """The numbers of rows of the weight, one for each group of columns: of the scales or the zeros."""
        return matrix.take(self.grouping.row_groups[first_row : first_row + num_rows])

    def _of_rows(self, matrix: StoredMatrix, groups: np.ndarray) -> np.ndarray:
        rows = matrix.take(groups)
        columns = self.grouping.column_groups
        return rows if columns is None else rows.take(columns, axis=1)


@dataclass(frozen=True)
class InputArgs:
    """The way in which a module treats its activations: see `Activations`. `input_scale` is that of "static"
    ones."""

    kind: Activations = "float"
    input_scale: float | None = None


class DequantizedTensor(StoredTensor):
    """A weight of float32, of which no more is held than what is being read. `codes` and `scales` are what it
    is computed of."""

    dtype_name = "F32"

    def __init__(
        self, codes: StoredMatrix, scales: Scales, *, is_turned: bool, activations: InputArgs = InputArgs()
    ) -> None:
        self.shape = codes.shape
        self.num_bytes = math.prod(self.shape) * FLOAT32.itemsize
        self.is_turned = is_turned
        self.codes = codes
        self.scales = scales
        self.activations = activations

    def with_input_scale(self, input_scale: float) -> "DequantizedTensor":
        """The same weight with another scale of its activations."""
        changed = replace(self.activations, input_scale=input_scale)
        return DequantizedTensor(self.codes, self.scales, is_turned=self.is_turned, activations=changed)

    @property
    def dtype(self) -> np.dtype:
        return FLOAT32

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        rows = out.view(np.float32).reshape(-1, self.shape[1])
        codes = self.codes.read(first_row, len(rows))
        self.scales.apply(codes, first_row)
        np.copyto(rows, codes)

    def read_bytes(self, first: int, out: np.ndarray) -> None:
        """Fills `out` from the rows that hold these bytes."""
        row_bytes = self.shape[1] * FLOAT32.itemsize
        first_row, end_row = first // row_bytes, -(-(first + len(out)) // row_bytes)
        rows = np.empty((end_row - first_row) * row_bytes, np.uint8)
        self.read_rows(first_row, rows)
        skipped = first - first_row * row_bytes
        out[:] = rows[skipped : skipped + len(out)]


class DequantizedStack(StoredTensor):
    """A stack of weights [..., in, out] of float32, whose matrices lie turned one below the other in `rows`.

    A whole matrix is held while a part of it is read.
    """

    dtype_name = "F32"

    def __init__(self, rows: DequantizedTensor, leading: tuple[int, ...]) -> None:
        num_rows, num_in = rows.shape
        self.shape = (*leading, num_in, num_rows // math.prod(leading))
        self.num_bytes = rows.num_bytes
        self.rows = rows

    @property
    def dtype(self) -> np.dtype:
        return FLOAT32

    def read_rows(self, first_row: int, out: np.ndarray) -> None:
        row_bytes = self.num_bytes // self.shape[0]
        self.read_bytes(first_row * row_bytes, out)

    def read_bytes(self, first: int, out: np.ndarray) -> None:
        """Fills `out` from the matrices that hold these bytes."""
        num_in, num_out = self.shape[-2:]
        matrix = np.empty((num_out, num_in), np.float32)
        end = first + len(out)
        for number in range(first // matrix.nbytes, -(-end // matrix.nbytes)):
            self.rows.read_rows(number * num_out, matrix.view(np.uint8).reshape(-1))
            begin = number * matrix.nbytes
            turned = np.ascontiguousarray(matrix.T).view(np.uint8).reshape(-1)
            wanted = slice(max(first - begin, 0), min(end - begin, matrix.nbytes))
            out[begin + wanted.start - first : begin + wanted.stop - first] = turned[wanted]
