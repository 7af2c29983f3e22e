"""Orbax checkpoints of other code, such as MaxText's, by a map of their parameters."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jinfer.errors import CheckpointError
from jinfer.weights.orbax import restore, stored_leaves
from jinfer.weights.orbax_layout import find_trees
from jinfer.weights.param_tree import path_of
from jinfer.weights.stored_params import ParamMap, mapped


def load_mapped_orbax(directory: Path, param_map: ParamMap) -> dict[str, Any]:
    """See `jinfer.modeling.load_mapped_orbax`."""
    tree = next(iter(find_trees(directory)), None)
    if tree is None:
        raise CheckpointError(f"{directory} holds no tree that Orbax wrote; name the folder of a step")
    keys = {path_of(keys): keys for keys in stored_leaves(tree.resolve())}

    def read(path: str) -> np.ndarray:
        how = {keys[path]: ocp.RestoreArgs(restore_type=np.ndarray)}
        return next(iter(restore(tree.resolve(), how).values()))

    return mapped(param_map, keys, read, str(tree), placed=jnp.asarray)
