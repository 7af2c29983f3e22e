"""A model without its weights: what its parameters are, and the pure functions of them that the engine
compiles."""

import functools
from dataclasses import dataclass, replace

from jaxtyping import Array, Float

from jinfer.models.config import ModelConfig
from jinfer.models.decoder import Decoder
from jinfer.models.params import HEAD
from jinfer.models.token_batch import TokenBatch
from jinfer.weights.dummy_params import dummy_params
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.paged_attention import KVPages


@dataclass(frozen=True, eq=False)
class Model:
    """`forward` and `logits` are functions of (params, ...) and nothing else.

    `implementation` is that of its attention, and of what chooses a token from its logits. `module` makes of
    config, implementation and params what computes.
    """

    config: ModelConfig
    implementation: Implementation
    param_specs: ParamSpecs
    module: type[Decoder] = Decoder

    @functools.cached_property
    def abstract_params(self) -> Params:
        """The nested dict of parameters, with a shape and a dtype for each array."""
        return self.param_specs.abstract

    def fitted_to(self, specs: ParamSpecs) -> "Model":
        """The model with the parameters that its weights have: with a head of its own, where one is
        stored."""
        config = replace(self.config, tie_word_embeddings=HEAD not in specs.by_path)
        return replace(self, config=config, param_specs=specs)

    def forward(
        self, params: Params, kv_cache: tuple[KVPages, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[KVPages, ...]]:
        """The last hidden states, of all tokens or at `tokens.logits_indices`, and the cache with all keys
        and values in it."""
        return self._module_of(params)(kv_cache, tokens)

    def logits(self, params: Params, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the token after each hidden state."""
        return self._module_of(params).logits(hidden)

    def _module_of(self, params: Params) -> Decoder:
        return self.module.of(params, self.config, self.implementation)

    def dummy_params(self, seed: int) -> Params:
        """Random weights: scales of one, biases of zero, matrices normal with standard deviation 0.02."""
        return dummy_params(self.param_specs, seed)
