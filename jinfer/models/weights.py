"""Parameters as a nested dict of arrays, named by paths such as `attention/qkv/kernel`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jinfer.errors import CheckpointError

MOST_NAMED = 8  # of a long list of faulty weights


@dataclass(frozen=True)
class WeightSource:
    """The tensors of a Hugging Face checkpoint that make up a parameter.

    `tensor_names` are joined along the last axis. A name with `{layer}` in it stands for one tensor per layer, stacked.
    """

    tensor_names: tuple[str, ...]
    transposed: bool = False

    @property
    def is_stacked(self) -> bool:
        return "{layer}" in self.tensor_names[0]


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


def check_params(params: Mapping[str, Any], abstract: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError, naming each, unless `params` has exactly the paths and shapes of `abstract`."""
    given, wanted = flatten(params), flatten(abstract)
    faults = [f"{path} is missing" for path in wanted if path not in given]
    faults += [f"{path} is not a parameter of the model" for path in given if path not in wanted]
    faults += [
        f"{path} has shape {np.shape(given[path])}, the model needs {wanted[path].shape}"
        for path in wanted
        if path in given and np.shape(given[path]) != wanted[path].shape
    ]
    raise_faults(faults, where)


def raise_faults(faults: list[str], where: str) -> None:
    """One CheckpointError that names the first few of many faults; nothing if there are none."""
    if not faults:
        return
    more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    raise CheckpointError(f"the weights in {where} do not fit the model: {'; '.join(faults[:MOST_NAMED])}{more}")


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays (or their abstract shapes) in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
