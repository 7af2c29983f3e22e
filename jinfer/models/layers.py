"""The parts that decoders are made of: frozen pytrees of the arrays of a nested dict.

A module holds one kind of weight for the layers of a stack, as [num_layers, ...], and is called with a
layer's index in it, an int32 scalar that is constant once compiled: a step has few arguments that way, and
XLA reads a static slice of the stack in place. `Model` makes the modules of the params when a step is traced.
"""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.core.weights import Weight
from pallas_kernels.matmul import Activation, matmul
from pallas_kernels.rms_norm import rms_norm

LayerIndex = Int32[Array, ""] | int
STATIC = {"static": True}  # of a field that is no array: it belongs to the structure of the pytree


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RMSNorm:
    """The scale and the epsilon of an RMSNorm over the last axis, for each layer.

    Whatever reads the normalized values computes them: see `pallas_kernels.matmul`.
    """

    scale: Float[Array, "layers features"]
    epsilon: float = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params | None, epsilon: float, offset: float = 0.0) -> "RMSNorm | None":
        """The norm of {"scale": ...}; None where there is none. With an `offset`, it multiplies by
        offset + scale, in float32."""
        if params is None:
            return None
        scale = params["scale"]
        return cls(scale if offset == 0 else offset + scale.astype(jnp.float32), epsilon)

    @property
    def operands(self) -> tuple[Float[Array, "layers features"], float]:
        """The norm as `matmul` takes it."""
        return self.scale, self.epsilon

    def __call__(
        self, x: Float[Array, "tokens features"], layer: LayerIndex, implementation: Implementation
    ) -> Float[Array, "tokens features"]:
        """norm(x), for what no product reads."""
        return rms_norm(x, self.scale[layer], epsilon=self.epsilon, implementation=implementation)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Linear:
    """x @ kernel[layer] (+ bias[layer]), with what a decoder does around it."""

    kernel: Weight
    bias: Float[Array, "layers out"] | None
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "Linear":
        """The layer of {"kernel": ..., "bias": ...}, of which the bias may be absent."""
        return cls(params["kernel"], params.get("bias"), implementation)

    def __call__(
        self,
        x: Float[Array, "tokens in"],
        layer: LayerIndex,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        activation: Activation = "silu",
        post_norm: RMSNorm | None = None,
        residual: Float[Array, "tokens out"] | None = None,
        residual_scale: float = 1.0,
    ) -> Float[Array, "tokens out"]:
        """residual + residual_scale * post_norm(gate(norm(x) @ kernel[layer] + bias[layer])); a gate makes
        activation(y1) * y2 of the halves of y."""
        product = functools.partial(
            matmul,
            x,
            self.kernel,
            layer=layer,
            norm=None if norm is None else norm.operands,
            bias=self.bias,
            gated=gated,
            activation=activation,
            implementation=self.implementation,
        )
        if residual is None or (post_norm is None and residual_scale == 1):
            y = product(residual=residual)
            return y if post_norm is None else post_norm(y, layer, self.implementation)
        y = product()
        if post_norm is not None:
            y = post_norm(y, layer, self.implementation)
        return residual + (y if residual_scale == 1 else y * residual_scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Embedding:
    """Token ids to vectors and, as output head, vectors to logits."""

    kernel: Float[Array, "vocab features"]
    implementation: Implementation = field(metadata=STATIC)

    def __call__(
        self, token_ids: Int32[Array, " tokens"], scale: float = 1.0
    ) -> Float[Array, "tokens features"]:
        """scale * kernel[token_ids], of a scale that is rounded to the kernel's dtype."""
        embedded = self.kernel[token_ids]
        return embedded if scale == 1 else embedded * jnp.asarray(scale, embedded.dtype)

    def logits(self, x: Float[Array, "rows features"], norm: RMSNorm) -> Float[Array, "rows vocab"]:
        """norm(x) @ kernel.T, accumulated and returned in float32."""
        return matmul(
            x,
            self.kernel,
            transposed=True,
            norm=(norm.scale[0], norm.epsilon),
            out_dtype=jnp.float32,
            implementation=self.implementation,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GatedMLP:
    """down(activation(gate(x)) * up(x)), with gate and up in one matrix (Shazeer, "GLU Variants", 2020)."""

    gate_up: Linear
    down: Linear

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "GatedMLP":
        """The MLP of {"gate_up": ..., "down": ...}."""
        return cls(Linear.of(params["gate_up"], implementation), Linear.of(params["down"], implementation))

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        activation: Activation,
        norm: RMSNorm | None = None,
        post_norm: RMSNorm | None = None,
        residual: Float[Array, "tokens features"] | None,
        residual_scale: float = 1.0,
    ) -> Float[Array, "tokens features"]:
        """residual + residual_scale * post_norm(mlp(norm(x))), with the norms and the residual that there
        are."""
        hidden = self.gate_up(x, layer, norm=norm, gated=True, activation=activation)
        return self.down(hidden, layer, post_norm=post_norm, residual=residual, residual_scale=residual_scale)
