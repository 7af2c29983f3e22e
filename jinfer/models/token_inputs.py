"""Inputs that each token has in each layer, from an embedding beside the first (Gemma 3n and 4)."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jinfer.models.config import TokenInputsConfig
from jinfer.models.layers import STATIC, Embedding, LayerIndex, Linear, RMSNorm
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.matmul import Activation

HALF = 2.0**-0.5  # two inputs of variance 1 are added


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TokenInputs:
    """The inputs of all layers, before the first of them."""

    embedding: Embedding
    projection: Linear
    norm: RMSNorm
    config: TokenInputsConfig = field(metadata=STATIC)

    @classmethod
    def of(
        cls, params: Params, config: TokenInputsConfig, epsilon: float, implementation: Implementation
    ) -> "TokenInputs":
        """The inputs of {"embedding": ..., "projection": ..., "norm": ...}."""
        norm = RMSNorm.of(params["norm"], epsilon)
        assert norm is not None
        return cls(
            embedding=Embedding(params["embedding"], implementation),
            projection=Linear.of(params["projection"], implementation),
            norm=norm,
            config=config,
        )

    def __call__(
        self, token_ids: Int32[Array, " tokens"], x: Float[Array, "tokens features"]
    ) -> Float[Array, "tokens layers size"]:
        """(norm(projection(x) / sqrt(features)) + embedding) / sqrt(2), of each layer by itself. The
        embedding is multiplied by the root of its size."""
        size = self.config.size
        embedded = self.embedding(token_ids, size**0.5).reshape(len(token_ids), -1, size)
        projected = self.projection(x, 0) * jnp.asarray(x.shape[-1] ** -0.5, x.dtype)
        of_context = self.norm(projected.reshape(-1, size), 0, "xla").reshape(embedded.shape)
        return (of_context + embedded) * jnp.asarray(HALF, x.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TokenInputGate:
    """The part of a layer that takes its inputs in."""

    gate: Linear
    projection: Linear
    norm: RMSNorm
    activation: Activation = field(metadata=STATIC)

    @classmethod
    def of(
        cls, params: Params, config: TokenInputsConfig, epsilon: float, implementation: Implementation
    ) -> "TokenInputGate":
        """The part of {"gate": ..., "projection": ..., "norm": ...}."""
        norm = RMSNorm.of(params["norm"], epsilon)
        assert norm is not None
        gate, projection = (Linear.of(params[name], implementation) for name in ("gate", "projection"))
        return cls(gate, projection, norm, config.activation)

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        inputs: Float[Array, "tokens size"],
    ) -> Float[Array, "tokens features"]:
        """x + norm(projection(activation(gate(x)) * inputs))."""
        gate = self.gate(x, layer)
        act = jax.nn.silu(gate) if self.activation == "silu" else jax.nn.gelu(gate, approximate=True)
        return self.projection(act * inputs, layer, post_norm=self.norm, residual=x)
