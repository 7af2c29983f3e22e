"""The calls that the Mosaic kernels can serve, and those that they are chosen for. Imports nothing of Mosaic:
versions of JAX that lack what the kernels need answer no."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pallas_kernels.core.device import target_device
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int8Weight, QuantizedWeight

OLDEST_JAX = (0, 11)
UNIT = 128  # inputs and outputs come in multiples of it, as tiles do
SERVED = (Int8Weight, Fp8Weight, BlockFp8Weight)


def why_not(w: QuantizedWeight, out_dtype: DTypeLike) -> str | None:
    """The part of a call that the kernels leave out; None where they serve it."""
    if not isinstance(w, SERVED) or w.activations == "float":
        return f"{type(w).__name__} with activations {w.activations!r}, and they multiply eight bits alone"
    if w.num_in % UNIT or w.num_out % UNIT:
        return f"{w.num_in} inputs and {w.num_out} outputs, which must be multiples of {UNIT}"
    if jnp.dtype(out_dtype) != jnp.bfloat16:
        return f"results in {jnp.dtype(out_dtype)}, and they write bfloat16"
    if not target_device().is_hopper:
        return f"they are for Hopper (H100, H200), and the device is {target_device().kind!r}"
    if jax.__version_info__ < OLDEST_JAX:
        return f"jax is {jax.__version__}, and must be {'.'.join(map(str, OLDEST_JAX))} or newer"
    return None
