"""Tensors of a checkpoint that a model does not have and that can change nothing: they are left out."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES
from jinfer.weights.tensor_source import StoredTensor

T = TypeVar("T")
BYTE, NARROW_FLOATS = "uint8", ("F8_E4M3", "F8_E5M2")  # whose zero is a byte of zeros
BIAS_SUFFIX, BIAS_LEAF = ".bias", "/bias"
MAX_BIAS_BYTES = 2**24  # of a tensor that is read to compare it with zero; a row of any model is smaller


def is_harmless(name: str, tensor: StoredTensor, specs: ParamSpecs) -> bool:
    """True if the model computes the same with the tensor and without: it holds nothing, is a buffer that the
    model makes itself, or is a bias of zeros.

    Other tensors of zeros are not harmless: an unknown weight may be multiplied with anything. Raises
    CheckpointError where a bias cannot be read.
    """
    if 0 in tensor.shape or specs.ignores(name, tensor.dtype_name):
        return True
    return name.endswith(BIAS_SUFFIX) and _is_zero(tensor)


def without_harmless(
    given: Mapping[str, T], wanted: Collection[str], read: Callable[[T], np.ndarray]
) -> dict[str, T]:
    """Parameters by path, without those that are not `wanted` and hold nothing, or are biases of zeros."""
    return {path: x for path, x in given.items() if path in wanted or not _holds_nothing(path, x, read)}


def _holds_nothing(path: str, leaf: Any, read: Callable[[Any], np.ndarray]) -> bool:
    if 0 in np.shape(leaf):
        return True
    is_bias = path.endswith(BIAS_LEAF) and jnp.issubdtype(getattr(leaf, "dtype", np.void), jnp.floating)
    return is_bias and not np.any(read(leaf))


def _is_zero(tensor: StoredTensor) -> bool:
    dtype = SUPPORTED_DTYPES.get(
        tensor.dtype_name, BYTE if tensor.dtype_name.startswith(NARROW_FLOATS) else None
    )
    if len(tensor.shape) != 1 or dtype is None or tensor.num_bytes > MAX_BIAS_BYTES:
        return False
    stored = np.empty(tensor.num_bytes, np.uint8)
    tensor.read_bytes(0, stored)
    return not stored.view(dtype).any()
