"""The parts that decoders are made of: frozen pytrees of the arrays of a nested dict.

A module holds one kind of weight for all layers, stacked as [num_layers, ...], and is called with a layer's index, an
int32 scalar that is constant once compiled: a step has few arguments that way, and XLA reads a static slice of the
stack in place. `Model` makes the modules of the params when a step is traced.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.linear import MAX_NORM_ROWS, linear
from pallas_kernels.rms_norm import DeferredNorm, rms_norm
from pallas_kernels.selection import select
from pallas_kernels.silu_and_multiply import silu_and_multiply

MOST_PLAIN_ROWS = 32  # of our kernel without a norm: o and down of 8B are 1.23 and 1.10 times as fast as cuBLAS's
# Of steps whose norms are deferred. A step of 8B is 2.7% faster at 64 rows and as fast at 256; at 4,096 a norm of XLA's
# takes less than to read each row once more.
MOST_DEFERRED_ROWS = 256
LayerIndex = Int32[Array, ""] | int
STATIC = {"static": True}  # of a field that is no array: it belongs to the structure of the pytree


def full_precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """float32 matmuls in full float32, which a GPU otherwise rounds to TF32."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RMSNorm:
    """RMSNorm over the last axis with scale[layer].

    Where it `is_in_weights`, the scales are ones, since those of the checkpoint are in the weights of the product that
    follows: the norm can then be deferred to whoever reads the product.

    XLA fuses the norm with what is around it. With the Pallas kernel, whose result goes through memory, a decode step
    of Qwen3-0.6B on an H200 took 4.29 ms in place of 3.98 (64 rows), and of 8B the same (benchmarks/results).
    """

    scale: Float[Array, "layers features"]
    epsilon: float = field(metadata=STATIC)
    is_in_weights: bool = field(default=False, metadata=STATIC)

    def __call__(self, x: Float[Array, "*batch features"], layer: LayerIndex) -> Float[Array, "*batch features"]:
        return rms_norm(x, self.scale[layer], epsilon=self.epsilon, implementation="reference")

    def deferred(self, x: Float[Array, "rows features"]) -> DeferredNorm:
        """What is left to do of the norm of x behind the product."""
        return DeferredNorm(x, self.epsilon)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Linear:
    """x @ kernel[layer] (+ bias[layer]), with what a decoder does around it.

    Of few rows, where reading the weights is what takes time, a kernel of ours does all of it at once. Beyond, cuBLAS
    multiplies and XLA fuses the rest.
    """

    kernel: Float[Array, "layers in out"]
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
        y = self.product(x, layer)
        y = y if self.bias is None else y + self.bias[layer]
        if gated:
            gate, up = jnp.split(y, 2, axis=-1)
            y = jax.nn.silu(gate) * up
        return y if residual is None else residual + y

    def defers(self, norm: RMSNorm, x: Float[Array, "tokens in"]) -> bool:
        """Whether `product`, and the norm behind it, is the way to norm(x) @ kernel."""
        if not norm.is_in_weights or self.bias is not None or x.shape[0] > MOST_DEFERRED_ROWS:
            return False
        return not _is_served_by_our_kernel(x, self.implementation)

    def product(self, x: Float[Array, "tokens in"], layer: LayerIndex) -> Float[Array, "tokens out"]:
        """x @ kernel[layer], by XLA."""
        return jnp.matmul(x, self.kernel[layer], precision=full_precision(x.dtype))


def _is_served_by_our_kernel(x: Array, implementation: Implementation, most_rows: int = MAX_NORM_ROWS) -> bool:
    """For few rows it is up to twice as fast as XLA. With a norm cuBLAS is ahead from 17 rows on, and else from 33; of
    float32, which tensor cores do not multiply, our kernel serves no more than 16 rows."""
    most_rows = min(most_rows, MAX_NORM_ROWS) if x.dtype == jnp.float32 else most_rows
    return select(implementation) == "pallas" and x.shape[0] <= most_rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Embedding:
    """Token ids to vectors and, as output head, vectors to logits."""

    kernel: Float[Array, "vocab features"]
    implementation: Implementation = field(metadata=STATIC)

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GatedMLP:
    """x + down(silu(gate(norm(x))) * up(norm(x))), with gate and up in one matrix (Shazeer, "GLU Variants", 2020)."""

    gate_up: Linear
    down: Linear

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "GatedMLP":
        """The MLP of {"gate_up": ..., "down": ...}."""
        return cls(Linear.of(params["gate_up"], implementation), Linear.of(params["down"], implementation))

    def __call__(
        self, x: Float[Array, "tokens features"], norm: RMSNorm, layer: LayerIndex
    ) -> Float[Array, "tokens features"]:
        if self.gate_up.defers(norm, x):
            gate_up, deferred_norm = self.gate_up.product(x, layer), norm.deferred(x)
            hidden = silu_and_multiply(gate_up, deferred_norm=deferred_norm, implementation=self.gate_up.implementation)
        else:
            hidden = self.gate_up(x, layer, norm=norm, gated=True)
        return self.down(hidden, layer, residual=x)
