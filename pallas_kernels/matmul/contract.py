"""The arguments of a product: what is fused to it, and what contradicts what."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.core.gating import Activation
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.weights import QuantizedWeight, Weight
from pallas_kernels.matmul.weight_contract import check_weight

WeightT = TypeVar("WeightT", bound=Weight)
ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
"""The activations of a gate, in jax.numpy."""


class Fusion(NamedTuple):
    """The norm before a product, as scale and epsilon; the bias, the gate with its activation, and the
    residual after it, in that order."""

    norm: tuple[Array, float] | None = None
    bias: Array | None = None
    gated: bool = False
    residual: Array | None = None
    activation: Activation = "silu"


def check_arguments(
    x: Array, w: Weight, *, layer: int | Array | None, transposed: bool, fusion: Fusion
) -> None:
    """Raises ValueError for what contradicts each other, and UnsupportedError for dtypes that differ."""
    if isinstance(w, QuantizedWeight):
        _check_quantized(x, w, transposed)
    _check_product(x, w, layer, transposed)
    if not isinstance(w, QuantizedWeight) and x.dtype != w.dtype:
        raise UnsupportedError(f"x in {x.dtype} and w in {w.dtype}: no implementation mixes dtypes; cast x")
    _check_fusion(x, w, transposed, fusion)


def _check_product(x: Array, w: Weight, layer: int | Array | None, transposed: bool) -> None:
    if x.ndim != 2 or w.ndim not in (2, 3) or 0 in (*x.shape, *w.shape):
        raise ValueError(
            f"x has shape {x.shape} and w {w.shape}; pass [rows, in] and one or a stack of matrices"
        )
    if (w.ndim == 3) != (layer is not None):
        raise ValueError(
            f"layer={layer} with w of shape {w.shape}: a stack of layers needs one, a matrix takes none"
        )
    if isinstance(layer, int | np.integer) and not 0 <= layer < w.shape[0]:
        raise ValueError(f"layer={layer} is outside of a stack of {w.shape[0]} layers, which count from 0")
    num_in = w.shape[-1 if transposed else -2]
    if x.shape[1] != num_in:
        layout = "[out, in]" if transposed else "[in, out]"
        raise ValueError(
            f"x has {x.shape[1]} inputs and w {num_in}; they must be equal ({layout} is {w.shape[-2:]})"
        )


def _check_quantized(x: Array, w: QuantizedWeight, transposed: bool) -> None:
    check_weight(w)
    if transposed:
        raise ValueError(
            f"transposed=True with {type(w).__name__}: it knows which of its axes are inputs; leave "
            "transposed out"
        )
    if x.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        raise UnsupportedError(f"x in {x.dtype} and quantized weights: cast x to bfloat16 or float32")


def _check_fusion(x: Array, w: Weight, transposed: bool, fusion: Fusion) -> None:
    num_columns = w.shape[-2 if transposed else -1]
    if fusion.gated and num_columns % 2:
        raise ValueError(f"w has {num_columns} outputs; gate and others are equal halves of them")
    if fusion.activation not in get_args(Activation):
        raise ValueError(
            f"activation={fusion.activation!r} is none of the gate's: give one of {get_args(Activation)}"
        )
    out = x.shape[0], num_columns // 2 if fusion.gated else num_columns
    if fusion.residual is not None and fusion.residual.shape != out:
        raise ValueError(
            f"residual has shape {fusion.residual.shape} and the result {out}; they must be equal"
        )
    scale = None if fusion.norm is None else fusion.norm[0]
    for name, vector, size in (("norm's scale", scale, x.shape[1]), ("bias", fusion.bias, num_columns)):
        if vector is not None and vector.shape not in ((size,), (*w.shape[:-2], size)):
            raise ValueError(
                f"the {name} has shape {vector.shape}; it must be ({size},), or a stack of such as w is of "
                f"matrices (w is {w.shape})"
            )
    for name, array in (("scale", scale), ("bias", fusion.bias), ("residual", fusion.residual)):
        allowed = (x.dtype, jnp.float32) if name == "scale" else (x.dtype,)
        if array is not None and array.dtype not in allowed:
            raise UnsupportedError(
                f"x in {x.dtype} and {name} in {array.dtype}: no implementation mixes dtypes, but for a "
                "scale in float32; cast it"
            )


def of_layer(stack: WeightT, layer: int | Array | None, *, ndim: int) -> WeightT:
    """stack[layer], of each of its arrays; or the stack itself where it has `ndim` axes and so is none."""
    if stack.ndim == ndim or layer is None:
        return stack
    return jax.tree.map(lambda leaf: leaf[layer], stack)


def ended(y: Array, fusion: Fusion, layer: int | Array | None) -> Array:
    """residual + gate(y + bias) of a product y, in jax.numpy: what `fusion` has after it, rounded to y's
    dtype as it goes."""
    if fusion.bias is not None:
        y = y + of_layer(fusion.bias, layer, ndim=1).astype(y.dtype)
    if fusion.gated:
        gate, other = jnp.split(y, 2, axis=-1)
        y = ACTIVATIONS[fusion.activation](gate) * other
    return y if fusion.residual is None else fusion.residual.astype(y.dtype) + y
