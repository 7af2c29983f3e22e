"""Parameters that a caller has in memory: which array is which, and how they come to be used."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jinfer.errors import CheckpointError, ConfigError
from jinfer.models.config import ModelConfig
from jinfer.models.fitted_weights import Build
from jinfer.models.harmless_tensors import without_harmless
from jinfer.models.model import Model, Params
from jinfer.models.param_tree import parameters_of
from jinfer.models.tied_head import fit_head
from jinfer.models.weight_stream import fill_params, host_parts
from jinfer.models.weights import EMBEDDING, HEAD, check_params, flatten, unflatten

WHERE = "params"


def fit_given(config: ModelConfig, build: Build, params: Params) -> Model:
    """The model of a config with a head as it is given.

    `params` is a nested mapping of arrays or nnx variables (an nnx.State is one), or a training state with one in it.
    Raises CheckpointError, which names all that is missing, left over, misshapen or of a dtype that is no float.
    """
    model, given = fit_head(config, build, _arrays(build(config), params), np.asarray)
    check_params(without_harmless(given, flatten(model.abstract_params), np.asarray), model.abstract_params, WHERE)
    return model


def adopt(model: Model, params: Params, *, progress: bool) -> tuple[Params, tuple[jax.Array, ...]]:
    """Params of which `fit_given` gave the model, and those among them that are copies: of another dtype, or from the
    host. Those of numpy are copied on a CPU, too: the caller may write there."""
    wanted, device = flatten(model.abstract_params), jax.devices()[0]
    given = _arrays(model, params)
    given.setdefault(EMBEDDING, given.get(HEAD))
    given = {path: given[path] for path in wanted}
    adopted = {path: jnp.asarray(x, wanted[path].dtype) for path, x in given.items() if _is_on(device, x)}
    missing = {path: x for path, x in wanted.items() if path not in adopted}
    parts = [part for path, x in missing.items() for part in host_parts(path, np.asarray(given[path]), x.dtype)]
    adopted |= fill_params(missing, parts, device, progress=progress)
    return unflatten(adopted), tuple(x for path, x in adopted.items() if x is not given[path])


def _arrays(model: Model, params: Params) -> dict[str, Any]:
    """The arrays by the paths of the model's parameters, and whatever is beside them."""
    if not isinstance(params, Mapping):
        raise ConfigError(
            f"params is a {type(params).__name__}, and must be a nested dict of arrays (nnx.state(module) makes one)"
        )
    leaves = {tuple(path.split("/")): leaf for path, leaf in flatten(params).items()}
    wanted = flatten(model.abstract_params)
    keys = parameters_of(leaves, wanted, WHERE)
    return {path: _array(path, leaves[k]) for path, k in keys.items() if path in wanted or leaves[k] is not None}


def _array(path: str, leaf: Any) -> jax.Array | np.ndarray:
    value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    if isinstance(value, jax.Array):
        if value.is_deleted():
            raise CheckpointError(f"params has a deleted array at {path}; give one that lives as long as the engine")
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"params has a {type(value).__name__} at {path}, and must have an array ({error})"
        ) from error


def _is_on(device: jax.Device, array: Any) -> bool:
    return isinstance(array, jax.Array) and device in array.devices()
