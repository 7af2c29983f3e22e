"""Parameters that a caller has in memory: matching arrays to the model's parameters, and copying where
needed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.errors import CheckpointError, ConfigError
from jinfer.placement import Placement
from jinfer.weights.harmless_tensors import without_harmless
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.param_tree import parameters_of
from jinfer.weights.params import Params, check_params, flatten
from jinfer.weights.rounded_weights import Rounding
from jinfer.weights.safetensors_layout import rounded_slices
from jinfer.weights.streaming import fill_params, host_slices
from jinfer.weights.tied_params import fit_tied

WHERE = "params"


def fit_given(specs: ParamSpecs, params: Params) -> ParamSpecs:
    """The specs of a model with a head as it is given.

    `params` is a nested mapping of arrays or nnx variables (an nnx.State is one), or a training state with
    one in it. Raises CheckpointError, which names all that is missing, left over, misshapen or of a dtype
    that is no float.
    """
    specs, given = fit_tied(specs, _arrays(specs, params), np.asarray)
    check_params(without_harmless(given, specs.flat, np.asarray), specs.flat, WHERE)
    return specs


def adopt(
    specs: ParamSpecs,
    params: Params,
    *,
    rounding: Rounding | None = None,
    placement: Placement,
    progress: bool,
) -> tuple[Params, tuple[jax.Array, ...]]:
    """Params of which `fit_given` gave the specs, and those among them that are copies: of another dtype,
    from the host, or quantized by a rule. Those of numpy are copied on a CPU, too: the caller may write
    there."""
    placed = specs.placed(placement)
    wanted = {path: placed[path] for path in specs.flat if path not in specs.kernel_types}
    given = _arrays(specs, params)
    for path, tied in specs.tied.items():
        given.setdefault(path, given.get(tied.path))
    adopted = {
        path: jnp.asarray(x, wanted[path].dtype)
        for path in wanted
        if isinstance(x := given[path], jax.Array) and placement.has(x)
    }
    missing = {path: x for path, x in wanted.items() if path not in adopted}
    slices = [
        each for path, x in missing.items() for each in host_slices(path, np.asarray(given[path]), x.dtype)
    ]
    for path in specs.kernel_types:
        assert rounding is not None, "a rule gave the types"
        slices += rounded_slices(path, specs.by_path[path], np.asarray(given[path]), rounding)
        missing |= {name: placed[name] for name in specs.by_path[path].arrays(path)}
    adopted |= fill_params(missing, slices, placement, progress=progress)
    return specs.tree(adopted), tuple(x for path, x in adopted.items() if x is not given.get(path))


def _arrays(specs: ParamSpecs, params: Params) -> dict[str, Any]:
    """The arrays by the paths of the model's parameters, and the other arrays that lie beside them."""
    if not isinstance(params, Mapping):
        raise ConfigError(
            f"params is a {type(params).__name__}, and must be a nested dict of arrays (nnx.state(module) "
            "makes one)"
        )
    leaves = {tuple(path.split("/")): leaf for path, leaf in flatten(params).items()}
    keys = parameters_of(leaves, specs, WHERE)
    return {
        path: _array(path, leaves[k])
        for path, k in keys.items()
        if path in specs.by_path or leaves[k] is not None
    }


def _array(path: str, leaf: Any) -> jax.Array | np.ndarray:
    from flax import nnx  # heavy, and a checkpoint does without

    value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    if isinstance(value, jax.Array):
        if value.is_deleted():
            raise CheckpointError(
                f"params has a deleted array at {path}; give one that lives as long as the engine"
            )
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"params has a {type(value).__name__} at {path}, and must have an array ({error})"
        ) from error
