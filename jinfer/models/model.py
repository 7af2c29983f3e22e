"""A family's module together with the pure functions of its parameters that the engine compiles."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jinfer.models.config import ModelConfig
from jinfer.models.decoder import Decoder
from jinfer.models.layers import Bias, Scale
from jinfer.models.token_batch import TokenBatch
from jinfer.weights.params import WeightSource, flatten, unflatten
from pallas_kernels import Implementation

Params = Mapping[str, Any]
"""A nested dict of arrays. Weights of layers are stacked: attention/qkv/kernel is [num_layers, in, out]."""

DUMMY_SCALE = 0.02  # the usual standard deviation of an untrained transformer's weights


@dataclass(frozen=True, eq=False)
class Model:
    """`forward` and `logits` are functions of (params, ...) and nothing else.

    `implementation` is that of its attention, and of what chooses a token from its logits.
    """

    config: ModelConfig
    implementation: Implementation
    graphdef: nnx.GraphDef
    abstract_params: Params
    weight_sources: Mapping[str, WeightSource]
    variables: Mapping[str, nnx.Variable]

    @classmethod
    def of(cls, module: Decoder, weight_sources: Mapping[str, WeightSource]) -> "Model":
        graphdef, state = nnx.split(module)
        variables = {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
        abstract = unflatten({path: variable.get_value() for path, variable in variables.items()})
        assert set(variables) == set(weight_sources), set(variables) ^ set(weight_sources)
        return cls(module.config, module.attention.implementation, graphdef, abstract, weight_sources, variables)

    def forward(
        self, params: Params, kv_cache: tuple[Array, ...], tokens: TokenBatch
    ) -> tuple[Float[Array, "tokens_or_rows features"], tuple[Array, ...]]:
        """The last hidden states, of all tokens or of `tokens.newest`, and the cache with all keys and values in it."""
        return nnx.merge(self.graphdef, params)(kv_cache, tokens)

    def logits(self, params: Params, hidden: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """float32 logits of the token after each hidden state."""
        return nnx.merge(self.graphdef, params).logits(hidden)

    def dummy_params(self, seed: int) -> Params:
        """Random weights: scales of one, biases of zero, matrices normal with standard deviation 0.02."""
        abstract, key = flatten(self.abstract_params), jax.random.key(seed)

        def make(index: int, path: str) -> Array:
            return _dummy(key, index, type(self.variables[path]), abstract[path].shape, abstract[path].dtype)

        with ThreadPoolExecutor() as threads:  # each shape is a program of its own, which takes longer to compile
            return unflatten(dict(zip(abstract, threads.map(make, range(len(abstract)), abstract), strict=True)))


@jax.jit(static_argnums=(2, 3, 4))
def _dummy(key: Array, index: ArrayLike, kind: type[nnx.Variable], shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """On a GPU, XLA fuses the random bits into what is made of them: no memory is needed beside the result."""
    if issubclass(kind, Scale):
        return jnp.ones(shape, dtype)
    if issubclass(kind, Bias):
        return jnp.zeros(shape, dtype)
    return jax.random.normal(jax.random.fold_in(key, index), shape, dtype) * jnp.asarray(DUMMY_SCALE, dtype)
