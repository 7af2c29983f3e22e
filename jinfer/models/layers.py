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
from pallas_kernels.matmul import matmul

LayerIndex = Int32[Array, ""] | int


class Kernel(nnx.Param):
    """A matrix, or a stack of them."""


class Bias(nnx.Param):
    """Added to a projection."""


class Scale(nnx.Param):
    """The weight of a normalization."""


class RMSNorm(nnx.Module):
    """The scale and the epsilon of an RMSNorm over the last axis, for each of `num_layers` layers.

    Whatever reads the normalized values computes them: see `pallas_kernels.matmul`.
    """

    def __init__(self, num_layers: int, features: int, epsilon: float, dtype: jnp.dtype) -> None:
        self.scale = Scale(jax.ShapeDtypeStruct((num_layers, features), dtype))
        self.epsilon = epsilon

    @property
    def operands(self) -> tuple[Float[Array, "layers features"], float]:
        """As `matmul` takes them."""
        return self.scale[...], self.epsilon


class Linear(nnx.Module):
    """x @ kernel[layer] (+ bias[layer]) for each of `num_layers` layers, with what a decoder does around it."""

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
        return matmul(
            x,
            self.kernel[...],
            layer=layer,
            norm=None if norm is None else norm.operands,
            bias=None if self.bias is None else self.bias[...],
            gated=gated,
            residual=residual,
            implementation=self.implementation,
        )


class Embedding(nnx.Module):
    """Token ids to vectors and, as output head, vectors to logits."""

    def __init__(self, vocab_size: int, features: int, dtype: jnp.dtype, implementation: Implementation) -> None:
        self.kernel = Kernel(jax.ShapeDtypeStruct((vocab_size, features), dtype))
        self.implementation = implementation

    def __call__(self, token_ids: Int32[Array, " tokens"]) -> Float[Array, "tokens features"]:
        return self.kernel[token_ids]

    def logits(self, x: Float[Array, "rows features"], norm: RMSNorm) -> Float[Array, "rows vocab"]:
        """norm(x) @ kernel.T, accumulated and returned in float32."""
        return matmul(
            x,
            self.kernel[...],
            transposed=True,
            norm=(norm.scale[0], norm.epsilon),
            out_dtype=jnp.float32,
            implementation=self.implementation,
        )


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)), with gate and up in one matrix (Shazeer, "GLU Variants", 2020)."""

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
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        norm: RMSNorm,
        residual: Float[Array, "tokens features"],
    ) -> Float[Array, "tokens features"]:
        """residual + mlp(norm(x))."""
        hidden = self.gate_up(x, layer, norm=norm, gated=True)
        return self.down(hidden, layer, residual=residual)
