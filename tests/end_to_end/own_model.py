"""A model that jinfer does not have, as somebody has it who trained it with Flax: all that its author writes.

Attention and MLP of a layer read the same LayerNorm and are added together, as in GPT-J; the MLP is a squared
ReLU without a gate. It is a module of Flax NNX for training, and beside it what serves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jinfer.modeling import (
    Attention,
    AttentionConfig,
    Embedding,
    LayerConfig,
    Linear,
    MLPConfig,
    ModelConfig,
    OwnModel,
    RopeConfig,
    TokenBatch,
    table_angles,
)
from pallas_kernels.layer_norm import layer_norm

STATIC = {"static": True}


@dataclass(frozen=True)
class Sizes:
    """The model's own configuration."""

    vocab: int = 64
    width: int = 32
    depth: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    hidden: int = 48
    context: int = 96
    theta: float = 1000.0
    epsilon: float = 1e-5


# --- serving: the configuration, the parameters, and what computes


def read_config(sizes: Sizes) -> ModelConfig:
    """What the engine has to know of a model."""
    attention = AttentionConfig(sizes.heads, sizes.kv_heads, sizes.head_dim, RopeConfig(sizes.theta))
    return ModelConfig(
        architecture="Parallel",
        vocab_size=sizes.vocab,
        hidden_size=sizes.width,
        layers=(LayerConfig(attention, MLPConfig(sizes.hidden)),) * sizes.depth,
        rms_norm_eps=sizes.epsilon,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
    )


def param_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    depth, width, heads = sizes.depth, sizes.width, sizes.heads * sizes.head_dim
    return {
        "embedding": (sizes.vocab, width),
        "norm/scale": (depth, width),
        "norm/bias": (depth, width),
        "attention/qkv/kernel": (depth, width, heads + 2 * sizes.kv_heads * sizes.head_dim),
        "attention/output/kernel": (depth, heads, width),
        "up/kernel": (depth, width, sizes.hidden),
        "down/kernel": (depth, sizes.hidden, width),
        "final_norm/scale": (width,),
        "final_norm/bias": (width,),
    }


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ParallelDecoder:
    embedding: Embedding
    attention: Attention
    up: Linear
    down: Linear
    norms: Mapping[str, Any]
    config: ModelConfig = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Mapping[str, Any], config: ModelConfig, implementation: Any) -> "ParallelDecoder":
        return cls(
            embedding=Embedding(params["embedding"], implementation),
            attention=Attention.of(params["attention"], config.rms_norm_eps, implementation),
            up=Linear.of(params["up"], implementation),
            down=Linear.of(params["down"], implementation),
            norms={name: params[name] for name in ("norm", "final_norm")},
            config=config,
        )

    def __call__(self, kv_cache: tuple[Any, ...], tokens: TokenBatch) -> tuple[jax.Array, tuple[Any, ...]]:
        x, every_token, pages = self.embedding(tokens.token_ids), tokens._replace(logits_indices=None), []
        for layer, config in enumerate(self.config.layers):
            read = self._normed(x, "norm", layer)
            attended, new_pages = self.attention(
                read,
                layer,
                config=config.attention,
                angles=table_angles(config.attention.rope_table, tokens),
                kv_pages=kv_cache[layer],
                tokens=every_token,
                norm=None,
                post_norm=None,
                residual=x,
            )
            x = attended + self.down(jnp.square(jax.nn.relu(self.up(read, layer))), layer)
            pages.append(new_pages)
        return (x if tokens.logits_indices is None else x[tokens.logits_indices]), tuple(pages)

    def logits(self, hidden: jax.Array) -> jax.Array:
        x = self._normed(hidden, "final_norm", ...)
        return (x @ self.embedding.kernel.T).astype(jnp.float32)

    def _normed(self, x: jax.Array, name: str, layer: Any) -> jax.Array:
        scale, bias = (self.norms[name][part][layer] for part in ("scale", "bias"))
        return layer_norm(x, scale, bias, epsilon=self.config.rms_norm_eps)


def parallel(sizes: Sizes) -> OwnModel:
    return OwnModel(read_config(sizes), param_shapes(sizes), ParallelDecoder)


NNX_MAP = {
    "embedding": "embed/embedding",
    "norm/scale": "blocks/{layer}/norm/scale",
    "norm/bias": "blocks/{layer}/norm/bias",
    "attention/qkv/kernel": [f"blocks/{{layer}}/{name}/kernel" for name in ("q", "k", "v")],
    "attention/output/kernel": "blocks/{layer}/out/kernel",
    "up/kernel": "blocks/{layer}/up/kernel",
    "down/kernel": "blocks/{layer}/down/kernel",
    "final_norm/scale": "norm/scale",
    "final_norm/bias": "norm/bias",
}

# --- training: a module of Flax NNX, which knows nothing of jinfer


class Block(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        self.sizes = sizes
        kv = sizes.kv_heads * sizes.head_dim
        heads = sizes.heads * sizes.head_dim

        def linear(num_in: int, num_out: int) -> nnx.Linear:
            return nnx.Linear(
                num_in, num_out, use_bias=False, rngs=rngs, kernel_init=nnx.initializers.normal(0.3)
            )

        self.norm = nnx.LayerNorm(sizes.width, epsilon=sizes.epsilon, rngs=rngs)
        self.q, self.k, self.v = linear(sizes.width, heads), linear(sizes.width, kv), linear(sizes.width, kv)
        self.out, self.up = linear(heads, sizes.width), linear(sizes.width, sizes.hidden)
        self.down = linear(sizes.hidden, sizes.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        read = self.norm(x)
        q, k, v = (each(read).reshape(len(x), -1, self.sizes.head_dim) for each in (self.q, self.k, self.v))
        attended = jax.nn.dot_product_attention(
            turned(q, self.sizes), turned(k, self.sizes), v, is_causal=True
        )
        return x + self.out(attended.reshape(len(x), -1)) + self.down(jnp.square(jax.nn.relu(self.up(read))))


class Parallel(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(
            sizes.vocab, sizes.width, rngs=rngs, embedding_init=nnx.initializers.normal(1.0)
        )
        self.blocks = nnx.List([Block(sizes, rngs) for _ in range(sizes.depth)])
        self.norm = nnx.LayerNorm(sizes.width, epsilon=sizes.epsilon, rngs=rngs)

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        """The logits of one sequence, [tokens, vocab]."""
        x = self.embed(token_ids)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


def turned(heads: jax.Array, sizes: Sizes) -> jax.Array:
    half = sizes.head_dim // 2
    angles = jnp.arange(len(heads))[:, None, None] * sizes.theta ** (-jnp.arange(half) / half)
    first, second = jnp.split(heads, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
