"""Random parameters instead of a checkpoint's."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import ArrayLike
from jaxtyping import Array

from jinfer.placement import Placement
from jinfer.weights.kernel_part import DEVIATIONS
from jinfer.weights.param_spec import Init, ParamSpecs
from jinfer.weights.params import Params
from jinfer.weights.rounding import FLOAT8_MAX

DUMMY_SCALE = 0.02  # the usual standard deviation of an untrained transformer's weights


def dummy_params(specs: ParamSpecs, seed: int, *, placement: Placement) -> Params:
    """Ones, zeros, or normal values with standard deviation 0.02, as the `init` of each array says; of a
    quantized kernel random codes, whose scale makes about as large weights of them. Each array is computed
    where the placement puts its axes."""
    placed, inits = specs.placed(placement), {path: x.init for path, x in specs.arrays.items()}
    key = jax.random.key(seed)

    def make(index: int, path: str) -> Array:
        x = placed[path]
        static = (inits[path], x.shape, x.dtype, x.sharding)
        return placement.call(_dummy, key, np.int32(index), static=static)

    with ThreadPoolExecutor() as threads:  # each shape is a program of its own, which takes longer to compile
        return specs.tree(dict(zip(placed, threads.map(make, range(len(placed)), placed), strict=True)))


@jax.jit(static_argnums=(2, 3, 4, 5))
def _dummy(
    key: Array, index: ArrayLike, init: Init, shape: tuple[int, ...], dtype: jnp.dtype, sharding: Sharding
) -> Array:
    """One parameter. XLA fuses the random bits into it on a GPU: no memory is needed beside the result."""
    return jax.lax.with_sharding_constraint(_values(key, index, init, shape, dtype), sharding)


def _values(key: Array, index: ArrayLike, init: Init, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    if init == "ones":
        return jnp.ones(shape, dtype)
    if init == "zeros":
        return jnp.zeros(shape, dtype)
    if isinstance(init, float):
        return jnp.full(shape, init, dtype)
    if init == "codes":
        return _codes(jax.random.fold_in(key, index), shape, dtype)
    return jax.random.normal(jax.random.fold_in(key, index), shape, dtype) * jnp.asarray(DUMMY_SCALE, dtype)


def _codes(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Integers of all their bits; of e4m3, whose bits may be a NaN, normal values that it can hold."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.lax.bitcast_convert_type(jax.random.bits(key, shape, f"uint{8 * dtype.itemsize}"), dtype)
    drawn = jax.random.normal(key, shape) * DEVIATIONS[dtype.name]
    return jnp.clip(drawn, -FLOAT8_MAX, FLOAT8_MAX).astype(dtype)
