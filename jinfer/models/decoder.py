"""The pre-norm decoder that the families share: they differ in their attention and in the names of their weights."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from jinfer.models.attention import Attention, LayerPlace
from jinfer.models.config import ModelConfig
from jinfer.models.layers import STATIC, Embedding, GatedMLP, RMSNorm
from jinfer.models.rope import Angles, rope_angles, token_frequencies
from jinfer.models.token_batch import TokenBatch
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.paged_attention import KVPages


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Decoder:
    """x = x + attention(norm(x)); x = x + mlp(norm(x)), for each layer, between an embedding and a last norm."""

    embedding: Embedding
    attention_norm: RMSNorm
    attention: Attention
    mlp_norm: RMSNorm
    mlp: GatedMLP
    final_norm: RMSNorm
    head: Embedding | None
    config: ModelConfig = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, config: ModelConfig, implementation: Implementation) -> "Decoder":
        """The decoder of params as `params.decoder_params` describes them. Without a head, it is the embedding."""
        head = params.get("head")
        return cls(
            embedding=Embedding(params["embedding"]["kernel"], implementation),
            attention_norm=RMSNorm(params["attention_norm"]["scale"], config.rms_norm_eps),
            attention=Attention.of(params["attention"], config, implementation),
            mlp_norm=RMSNorm(params["mlp_norm"]["scale"], config.rms_norm_eps),
            mlp=GatedMLP.of(params["mlp"], implementation),
            final_norm=RMSNorm(params["final_norm"]["scale"], config.rms_norm_eps),
            head=None if head is None else Embedding(head["kernel"], implementation),
            config=config,
        )

    def __call__(
        self, kv_cache: tuple[KVPages, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[KVPages, ...]]:
        """The last hidden states, and the cache with the tokens' keys and values in it.

        With `tokens.newest` they are those of these tokens. The last layer then computes keys and values of all tokens
        and the rest for the newest: nobody reads what else it would make, 2.5% of the work of Qwen3-8B's prompts.
        """
        rope = self.config.rope
        frequencies = token_frequencies(rope, self.config.head_dim, tokens.positions, tokens.prompt_lengths)
        angles = rope_angles(frequencies, tokens.positions, rope.attention_factor)
        x, new_cache = self.embedding(tokens.token_ids), []
        last_layer = self.config.num_layers - 1
        for layer, window in enumerate(self.config.sliding_windows):
            of_layer = tokens if layer == last_layer else tokens._replace(newest=None)
            x, kv_pages = _layer(self, window, x, angles, kv_cache[layer], of_layer, np.int32(layer))
            new_cache.append(kv_pages)
        return x, tuple(new_cache)

    def layer(
        self,
        x: Float[Array, "tokens features"],
        angles: Angles,
        kv_pages: KVPages,
        tokens: TokenBatch,
        place: LayerPlace,
    ) -> tuple[Float[Array, "tokens_or_rows features"], KVPages]:
        """The hidden states after one layer (of `tokens.newest`, where that is given), and its part of the cache with
        keys and values in it.

        Norms and residuals are handed to the products around them, which take them in: a kernel less each.
        """
        residual = x if tokens.newest is None else x[tokens.newest]
        x, kv_pages = self.attention(x, angles, kv_pages, tokens, place, norm=self.attention_norm, residual=residual)
        return self.mlp(x, place.layer, norm=self.mlp_norm, residual=x), kv_pages

    def logits(self, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the next token, of hidden states as `__call__` gives them."""
        return (self.head or self.embedding).logits(hidden, self.final_norm)


@jax.jit(static_argnums=1)
def _layer(decoder: Decoder, window: int | None, x, angles, kv_pages, tokens, index: Int32[Array, ""]):
    """Jitted, with the layer's number as an operand, so that layers share one trace: a step of 36 layers is traced and
    lowered in a tenth of the time. XLA inlines the calls, and sees static slices of the weights."""
    return decoder.layer(x, angles, kv_pages, tokens, LayerPlace(index, window))
