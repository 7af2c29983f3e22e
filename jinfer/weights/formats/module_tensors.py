"""The tensors that a checkpoint stores of one module, taken by name and checked."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jinfer.errors import CheckpointError
from jinfer.weights.formats.dequantized_tensor import InputArgs
from jinfer.weights.formats.stored_matrix import FLOATS, INT32, INT64, PlainMatrix, read_elements
from jinfer.weights.tensor_source import StoredTensor
from pallas_kernels.core.weights import Activations


@dataclass(frozen=True)
class ModuleTensors:
    """Tensors by the last part of their names, which follows a `joint`: `weight` is `<name>.weight`. All
    methods raise CheckpointError that names the tensor."""

    name: str
    tensors: Mapping[str, StoredTensor]
    joint: str = "."

    def full_name(self, leaf: str) -> str:
        """The whole name of a tensor."""
        return f"{self.name}{self.joint}{leaf}"

    def __contains__(self, leaf: str) -> bool:
        return leaf in self.tensors

    def dtype_name(self, leaf: str) -> str | None:
        """safetensors' name of a dtype; None where the tensor is absent."""
        return self.tensors[leaf].dtype_name if leaf in self.tensors else None

    def tensor(self, leaf: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> StoredTensor:
        """A tensor of one of the dtypes, and of one of the shapes."""
        found = self._stored(leaf, dtypes)
        if found.shape not in shapes:
            raise self.misshapen(leaf, " or ".join(map(str, shapes)))
        return found

    def matrix(self, leaf: str, dtypes: tuple[str, ...]) -> StoredTensor:
        """A tensor of two dimensions, which say how large the module is."""
        found = self._stored(leaf, dtypes)
        if len(found.shape) != 2 or 0 in found.shape:
            raise self.misshapen(leaf, "two dimensions")
        return found

    def blocks(self, leaf: str, dtypes: tuple[str, ...], block_size: int) -> StoredTensor:
        """A tensor [..., block_size] of three dimensions or more."""
        found = self._stored(leaf, dtypes)
        if len(found.shape) < 3 or 0 in found.shape or found.shape[-1] != block_size:
            raise self.misshapen(leaf, f"[..., {block_size}], of three dimensions or more")
        return found

    def scales(self, leaf: str, shape: tuple[int, int]) -> PlainMatrix:
        """Floats of a shape. A single column may lack its dimension, and a single number both."""
        return PlainMatrix(self.tensor(leaf, FLOATS, *shapes_of(shape)), shape)

    def integers(self, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        """The values of a small tensor of int32 or int64."""
        tensor = self.tensor(leaf, (INT32, INT64), shape)
        return read_elements(tensor, 0, int(np.prod(shape)))

    def input_args(self, kind: Activations, leaf: str) -> InputArgs:
        """The way in which the module treats its activations; static ones without a scale are dynamic."""
        if kind != "static" or leaf not in self.tensors:
            return InputArgs("dynamic" if kind == "static" else kind)
        (scale,) = read_elements(self.tensor(leaf, FLOATS, (1,), ()), 0, 1)
        return InputArgs(kind, float(scale))

    def group_indices(self, leaf: str, size: int, num_groups: int) -> np.ndarray:
        """The group of each of `size` input features."""
        groups = self.integers(leaf, (size,))
        if groups.min() < 0 or groups.max() >= num_groups:
            raise CheckpointError(
                f"{self.full_name(leaf)} names groups {groups.min()} to {groups.max()} of {num_groups}"
            )
        return groups

    def refuse(self, reason: str) -> CheckpointError:
        """The error of a module that the configuration contradicts."""
        return CheckpointError(f"{self.name} {reason}")

    def misshapen(self, leaf: str, needed: str) -> CheckpointError:
        """The error of a tensor of another shape than its format needs."""
        return CheckpointError(
            f"{self.full_name(leaf)} has shape {self.tensors[leaf].shape}, and its format needs {needed}"
        )

    def _stored(self, leaf: str, dtypes: tuple[str, ...]) -> StoredTensor:
        if leaf not in self.tensors:
            raise CheckpointError(f"{self.full_name(leaf)} is missing")
        found = self.tensors[leaf]
        if found.dtype_name not in dtypes:
            raise CheckpointError(
                f"{self.full_name(leaf)} has dtype {found.dtype_name}, and its format needs "
                f"{' or '.join(dtypes)}"
            )
        return found


def shapes_of(shape: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """The shapes that checkpoints have a matrix of scales or zero points in."""
    if shape == (1, 1):
        return shape, (1,), ()
    return (shape, shape[:1]) if shape[1] == 1 else (shape,)
