"""Float weights that are quantized while they are read: matrices of codes and of scales, computed row by
row."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jinfer.errors import ConfigError
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.stored_matrix import CODES_OF_BITS, FLOAT8, INT8, StoredMatrix
from jinfer.weights.kernel_types import Fp8Kernel, Int4Kernel, Int8Kernel, KernelType
from jinfer.weights.param_spec import ParamSpec, ParamSpecs
from jinfer.weights.rounding import float8_scales, integer_scales, rounded_float8, rounded_integers
from jinfer.weights.tensor_source import TensorSource

logger = logging.getLogger(__name__)

GROUP_SIZE = 128  # inputs that share a scale of four bits
MIDDLE = 8  # the unsigned code of zero, of four bits
FLOAT32 = np.dtype(np.float32)
SCALE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""The dtypes that scales of four bits are rounded to, and their names in safetensors."""


@dataclass(frozen=True)
class Rounding(ABC):
    """A rule that makes codes and scales of the rows [out, in] of a weight. `dtype` is that of the engine."""

    dtype: np.dtype

    codes: ClassVar[str]
    zero: ClassVar[int] = 0

    @abstractmethod
    def kernel_type(self, num_in: int) -> KernelType | None:
        """The type of kernels with so many inputs; None where they stay floats."""

    @abstractmethod
    def scales(self, rows: np.ndarray) -> np.ndarray:
        """The scales of rows, [rows, groups]."""

    @abstractmethod
    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """The codes of rows."""


class Int8Rounding(Rounding):
    """int8 with a scale for each output, and activations in int8 by a scale for each token."""

    codes = INT8

    def kernel_type(self, num_in: int) -> KernelType | None:
        return Int8Kernel(None, False, "dynamic")

    def scales(self, rows: np.ndarray) -> np.ndarray:
        return integer_scales(rows, 8, FLOAT32)

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        return rounded_integers(rows, self.scales(rows), 8)


class Fp8Rounding(Rounding):
    """e4m3 with a scale for each output, and activations in e4m3 by a scale for each token."""

    codes = FLOAT8

    def kernel_type(self, num_in: int) -> KernelType | None:
        return Fp8Kernel("dynamic")

    def scales(self, rows: np.ndarray) -> np.ndarray:
        return float8_scales(rows, FLOAT32)

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        return rounded_float8(rows, self.scales(rows))


class Int4Rounding(Rounding):
    """Four bits with a scale for each output and 128 inputs; activations stay floats."""

    codes = CODES_OF_BITS[4]
    zero = MIDDLE

    def kernel_type(self, num_in: int) -> KernelType | None:
        return Int4Kernel(GROUP_SIZE, False, self.dtype.name) if num_in % GROUP_SIZE == 0 else None

    def scales(self, rows: np.ndarray) -> np.ndarray:
        return integer_scales(self._groups(rows), 4, self.dtype)[..., 0].astype(FLOAT32)

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        groups = self._groups(rows)
        codes = rounded_integers(groups, integer_scales(groups, 4, self.dtype), 4)
        return (codes + np.int8(MIDDLE)).reshape(rows.shape)

    def _groups(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), -1, GROUP_SIZE)


ROUNDINGS: Mapping[str, type[Rounding]] = {"int8": Int8Rounding, "fp8": Fp8Rounding, "int4": Int4Rounding}
"""The rules by the names that `quantization` takes."""


@dataclass(frozen=True, eq=False)
class RoundedRows(StoredMatrix):
    """A matrix that is computed of rows of floats, [out, in], of a tensor."""

    source: TensorSource
    shape: tuple[int, int]
    name: str
    compute: Callable[[np.ndarray], np.ndarray]

    @property
    def codes(self) -> str:
        return self.name

    def read_raw(self, first_row: int, num_rows: int) -> np.ndarray:
        return self.compute(self._floats(first_row, num_rows))

    def read(self, first_row: int, num_rows: int) -> np.ndarray:
        return self.read_raw(first_row, num_rows).astype(np.float32)

    def _floats(self, first_row: int, num_rows: int) -> np.ndarray:
        num_columns = self.source.shape[1]
        stored = np.empty(num_rows * num_columns * self.source.dtype.itemsize, np.uint8)
        self.source.read_rows(first_row, stored)
        return stored.view(self.source.dtype).reshape(num_rows, num_columns).astype(np.float32)


def rounded_tensor(source: TensorSource, rounding: Rounding) -> DequantizedTensor:
    """A float weight [out, in] as one that is stored quantized."""
    num_out, num_in = source.shape
    one_row = np.zeros((1, num_in), np.float32)
    num_groups = rounding.scales(one_row).shape[1]
    codes = RoundedRows(source, (num_out, num_in), rounding.codes, rounding.rounded)
    scales = RoundedRows(source, (num_out, num_groups), SCALE_NAMES[rounding.dtype.name], rounding.scales)
    grouping = Grouping.of_blocks((num_out, num_in), (1, num_in // num_groups))
    return DequantizedTensor(codes, Scales(scales, grouping, rounding.zero), is_turned=False)


def with_rounded_types(specs: ParamSpecs, rounding: Rounding) -> ParamSpecs:
    """The specs with the types of the kernels that a rule quantizes. Raises ConfigError if it takes none."""
    kernels = {path: spec for path, spec in specs.by_path.items() if _is_kernel(spec)}
    types = {path: rounding.kernel_type(spec.entry_shape[0]) for path, spec in kernels.items()}
    found = {path: kernel_type for path, kernel_type in types.items() if kernel_type is not None}
    if not found:
        sizes = sorted({spec.entry_shape[0] for spec in kernels.values()})
        raise ConfigError(
            f"quantization='int4' has groups of {GROUP_SIZE} inputs, and the products of this model have "
            f"{', '.join(map(str, sizes))}, no multiple of it; choose 'int8' or 'fp8'"
        )
    experts = [path for path, spec in specs.by_path.items() if spec.fused is not None and spec.is_transposed]
    if experts:
        logger.warning(
            "quantization leaves experts as they are (%s), which take most of the memory; a checkpoint whose "
            "experts are stored in fp8 or mxfp4 is served so",
            ", ".join(experts),
        )
    return specs.typed(found)


def _is_kernel(spec: ParamSpec) -> bool:
    return spec.is_stacked and spec.is_transposed and not spec.stays_float
