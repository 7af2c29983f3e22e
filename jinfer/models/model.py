"""A model without its weights."""

import functools
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int32

from jinfer.models.attention import LayerPages, TokenBatch
from jinfer.models.config import ModelConfig
from jinfer.models.decoder import Decoder
from jinfer.models.params import HEAD
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params
from pallas_kernels import Implementation


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
