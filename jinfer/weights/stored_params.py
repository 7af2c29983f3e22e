"""Parameters from a tree that names and arranges them in its own way: a map says where each lies.

Training code has a tree of its own: a module for each layer, or layers stacked along any axis; queries, keys
and values apart; kernels with an axis for heads.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.errors import CheckpointError
from jinfer.weights.axes import rearranged
from jinfer.weights.param_tree import flat_leaves, path_of
from jinfer.weights.params import Params, named, raise_faults, unflatten

logger = logging.getLogger(__name__)

LAYER = "{layer}"
Array = jax.Array | np.ndarray


@dataclass(frozen=True)
class StoredParam:
    """The place of a parameter in a tree.

    `path` has its keys, as in "decoder/layers/mlp/wo/kernel". With `{layer}` in it each layer has a leaf of
    its own, from 0 on or those of `layers`: they are stacked along a new first axis. `axes` names the axes of
    a leaf, and what becomes of them: "embed layer head dim -> layer embed (head dim)" puts the layers first
    and makes one axis of the last two, and "embed -> 1 embed" adds an axis. Values are multiplied by
    `factor`.
    """

    path: str
    axes: str | None = None
    layers: tuple[int, ...] | None = None
    factor: float = 1.0


ParamMap = Mapping[str, str | StoredParam | Sequence[str | StoredParam]]
"""The place of each parameter of a model by its path: a path alone where nothing is rearranged, and several
places for one whose columns lie side by side."""


def map_params(params: Params, param_map: ParamMap) -> dict[str, Any]:
    """The parameters that `param_map` finds in a tree, as a nested dict by the paths of the model.

    `params` is a nested mapping of arrays or nnx variables, such as an nnx.State or what `module.init` of
    Linen gives. Arrays of JAX are rearranged where they are; what needs no change is not copied. Raises
    CheckpointError that names all that is missing, or that cannot be arranged.
    """
    leaves = {path_of(keys): leaf for keys, leaf in flat_leaves(params).items()}
    return mapped(param_map, leaves, lambda path: _array(leaves[path]), "params")


def mapped(
    param_map: ParamMap,
    stored: Mapping[str, Any],
    read: Callable[[str], Array],
    where: str,
    *,
    placed: Callable[[Array], Array] = lambda array: array,
) -> dict[str, Any]:
    """The nested dict of the parameters, of leaves that `read` gives by their paths: one parameter after the
    other, each `placed` before the next is read."""
    places = {path: _places(place) for path, place in param_map.items()}
    wanted = {
        path: [leaf for place in of_param for leaf in _leaves(place, stored)]
        for path, of_param in places.items()
    }
    raise_faults(
        [
            f"{leaf}, of which {path} is made, is missing"
            for path, leaves in wanted.items()
            for leaf in leaves
            if leaf not in stored
        ],
        where,
    )
    left_out = sorted(stored.keys() - {leaf for leaves in wanted.values() for leaf in leaves})
    if left_out:
        logger.info("not in the map, and left out of %s: %s", where, named(left_out))
    return unflatten(
        {path: placed(_param(path, of_param, stored, read)) for path, of_param in places.items()}
    )


def _places(place: str | StoredParam | Sequence[str | StoredParam]) -> list[StoredParam]:
    several = [place] if isinstance(place, str | StoredParam) else list(place)
    return [StoredParam(each) if isinstance(each, str) else each for each in several]


def _leaves(place: StoredParam, stored: Mapping[str, Any]) -> list[str]:
    """The paths of the leaves of a place, layer by layer."""
    if LAYER not in place.path:
        return [place.path]
    if place.layers is not None:
        return [place.path.replace(LAYER, str(layer)) for layer in place.layers]
    found: list[str] = []
    while (path := place.path.replace(LAYER, str(len(found)))) in stored:
        found.append(path)
    return found or [place.path.replace(LAYER, "0")]


def _param(
    path: str, places: Sequence[StoredParam], stored: Mapping[str, Any], read: Callable[[str], Array]
) -> Array:
    parts = [_part(place, _leaves(place, stored), read) for place in places]
    if len(parts) == 1:
        return parts[0]
    shapes = [part.shape for part in parts]
    if len({shape[:-1] for shape in shapes}) > 1:
        raise CheckpointError(
            f"the parts of {path} have shapes {', '.join(map(str, shapes))}; all axes but the last must be "
            "equal: correct their axes in the map"
        )
    return _numpy_of(parts[0]).concatenate(parts, axis=-1)


def _part(place: StoredParam, leaves: Sequence[str], read: Callable[[str], Array]) -> Array:
    arranged = []
    for leaf in leaves:
        array = read(leaf)
        array = array if place.axes is None else rearranged(array, place.axes, leaf)
        arranged.append(array if place.factor == 1 else (array * place.factor).astype(array.dtype))
    return _numpy_of(arranged[0]).stack(arranged) if LAYER in place.path else arranged[0]


def _numpy_of(array: Array) -> Any:
    return jnp if isinstance(array, jax.Array) else np


def _array(leaf: Any) -> Array:
    from flax import nnx  # heavy, and a checkpoint does without

    value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    return value if isinstance(value, jax.Array) else np.asarray(value)
