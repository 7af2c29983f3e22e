"""Experts beside a dense MLP, each with norms of its own (Gemma 4)."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jinfer.models.config import ExpertsConfig
from jinfer.models.experts import ExpertStack, Router
from jinfer.models.layers import STATIC, LayerIndex, RMSNorm
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.experts import experts


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ExpertsBeside:
    """A router, its experts, the norms of what router and experts read, and those of what the dense MLP and
    the experts give. `expert_scales` multiply the weights of each expert."""

    router: Router
    experts: ExpertStack
    expert_scales: Float[Array, "layers experts"]
    router_norm: RMSNorm
    norm: RMSNorm
    dense_post_norm: RMSNorm
    post_norm: RMSNorm
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, epsilon: float, implementation: Implementation) -> "ExpertsBeside":
        """The experts of {"router": ..., "experts": ..., "expert_scales": ...} and the four norms."""
        names = "router_norm", "norm", "dense_post_norm", "post_norm"
        norms: dict[str, Any] = {name: RMSNorm.of(params[name], epsilon) for name in names}
        return cls(
            router=Router.of(params["router"], implementation),
            experts=ExpertStack.of(params["experts"]),
            expert_scales=params["expert_scales"],
            implementation=implementation,
            **norms,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        dense: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        config: ExpertsConfig,
        is_padding: Bool[Array, " tokens"],
    ) -> tuple[Float[Array, "tokens features"], Int32[Array, "tokens k"]]:
        """dense_post_norm(dense) + post_norm(experts(norm(x))), of hidden states x and what the dense MLP
        makes of them, and the experts of each token: the number of experts, which is none of them, for
        padding.

        The router reads router_norm(x) / sqrt(features).
        """
        root = jnp.asarray(x.shape[-1] ** -0.5, x.dtype)
        routed = self.router_norm(x, layer, self.implementation) * root
        weights, expert_ids = self.router(routed, layer, config)
        weights = weights * self.expert_scales[layer].astype(weights.dtype)[expert_ids]
        expert_ids = jnp.where(is_padding[:, None], config.num_experts, expert_ids)
        y = experts(
            self.norm(x, layer, self.implementation),
            weights,
            expert_ids,
            self.experts.gate_up,
            self.experts.down,
            layer=layer,
            activation=config.activation,
            implementation=self.implementation,
        )
        dense = self.dense_post_norm(dense, layer, self.implementation)
        return dense + self.post_norm(y, layer, self.implementation), expert_ids
