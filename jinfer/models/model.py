"""A model without its weights, and the decoder that all families are: stacks of layers between an embedding
and a last norm."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jinfer.models.attention import Attention, LayerPages, TokenBatch
from jinfer.models.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig, RopeTable
from jinfer.models.experts import Experts
from jinfer.models.experts_beside import ExpertsBeside
from jinfer.models.latent_attention import LatentAttention
from jinfer.models.layers import STATIC, Embedding, GatedMLP, LayerIndex, RMSNorm
from jinfer.models.params import HEAD, SANDWICH_NORMS, LayerStack, layer_stacks
from jinfer.models.rope import Angles, rope_angles, token_frequencies
from jinfer.models.token_inputs import TokenInputGate, TokenInputs
from jinfer.weights.param_spec import ParamSpecs
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


@runtime_checkable
class DecoderModule(Protocol):
    """The part of a model that computes: made of its params when a step is traced, else static."""

    @classmethod
    def of(cls, params: Params, config: Any, implementation: Implementation) -> "DecoderModule":
        """The decoder of the model's params, its ModelConfig, and the implementation of its kernels."""

    def __call__(
        self, kv_cache: tuple[LayerPages, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[LayerPages, ...]]:
        """The last hidden states, at `tokens.logits_indices` where they are given, and the pages of each
        layer with the tokens' keys and values in them."""

    def logits(self, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the token after each hidden state."""


@dataclass(frozen=True, eq=False)
class Model:
    """`forward` and `logits` are functions of (params, ...) and nothing else.

    `implementation` is that of its attention, and of what chooses a token from its logits. `module` makes of
    config, implementation and params what computes. It `is_own` where that is a caller's code: what is traced
    of it is not kept, and nothing is known of its params but their shapes.
    """

    config: ModelConfig
    implementation: Implementation
    param_specs: ParamSpecs
    module: type[DecoderModule] = Decoder
    is_own: bool = False

    @functools.cached_property
    def abstract_params(self) -> Params:
        """The nested dict of parameters, with a shape and a dtype for each array."""
        return self.param_specs.abstract

    def fitted_to(self, specs: ParamSpecs) -> "Model":
        """The model with the parameters that its weights have: with a head of its own, where one is
        stored."""
        if self.is_own:
            return replace(self, param_specs=specs)
        config = replace(self.config, tie_word_embeddings=HEAD not in specs.by_path)
        return replace(self, config=config, param_specs=specs)

    def forward(
        self, params: Params, kv_cache: tuple[LayerPages, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[LayerPages, ...]]:
        """The last hidden states, of all tokens or at `tokens.logits_indices`, and the cache with all keys
        and values in it."""
        return self._module_of(params)(kv_cache, tokens)

    def routed_forward(
        self, params: Params, kv_cache: tuple[LayerPages, ...], tokens: TokenBatch
    ) -> tuple[
        Float[Array, "tokens_or_rows features"],
        tuple[LayerPages, ...],
        tuple[Int32[Array, "_ k"], ...],
    ]:
        """The same as of `forward`, and the experts of each token in each layer that has some, of a model of
        jinfer's own."""
        decoder = self._module_of(params)
        assert isinstance(decoder, Decoder)
        return decoder.routed(kv_cache, tokens)

    def logits(self, params: Params, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the token after each hidden state."""
        return self._module_of(params).logits(hidden)

    def trace_facts(self, *more: Any) -> tuple[Any, ...] | None:
        """All that a trace of the model follows from, with `more`, as `Program.facts`; None where it follows
        from code that jinfer does not know."""
        return None if self.is_own else (self.config, self.implementation, *more)

    def _module_of(self, params: Params) -> DecoderModule:
        return self.module.of(params, self.config, self.implementation)
