"""Whether a head that is stored beside the embedding of a tied model is another matrix: as in transformers 5, values
decide, and not `tie_word_embeddings` alone."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from jinfer.models.config import ModelConfig
from jinfer.models.model import Model
from jinfer.weights.fitted_weights import Build
from jinfer.weights.params import EMBEDDING, HEAD
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES, FileTensor

logger = logging.getLogger(__name__)

T = TypeVar("T")
COMPARED_BYTES = 2**24  # at a time, of each of two tensors


def untied(config: ModelConfig, head: str, embedding: str) -> ModelConfig:
    """The config of a model with a head of its own, which is said, since the file says otherwise."""
    logger.warning(
        "tie_word_embeddings is true, but %s has other values than %s: the stored head is used; set it to false",
        head, embedding,
    )  # fmt: skip
    return dataclasses.replace(config, tie_word_embeddings=False)


def fit_head(
    config: ModelConfig, build: Build, given: Mapping[str, T], read: Callable[[T], np.ndarray]
) -> tuple[Model, dict[str, T]]:
    """The model of a config with a head as it is `given`, parameters by path, and those of them that it has: one of two
    that are the same, under the name that the model has for it. `read` gives the values of one."""
    model, rest = build(config), {path: x for path, x in given.items() if path != HEAD}
    if not config.tie_word_embeddings or HEAD not in given:
        return model, dict(given)
    if EMBEDDING not in given:
        return model, {**rest, EMBEDDING: given[HEAD]}
    if given[EMBEDDING] is given[HEAD] or np.array_equal(read(given[EMBEDDING]), read(given[HEAD])):
        return model, rest
    return build(untied(config, HEAD, EMBEDDING)), dict(given)


def have_same_values(one: FileTensor, other: FileTensor) -> bool:
    """Of tensors in files, which are read piece by piece up to the first difference. A NaN equals one of the same bits,
    where the dtypes are the same."""
    if one.shape != other.shape:
        return False
    if one.dtype_name == other.dtype_name:
        return _pieces_agree(one, other, np.dtype(np.uint8), np.dtype(np.uint8))
    if not {one.dtype_name, other.dtype_name} <= SUPPORTED_DTYPES.keys():
        return False
    return _pieces_agree(one, other, *(np.dtype(SUPPORTED_DTYPES[x.dtype_name]) for x in (one, other)))


def _pieces_agree(one: FileTensor, other: FileTensor, dtype: np.dtype, other_dtype: np.dtype) -> bool:
    piece = COMPARED_BYTES // max(dtype.itemsize, other_dtype.itemsize)  # elements
    total = one.num_bytes // dtype.itemsize
    for first in range(0, total, piece):
        count = min(piece, total - first)
        if not np.array_equal(_elements(one, dtype, first, count), _elements(other, other_dtype, first, count)):
            return False
    return True


def _elements(tensor: FileTensor, dtype: np.dtype, first: int, count: int) -> np.ndarray:
    stored = np.empty(count * dtype.itemsize, np.uint8)
    tensor.read_bytes(first * dtype.itemsize, stored)
    values = stored.view(dtype)
    return values if dtype == np.uint8 else values.astype(np.float64)
