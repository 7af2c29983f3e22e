"""Experts: gated MLPs of which a router chooses some for each token."""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from jinfer.models.config import ExpertsConfig
from jinfer.models.layers import STATIC, GatedMLP, LayerIndex, RMSNorm
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.core.weights import Weight
from pallas_kernels.experts import experts
from pallas_kernels.matmul import matmul
from pallas_kernels.router import Routing, route


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ExpertStack:
    """The kernels of all experts, [layers, experts, in, out], with gate and up in one, and their biases."""

    gate_up: Weight
    gate_up_bias: Float[Array, "layers experts twice_inner"] | None
    down: Weight
    down_bias: Float[Array, "layers experts features"] | None

    @classmethod
    def of(cls, params: Params) -> "ExpertStack":
        """The experts of {"gate_up": ..., "down": ...}, of which the biases may be absent."""
        gate_up, down = params["gate_up"], params["down"]
        return cls(gate_up["kernel"], gate_up.get("bias"), down["kernel"], down.get("bias"))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Router:
    """x @ kernel[layer] (+ bias[layer]), a logit for each expert, and the bias that corrects their choice."""

    kernel: Float[Array, "layers features experts"]
    bias: Float[Array, "layers experts"] | None
    correction_bias: Float32[Array, "layers experts"] | None
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "Router":
        """The router of {"kernel": ..., "bias": ..., "correction_bias": ...}; both biases may be absent."""
        return cls(params["kernel"], params.get("bias"), params.get("correction_bias"), implementation)

    def __call__(
        self, x: Float[Array, "tokens features"], layer: LayerIndex, config: ExpertsConfig
    ) -> Routing:
        """The experts of each token and their weights, of logits that are summed and kept in float32."""
        logits = matmul(
            x,
            self.kernel,
            layer=layer,
            bias=self.bias,
            out_dtype=jnp.float32,
            implementation=self.implementation,
        )
        correction = None if self.correction_bias is None else self.correction_bias[layer]
        return route(logits, config.routing, correction_bias=correction, implementation=self.implementation)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Experts:
    """A router, its experts, and perhaps one that every token has, with or without a gate of its own."""

    router: Router
    experts: ExpertStack
    shared: GatedMLP | None
    shared_gate: Float[Array, "layers features one"] | None
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "Experts":
        """The experts of {"router": ..., "experts": ..., "shared": ..., "shared_gate": ...}, of which the
        last two may be absent."""
        shared = params.get("shared")
        return cls(
            router=Router.of(params["router"], implementation),
            experts=ExpertStack.of(params["experts"]),
            shared=None if shared is None else GatedMLP.of(shared, implementation),
            shared_gate=params["shared_gate"]["kernel"] if "shared_gate" in params else None,
            implementation=implementation,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        config: ExpertsConfig,
        is_padding: Bool[Array, " tokens"],
        norm: RMSNorm | None,
        post_norm: RMSNorm | None,
        residual: Float[Array, "tokens features"],
        residual_scale: float = 1.0,
    ) -> tuple[Float[Array, "tokens features"], Int32[Array, "tokens k"]]:
        """residual + residual_scale * post_norm(experts(norm(x)) + shared(norm(x))), and the experts of each
        token: the number of experts, which is none of them, for padding, which costs no reading."""
        if norm is not None:
            x = norm(x, layer, self.implementation)
        weights, expert_ids = self.router(x, layer, config)
        expert_ids = jnp.where(is_padding[:, None], config.num_experts, expert_ids)
        is_plain = post_norm is None and residual_scale == 1
        y = experts(
            x,
            weights,
            expert_ids,
            self.experts.gate_up,
            self.experts.down,
            layer=layer,
            activation=config.activation,
            gate_up_bias=self.experts.gate_up_bias,
            down_bias=self.experts.down_bias,
            residual=self._with_shared(x, layer, config, residual if is_plain else None),
            implementation=self.implementation,
        )
        if is_plain:
            return y, expert_ids
        if post_norm is not None:
            y = post_norm(y, layer, self.implementation)
        return residual + y * residual_scale, expert_ids

    def _with_shared(
        self, x: Array, layer: LayerIndex, config: ExpertsConfig, residual: Array | None
    ) -> Array | None:
        """residual + what the shared expert gives, with those that there are."""
        if self.shared is None or config.shared is None:
            return residual
        mlp = functools.partial(self.shared, x, layer, activation=config.shared.activation)
        if self.shared_gate is None:
            return mlp(residual=residual)
        logit = jnp.sum(x.astype(jnp.float32) * self.shared_gate[layer, :, 0], axis=-1, keepdims=True)
        gated = mlp(residual=None) * jax.nn.sigmoid(logit).astype(x.dtype)
        return gated if residual is None else residual + gated
