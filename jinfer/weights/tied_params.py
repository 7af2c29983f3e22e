"""Tied parameters, such as a head and an embedding, that are both stored: as in transformers 5, values decide
whether they are one, and not `tie_word_embeddings` alone."""

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES
from jinfer.weights.tensor_source import StoredTensor

logger = logging.getLogger(__name__)

T = TypeVar("T")
COMPARED_BYTES = 2**24  # of each of two tensors at a time


def fit_tied(
    specs: ParamSpecs, given: Mapping[str, T], read: Callable[[T], np.ndarray]
) -> tuple[ParamSpecs, dict[str, T]]:
    """The specs with each tied parameter as it is `given`, and the given ones by the paths that the specs
    have: one of two that are the same. `read` gives the values of one."""
    rest = dict(given)
    for path, tied in specs.tied.items():
        if tied.path not in given:
            continue
        if path not in given:
            rest[path] = rest.pop(tied.path)
        elif _are_same(given[path], given[tied.path], read):
            del rest[tied.path]
        else:
            specs = untie(specs, path, stored_as=(tied.path, path))
    return specs, rest


def _are_same(one: T, other: T, read: Callable[[T], np.ndarray]) -> bool:
    return one is other or np.array_equal(read(one), read(other))


def untie(specs: ParamSpecs, path: str, *, stored_as: tuple[str, str]) -> ParamSpecs:
    """The specs with a head of its own, which is logged, since the configuration says otherwise. `stored_as`
    are the names of the head and of what it was tied to."""
    head, embedding = stored_as
    logger.warning(
        "tie_word_embeddings is true, but %s has other values than %s: the stored head is used; set it to "
        "false",
        head,
        embedding,
    )
    return specs.untied(path)


def have_same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """True if two tensors in files are equal; they are read chunk by chunk up to the first difference. A NaN
    equals one of the same bits, where the dtypes are the same."""
    if (one.shape, one.is_turned) != (other.shape, other.is_turned):
        return False
    if one.dtype_name == other.dtype_name:
        return _chunks_agree(one, other, np.dtype(np.uint8), np.dtype(np.uint8))
    if not {one.dtype_name, other.dtype_name} <= SUPPORTED_DTYPES.keys():
        return False
    return _chunks_agree(one, other, *(np.dtype(SUPPORTED_DTYPES[x.dtype_name]) for x in (one, other)))


def _chunks_agree(one: StoredTensor, other: StoredTensor, dtype: np.dtype, other_dtype: np.dtype) -> bool:
    chunk = COMPARED_BYTES // max(dtype.itemsize, other_dtype.itemsize)  # elements
    total = one.num_bytes // dtype.itemsize
    for first in range(0, total, chunk):
        count = min(chunk, total - first)
        if not np.array_equal(
            _elements(one, dtype, first, count), _elements(other, other_dtype, first, count)
        ):
            return False
    return True


def _elements(tensor: StoredTensor, dtype: np.dtype, first: int, count: int) -> np.ndarray:
    stored = np.empty(count * dtype.itemsize, np.uint8)
    tensor.read_bytes(first * dtype.itemsize, stored)
    values = stored.view(dtype)
    return values if dtype == np.uint8 else values.astype(np.float64)
