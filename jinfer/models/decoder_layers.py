"""The layers of a decoder: attention and an MLP or experts, with norms and residuals around them."""

from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float, Int32

from jinfer.models.attention import Attention, LayerPages, TokenBatch
from jinfer.models.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from jinfer.models.experts import Experts
from jinfer.models.experts_beside import ExpertsBeside
from jinfer.models.latent_attention import LatentAttention
from jinfer.models.layers import STATIC, GatedMLP, LayerIndex, RMSNorm
from jinfer.models.params import SANDWICH_NORMS
from jinfer.models.rope import Angles
from jinfer.models.token_inputs import TokenInputGate
from jinfer.weights.params import Params
from pallas_kernels import Implementation


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a stack: x = x + post_norm(attention(norm(x))); x = x + post_norm(mlp(norm(x))), with the
    norms that there are. `residual_scale` is the factor of what is added."""

    attention_norm: RMSNorm | None
    attention: Attention | LatentAttention
    attention_post_norm: RMSNorm | None
    mlp_norm: RMSNorm | None
    mlp: GatedMLP | Experts
    mlp_post_norm: RMSNorm | None
    experts_beside: ExpertsBeside | None
    token_input: TokenInputGate | None
    scale: Float[Array, "layers 1"] | None
    residual_scale: float = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, config: ModelConfig, implementation: Implementation) -> "Layers":
        """The layers of {"attention": ..., "mlp": ...}, with norms before and behind each, or without."""
        epsilon, offset = config.rms_norm_eps, config.norm_offset
        attention_norm, attention_post_norm, mlp_norm, mlp_post_norm = (
            RMSNorm.of(params.get(name), epsilon, offset) for name in SANDWICH_NORMS
        )
        return cls(
            attention_norm=attention_norm,
            attention=_attention_of(params["attention"], epsilon, implementation, offset),
            attention_post_norm=attention_post_norm,
            mlp_norm=mlp_norm,
            mlp=_mlp_of(params["mlp"], implementation),
            mlp_post_norm=mlp_post_norm,
            experts_beside=ExpertsBeside.of(params["experts_beside"], epsilon, implementation)
            if "experts_beside" in params
            else None,
            token_input=None
            if config.token_inputs is None
            else TokenInputGate.of(params["token_input"], config.token_inputs, epsilon, implementation),
            scale=params.get("scale"),
            residual_scale=config.residual_scale,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        config: LayerConfig,
        angles: Angles,
        kv_pages: LayerPages,
        tokens: TokenBatch,
        inputs: Float[Array, "tokens size"] | None = None,
    ) -> tuple[Float[Array, "tokens_or_rows features"], LayerPages, Int32[Array, "tokens_or_rows k"] | None]:
        """The hidden states after one layer (at `tokens.logits_indices`, where they are given), its pages
        with keys and values in them, and the experts of each token, where the layer has experts.

        `inputs` are those of the tokens in this layer, where the model has some. Norms and residuals are
        handed to the products around them, which take them in: a kernel less each.
        """
        of_kind: dict[str, Any] = {"config": config.attention, "kv_pages": kv_pages}
        x, kv_pages = self.attention(
            x,
            layer,
            **of_kind,
            angles=angles,
            tokens=tokens,
            norm=self.attention_norm,
            post_norm=self.attention_post_norm,
            residual=x if tokens.logits_indices is None else x[tokens.logits_indices],
            residual_scale=self.residual_scale,
        )
        x, expert_ids = self._mlp(x, layer, config, tokens)
        if self.token_input is not None:
            assert inputs is not None
            at = tokens.logits_indices
            x = self.token_input(x, layer, inputs if at is None else inputs[at])
        return (x if self.scale is None else x * self.scale[layer]), kv_pages, expert_ids

    def _mlp(
        self, x: Array, layer: LayerIndex, config: LayerConfig, tokens: TokenBatch
    ) -> tuple[Array, Array | None]:
        mlp = config.mlp
        around: dict[str, Any] = {
            "norm": self.mlp_norm,
            "post_norm": self.mlp_post_norm,
            "residual": x,
            "residual_scale": self.residual_scale,
        }
        if isinstance(self.mlp, Experts):
            assert isinstance(mlp, ExpertsConfig)
            return self.mlp(x, layer, config=mlp, is_padding=tokens.is_padding, **around)
        assert isinstance(mlp, MLPConfig)
        if self.experts_beside is None or config.experts_beside is None:
            return self.mlp(x, layer, activation=mlp.activation, **around), None
        dense = self.mlp(
            x, layer, activation=mlp.activation, norm=self.mlp_norm, post_norm=None, residual=None
        )
        y, expert_ids = self.experts_beside(
            x, dense, layer, config=config.experts_beside, is_padding=tokens.is_padding
        )
        if self.mlp_post_norm is not None:
            y = self.mlp_post_norm(y, layer, self.experts_beside.implementation)
        return x + y * self.residual_scale, expert_ids


def _mlp_of(params: Params, implementation: Implementation) -> GatedMLP | Experts:
    return (Experts if "router" in params else GatedMLP).of(params, implementation)


def _attention_of(
    params: Params, epsilon: float, implementation: Implementation, norm_offset: float
) -> Attention | LatentAttention:
    if "kv_up" in params:
        return LatentAttention.of(params, implementation)
    return Attention.of(params, epsilon, implementation, norm_offset)
