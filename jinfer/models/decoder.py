"""The pre-norm decoder that the families share: they differ in their attention and in the names of their weights."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32

from jinfer.models.attention import Attention, LayerPlace
from jinfer.models.config import ModelConfig
from jinfer.models.layers import Embedding, GatedMLP, RMSNorm
from jinfer.models.rope import Angles, rope_angles, token_frequencies
from jinfer.models.token_batch import TokenBatch
from jinfer.models.weights import EMBEDDING, HEAD, WeightSource


class Decoder(nnx.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)), for each layer, between an embedding and a last norm."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, attention: Attention) -> None:
        layers, features, implementation = config.num_layers, config.hidden_size, attention.implementation
        self.config = config
        self.embedding = Embedding(config.vocab_size, features, dtype, implementation)
        self.attention_norm = RMSNorm(layers, features, config.rms_norm_eps, dtype)
        self.attention = attention
        self.mlp_norm = RMSNorm(layers, features, config.rms_norm_eps, dtype)
        self.mlp = GatedMLP(layers, features, config.intermediate_size, dtype, implementation, bias=config.mlp_bias)
        self.final_norm = RMSNorm(1, features, config.rms_norm_eps, dtype)
        is_tied = config.tie_word_embeddings
        self.head = None if is_tied else Embedding(config.vocab_size, features, dtype, implementation)

    def __call__(
        self, kv_cache: tuple[Array, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[Array, ...]]:
        """The last hidden states, and the cache with the tokens' keys and values in it.

        With `tokens.newest` they are those of these tokens. The last layer then computes keys and values of all tokens
        and the rest for the newest: nobody reads what else it would make, 2.5% of the work of Qwen3-8B's prompts.
        """
        rope = self.config.rope
        frequencies = token_frequencies(rope, self.config.head_dim, tokens.positions, tokens.prompt_lengths)
        angles = rope_angles(frequencies, tokens.positions, rope.attention_factor)
        x, new_cache = self.embedding(tokens.token_ids), []
        graphdef, params = nnx.split(self)
        last_layer = self.config.num_layers - 1
        for layer, window in enumerate(self.config.sliding_windows):
            of_layer = tokens if layer == last_layer else tokens._replace(newest=None)
            x, kv_layer = _layer(graphdef, window, params, x, angles, kv_cache[layer], of_layer, np.int32(layer))
            new_cache.append(kv_layer)
        return x, tuple(new_cache)

    def layer(
        self, x: Float[Array, "tokens features"], angles: Angles, kv_layer: Array, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Float[Array, "tokens_or_rows features"], Array]:
        """The hidden states after one layer (of `tokens.newest`, where that is given), and its part of the cache with
        keys and values in it.

        Norms and residuals are handed to the products around them, which take them in: a kernel less each.
        """
        residual = x if tokens.newest is None else x[tokens.newest]
        x, kv_layer = self.attention(
            x,
            angles=angles,
            kv_layer=kv_layer,
            tokens=tokens,
            place=place,
            norm=self.attention_norm,
            residual=residual,
        )
        return self.mlp(x, place.layer, norm=self.mlp_norm, residual=x), kv_layer

    def logits(self, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the next token, of hidden states as `__call__` gives them."""
        return (self.head or self.embedding).logits(hidden, self.final_norm)


@jax.jit(static_argnums=(0, 1))
def _layer(graphdef: nnx.GraphDef, window: int | None, params, x, angles, kv_layer, tokens, index: Int32[Array, ""]):
    """Jitted, with the layer's number as an operand, so that layers share one trace: a step of 36 layers is traced and
    lowered in a tenth of the time. XLA inlines the calls, and sees static slices of the weights."""
    return nnx.merge(graphdef, params).layer(x, angles, kv_layer, tokens, LayerPlace(index, window))


def decoder_weights(config: ModelConfig) -> dict[str, WeightSource]:
    """Where the weights of a decoder lie in a Hugging Face checkpoint, by the path of the parameter."""
    block = "model.layers.{layer}."
    attention, mlp, head = block + "self_attn.", block + "mlp.", "lm_head.weight"
    sources = {
        EMBEDDING: WeightSource(("model.embed_tokens.weight",), tied_name=head if config.tie_word_embeddings else None),
        "attention_norm/scale": WeightSource((block + "input_layernorm.weight",)),
        "mlp_norm/scale": WeightSource((block + "post_attention_layernorm.weight",)),
        "final_norm/scale": WeightSource(("model.norm.weight",)),
        **_projection("attention/qkv", attention, ("q_proj", "k_proj", "v_proj"), bias=config.qkv_bias),
        **_projection("attention/output", attention, ("o_proj",), bias=config.output_bias),
        **_projection("mlp/gate_up", mlp, ("gate_proj", "up_proj"), bias=config.mlp_bias),
        **_projection("mlp/down", mlp, ("down_proj",), bias=config.mlp_bias),
    }
    if not config.tie_word_embeddings:
        sources[HEAD] = WeightSource((head,))
    return sources


def _projection(path: str, prefix: str, names: tuple[str, ...], *, bias: bool) -> dict[str, WeightSource]:
    """Checkpoints keep [out, in] matrices, one for each name; ours are [in, out], side by side."""
    sources = {f"{path}/kernel": WeightSource(tuple(f"{prefix}{name}.weight" for name in names), transposed=True)}
    if bias:
        sources[f"{path}/bias"] = WeightSource(tuple(f"{prefix}{name}.bias" for name in names))
    return sources
