"""The decoder that all families are: stacks of layers between an embedding and a last norm."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jinfer.models.attention import LayerPages, TokenBatch
from jinfer.models.config import LayerConfig, ModelConfig, RopeTable
from jinfer.models.decoder_layers import Layers
from jinfer.models.layers import STATIC, Embedding, RMSNorm
from jinfer.models.params import LayerStack, layer_stacks
from jinfer.models.rope import Angles, rope_angles, token_frequencies
from jinfer.models.token_inputs import TokenInputs
from jinfer.weights.params import Params
from pallas_kernels import Implementation


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Decoder:
    """Layers of one or several kinds. `stacks` says which layers each of `layers` holds."""

    embedding: Embedding
    layers: tuple[Layers, ...]
    final_norm: RMSNorm
    head: Embedding | None
    token_inputs: TokenInputs | None
    config: ModelConfig = field(metadata=STATIC)
    stacks: tuple[LayerStack, ...] = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, config: ModelConfig, implementation: Implementation) -> "Decoder":
        """The decoder of params as `params.decoder_params` describes them. Without a head, it is the
        embedding."""
        head, inputs, stacks = params.get("head"), config.token_inputs, layer_stacks(config)
        final_norm = RMSNorm.of(params["final_norm"], config.rms_norm_eps, config.norm_offset)
        assert final_norm is not None
        return cls(
            embedding=Embedding(params["embedding"]["kernel"], implementation),
            layers=tuple(Layers.of(stack.params(params), config, implementation) for stack in stacks),
            final_norm=final_norm,
            head=None if head is None else Embedding(head["kernel"], implementation),
            token_inputs=None
            if inputs is None
            else TokenInputs.of(params["token_inputs"], inputs, config.rms_norm_eps, implementation),
            config=config,
            stacks=stacks,
        )

    def __call__(
        self, kv_cache: tuple[LayerPages, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[LayerPages, ...]]:
        """The last hidden states, and the cache with the tokens' keys and values in it."""
        x, new_cache, _ = self.routed(kv_cache, tokens)
        return x, new_cache

    def routed(
        self, kv_cache: tuple[LayerPages, ...], tokens: TokenBatch
    ) -> tuple[
        Float[Array, "tokens_or_rows features"],
        tuple[LayerPages, ...],
        tuple[Int32[Array, "_ k"], ...],
    ]:
        """The last hidden states, the cache with the tokens' keys and values in it, and the experts of each
        token that is computed in each layer that has some.

        With `tokens.logits_indices` they are those of these tokens. The last layer with keys and values of
        its own then computes these of all tokens and the rest for those alone, since nothing reads its other
        hidden states: that saves 2.5% of the work of Qwen3-8B's prompts. Layers behind it compute these
        tokens alone.
        """
        angles = {table: table_angles(table, tokens) for table in self.config.rope_tables}
        x, cache = self.embedding(tokens.token_ids, self.config.embedding_scale), list(kv_cache)
        inputs = None if self.token_inputs is None else self.token_inputs(tokens.token_ids, x)
        last_caching, routed = self.config.caching_layers[-1], []
        for number, (layers, index) in enumerate(self._in_order()):
            config, place = self.config.layers[number], self.config.cache_index(number)
            of_layer = tokens if number == last_caching else tokens._replace(logits_indices=None)
            turns = angles[config.attention.rope_table]
            of_tokens = None if inputs is None else inputs[:, number]
            x, cache[place], expert_ids = _layer(
                layers, config, np.int32(index), x, turns, cache[place], of_layer, of_tokens
            )
            routed += [] if expert_ids is None else [expert_ids]
            kept = tokens.logits_indices
            if number == last_caching and kept is not None:
                tokens = tokens.last_of_rows()
                angles = {table: (cos[kept], sin[kept]) for table, (cos, sin) in angles.items()}
                inputs = None if inputs is None else inputs[kept]
        return x, tuple(cache), tuple(routed)

    def _in_order(self) -> list[tuple[Layers, int]]:
        """The stack of each layer, and its index in it."""
        by_number = {
            number: (layers, index)
            for layers, stack in zip(self.layers, self.stacks, strict=True)
            for index, number in enumerate(stack.layers)
        }
        return [by_number[number] for number in range(self.config.num_layers)]

    def logits(self, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the next token, of hidden states as `__call__` gives them."""
        logits, config = (self.head or self.embedding).logits(hidden, self.final_norm), self.config
        if config.logits_divisor != 1:
            logits = logits / config.logits_divisor
        cap = config.logits_soft_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


def table_angles(table: RopeTable, tokens: TokenBatch) -> Angles:
    """The cosine and the sine of each token, by the rule of a table: 1 and 0 where it has none."""
    if table.rope is None:
        shape = (len(tokens.positions), table.rotary_dim // 2)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    frequencies = token_frequencies(
        table.rope, table.rotary_dim, positions=tokens.positions, prompt_lengths=tokens.prompt_lengths
    )
    return rope_angles(frequencies, positions=tokens.positions, attention_factor=table.rope.attention_factor)


@jax.jit(static_argnums=1)
def _layer(layers: Layers, config: LayerConfig, index: Int32[Array, ""], x, angles, kv_pages, tokens, inputs):
    """Jitted, with the layer's index as an operand, so that the layers of a kind share one trace: a step of
    36 layers is traced and lowered in a tenth of the time. XLA inlines the calls, and sees static slices of
    the weights."""
    return layers(x, index, config=config, angles=angles, kv_pages=kv_pages, tokens=tokens, inputs=inputs)
