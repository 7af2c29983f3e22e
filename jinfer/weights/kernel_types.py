"""The types that kernels are served in beside floats, and the arrays that each is made of: the one place that
knows both."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jinfer.weights.kernel_part import (
    DUMMY_POWER,
    INPUT_SCALE,
    PACKED,
    PACKED_ZEROS,
    PERMUTATION,
    SCALES,
    VALUES,
    ZEROS,
    KernelPart,
    codes_part,
    input_scale_part,
    num_groups,
    permutation_part,
    scales_part,
)
from pallas_kernels.core.weights import (
    Activations,
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)
from pallas_kernels.core.weights.four_bits import PIECE, SLOT
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD
from pallas_kernels.core.weights.mxfp4 import MXFP4_GROUP


class KernelType(ABC):
    """A type of kernels. Its parts lie under the path of a kernel, by their names, and together are an object
    that `matmul` takes where it takes an array."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name of the type in messages."""

    @abstractmethod
    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        """The arrays of a kernel [in, out]."""

    @abstractmethod
    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        """The object that has the arrays, or what stands for them."""

    def joins(self, num_outputs: list[int]) -> bool:
        """True where kernels with so many outputs can lie side by side."""
        return True


@dataclass(frozen=True)
class Int8Kernel(KernelType):
    """int8 with a scale for each output, or for each group of its inputs, which may be in another order."""

    group_size: int | None
    has_zeros: bool
    activations: Activations
    is_permuted: bool = False

    @property
    def title(self) -> str:
        codes = f"int8 with {_shared(self.group_size)}{_extras(self.has_zeros, self.is_permuted)}"
        return f"{codes}, {self.activations} activations"

    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        groups = num_groups(num_in, self.group_size), num_out
        parts = {
            VALUES: codes_part((num_out, num_in), "int8"),
            SCALES: scales_part(groups, 1, "float32", "int8"),
        }
        if self.has_zeros:
            parts[ZEROS] = KernelPart(groups, jnp.dtype("int8"), 1, "zeros")
        return parts | input_scale_part(self.activations) | permutation_part(num_in, self.is_permuted)

    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        return Int8Weight(
            parts[VALUES],
            parts[SCALES],
            self.group_size or num_in,
            parts.get(ZEROS),
            parts.get(INPUT_SCALE),
            self.activations,
            parts.get(PERMUTATION),
        )


@dataclass(frozen=True)
class Fp8Kernel(KernelType):
    """e4m3 with a scale for each output."""

    activations: Activations

    @property
    def title(self) -> str:
        return f"e4m3 with a scale for each output, {self.activations} activations"

    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        parts = {
            VALUES: codes_part((num_out, num_in), "float8_e4m3fn"),
            SCALES: scales_part((num_out,), 0, "float32", "float8_e4m3fn"),
        }
        return parts | input_scale_part(self.activations)

    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        return Fp8Weight(parts[VALUES], parts[SCALES], parts.get(INPUT_SCALE), self.activations)


@dataclass(frozen=True)
class BlockFp8Kernel(KernelType):
    """e4m3 with a scale for each block of 128 x 128."""

    activations: Activations

    @property
    def title(self) -> str:
        return f"e4m3 with a scale for each 128 x 128, {self.activations} activations"

    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        blocks = num_groups(num_out, BLOCK_SIZE), num_groups(num_in, BLOCK_SIZE)
        return {
            VALUES: codes_part((num_out, num_in), "float8_e4m3fn"),
            SCALES: scales_part(blocks, 0, "float32", "float8_e4m3fn"),
        }

    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        return BlockFp8Weight(parts[VALUES], parts[SCALES], self.activations)

    def joins(self, num_outputs: list[int]) -> bool:
        return all(size % BLOCK_SIZE == 0 for size in num_outputs[:-1])


@dataclass(frozen=True)
class Int4Kernel(KernelType):
    """Four bits with a scale for each group of inputs, which may be in another order, in the dtype that it is
    stored in."""

    group_size: int | None
    has_zeros: bool
    scale_dtype: str
    is_permuted: bool = False

    @property
    def title(self) -> str:
        return f"4 bits with {_shared(self.group_size)}{_extras(self.has_zeros, self.is_permuted)}"

    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        of_inputs = num_groups(num_in, self.group_size)
        parts = {
            PACKED: codes_part((num_out, num_groups(num_in, PIECE) * SLOT), "uint16"),
            SCALES: scales_part((of_inputs, num_out), 1, self.scale_dtype, "uint16"),
        }
        if self.has_zeros:
            words = num_groups(of_inputs, ZEROS_OF_A_WORD)
            parts[PACKED_ZEROS] = KernelPart((words, num_out), jnp.dtype("uint32"), 1, "codes")
        return parts | permutation_part(num_in, self.is_permuted)

    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        return Int4Weight(
            parts[PACKED],
            parts[SCALES],
            num_in,
            self.group_size or num_in,
            parts.get(PACKED_ZEROS),
            parts.get(PERMUTATION),
        )


@dataclass(frozen=True)
class Mxfp4Kernel(KernelType):
    """e2m1 with a power of two for each 32 inputs."""

    @property
    def title(self) -> str:
        return f"e2m1 with a power of two for {MXFP4_GROUP} inputs"

    def parts(self, num_in: int, num_out: int) -> dict[str, KernelPart]:
        groups = num_groups(num_in, MXFP4_GROUP), num_out
        return {
            PACKED: codes_part((num_out, num_groups(num_in, PIECE) * SLOT), "uint16"),
            SCALES: KernelPart(groups, jnp.dtype("uint8"), 1, DUMMY_POWER),
        }

    def kernel(self, parts: Mapping[str, Any], num_in: int) -> QuantizedWeight:
        return Mxfp4Weight(parts[PACKED], parts[SCALES], num_in)


def _shared(group_size: int | None) -> str:
    return "a scale for each output" if group_size is None else f"a scale for {group_size} inputs"


def _extras(has_zeros: bool, is_permuted: bool) -> str:
    return f"{', zero points' if has_zeros else ''}{', inputs in the order of groups' if is_permuted else ''}"
