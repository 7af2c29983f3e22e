"""Random parameters instead of a checkpoint's."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from jinfer.weights.param_spec import Init, ParamSpecs
from jinfer.weights.params import Params, unflatten

DUMMY_SCALE = 0.02  # the usual standard deviation of an untrained transformer's weights


def dummy_params(specs: ParamSpecs, seed: int) -> Params:
    """Ones, zeros, or normal values with standard deviation 0.02, as the `init` of each parameter says."""
    paths = list(specs.flat)
    key = jax.random.key(seed)

    def make(index: int, path: str) -> Array:
        spec = specs.by_path[path]
        return _dummy(key, index, spec.init, spec.shape, spec.dtype)

    with ThreadPoolExecutor() as threads:  # each shape is a program of its own, which takes longer to compile
        return unflatten(dict(zip(paths, threads.map(make, range(len(paths)), paths), strict=True)))


@jax.jit(static_argnums=(2, 3, 4))
def _dummy(key: Array, index: ArrayLike, init: Init, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """One parameter. XLA fuses the random bits into it on a GPU: no memory is needed beside the result."""
    if init == "ones":
        return jnp.ones(shape, dtype)
    if init == "zeros":
        return jnp.zeros(shape, dtype)
    return jax.random.normal(jax.random.fold_in(key, index), shape, dtype) * jnp.asarray(DUMMY_SCALE, dtype)
