"""The parts that decoders are made of, as Flax NNX modules.

A module holds one kind of weight for all layers, stacked as [num_layers, ...], and is called with a layer's index, an
int32 scalar that is constant once compiled: a step has few arguments that way, and XLA reads a static slice of the
stack in place. Parameters are declared by shape alone (`jax.ShapeDtypeStruct`); `Model` fills in the arrays when a
step is traced.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from pallas_kernels import Implementation
from pallas_kernels.linear import MAX_NORM_ROWS, linear
from pallas_kernels.rms_norm import rms_norm
from pallas_kernels.selection import select

MOST_PLAIN_ROWS = 32  # of our kernel without a norm: o and down of 8B are 1.23 and 1.10 times as fast as cuBLAS's
LayerIndex = Int32[Array, ""] | int


class Kernel(nnx.Param):
    """A matrix, or a stack of them."""


class Bias(nnx.Param):
    """Added to a projection."""


class Scale(nnx.Param):
    """The weight of a normalization."""


def full_precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """float32 matmuls in full float32, which a GPU otherwise rounds to TF32."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class RMSNorm(nnx.Module):
    """RMSNorm over the last axis with scale[layer], for each of `num_layers` layers.

    XLA fuses the norm with what is around it. With the Pallas kernel, whose result goes through memory, a decode step
    of Qwen3-0.6B on an H200 took 4.29 ms in place of 3.98 (64 rows), and of 8B the same (benchmarks/results).
    """

    def __init__(self, num_layers: int, features: int, epsilon: float, dtype: jnp.dtype) -> None:
        self.scale = Scale(jax.ShapeDtypeStruct((num_layers, features), dtype))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch features"], layer: LayerIndex) -> Float[Array, "*batch features"]:
        return rms_norm(x, self.scale[layer], epsilon=self.epsilon, implementation="reference")


class Linear(nnx.Module):
    """x @ kernel[layer] (+ bias[layer]) for each of `num_layers` layers, with what a decoder does around it.

    Of few rows, where reading the weights is what takes time, a kernel of ours does all of it at once. Beyond, cuBLAS
    multiplies and XLA fuses the rest.
    """

    def __init__(
        self,
        num_layers: int,
        in_features: int,
        out_features: int,
        dtype: jnp.dtype,
        implementation: Implementation,
        *,
        bias: bool,
    ) -> None:
        self.kernel = Kernel(jax.ShapeDtypeStruct((num_layers, in_features, out_features), dtype))
        self.bias = Bias(jax.ShapeDtypeStruct((num_layers, out_features), dtype)) if bias else None
        self.implementation = implementation

    def __call__(
        self,
        x: Float[Array, "tokens in"],
        layer: LayerIndex,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        residual: Float[Array, "tokens out"] | None = None,
    ) -> Float[Array, "tokens out"]:
        """residual + gate(norm(x) @ kernel[layer] + bias[layer]); a gate makes silu(y1) * y2 of the halves of y."""
        most_rows = MOST_PLAIN_ROWS if norm is None else MAX_NORM_ROWS
        if self.bias is None and _is_served_by_our_kernel(x, self.implementation, most_rows):
            fused_norm = None if norm is None else (norm.scale[...], norm.epsilon)
            return linear(
                x, self.kernel[...], layer=layer, norm=fused_norm, gated=gated, residual=residual,
                implementation=self.implementation,
            )  # fmt: skip
        x = x if norm is None else norm(x, layer)
        y = jnp.matmul(x, self.kernel[layer], precision=full_precision(x.dtype))
        y = y if self.bias is None else y + self.bias[layer]
        if gated:
            gate, up = jnp.split(y, 2, axis=-1)
            y = jax.nn.silu(gate) * up
        return y if residual is None else residual + y


def _is_served_by_our_kernel(x: Array, implementation: Implementation, most_rows: int = MAX_NORM_ROWS) -> bool:
    """For few rows it is up to twice as fast as XLA. With a norm cuBLAS is ahead from 17 rows on, and else from 33; of
    float32, which tensor cores do not multiply, our kernel serves no more than 16 rows."""
    most_rows = min(most_rows, MAX_NORM_ROWS) if x.dtype == jnp.float32 else most_rows
    return select(implementation) == "pallas" and x.shape[0] <= most_rows


class Embedding(nnx.Module):
    """Token ids to vectors and, as output head, vectors to logits."""

    def __init__(self, vocab_size: int, features: int, dtype: jnp.dtype, implementation: Implementation) -> None:
        self.kernel = Kernel(jax.ShapeDtypeStruct((vocab_size, features), dtype))
        self.implementation = implementation

    def __call__(self, token_ids: Int32[Array, " tokens"]) -> Float[Array, "tokens features"]:
        return self.kernel[token_ids]

    def logits(self, x: Float[Array, "rows features"], norm: RMSNorm) -> Float[Array, "rows vocab"]:
        """norm(x) @ kernel.T, accumulated and returned in float32."""
        if _is_served_by_our_kernel(x, self.implementation):
            return linear(
                x, self.kernel[...], transposed=True, norm=(norm.scale[0], norm.epsilon), out_dtype=jnp.float32,
                implementation=self.implementation,
            )  # fmt: skip
        return jnp.einsum(
            "rf,vf->rv", norm(x, 0), self.kernel[...], precision=full_precision(x.dtype),
            preferred_element_type=jnp.float32,
        )  # fmt: skip


class GatedMLP(nnx.Module):
    """x + down(silu(gate(norm(x))) * up(norm(x))), with gate and up in one matrix (Shazeer, "GLU Variants", 2020)."""

    def __init__(
        self,
        num_layers: int,
        features: int,
        hidden: int,
        dtype: jnp.dtype,
        implementation: Implementation,
        *,
        bias: bool,
    ) -> None:
        self.gate_up = Linear(num_layers, features, 2 * hidden, dtype, implementation, bias=bias)
        self.down = Linear(num_layers, hidden, features, dtype, implementation, bias=bias)

    def __call__(
        self, x: Float[Array, "tokens features"], norm: RMSNorm, layer: LayerIndex
    ) -> Float[Array, "tokens features"]:
        hidden = self.gate_up(x, layer, norm=norm, gated=True)
        return self.down(hidden, layer, residual=x)
