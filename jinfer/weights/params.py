"""Parameters as a nested dict of arrays, named by paths such as `attention/qkv/kernel`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jinfer.errors import CheckpointError
from jinfer.weights.tensor_source import WEIGHT_DTYPES

MAX_NAMED = 8  # of a long list of weights
Params = Mapping[str, Any]
"""A nested dict of arrays. Weights of layers are stacked: attention/qkv/kernel is [num_layers, in, out]."""


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    flat = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}/"))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    params: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return params


def check_params(given: Mapping[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct], where: str) -> None:
    """Raises CheckpointError, naming each, unless `given`, floats by path, has the paths and shapes of
    `wanted`."""
    faults = [f"{path} is missing" for path in wanted if path not in given]
    faults += [f"{path} is not a parameter of the model" for path in given if path not in wanted]
    faults += [
        f"{path} has shape {np.shape(given[path])}, the model needs {wanted[path].shape}"
        for path in wanted
        if path in given and np.shape(given[path]) != wanted[path].shape
    ]
    faults += [
        f"{path} has dtype {given[path].dtype.name}, of which jinfer reads "
        f"{', '.join(x.name for x in WEIGHT_DTYPES)}"
        for path in wanted
        if path in given and getattr(given[path], "dtype", WEIGHT_DTYPES[0]) not in WEIGHT_DTYPES
    ]
    raise_faults(faults, where)


def raise_faults(faults: list[str], where: str) -> None:
    """One CheckpointError that names the first few of many faults; nothing if there are none."""
    if not faults:
        return
    raise CheckpointError(f"the weights in {where} do not fit the model: {named(faults, '; ')}")


def named(names: Sequence[str], separator: str = ", ") -> str:
    """The first few of many names, and how many more there are."""
    more = f"{separator}and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return separator.join(names[:MAX_NAMED]) + more


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays (or their abstract shapes) in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
