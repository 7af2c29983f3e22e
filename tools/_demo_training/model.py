"""Qwen3 for training: pure functions over a tree of float32 parameters, computed in the dtype asked for.

Independent of the engine's models on purpose, so that a checkpoint both agree on is evidence for both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from _demo_training.rows import PADDING_SEGMENT, Rows
from _demo_training.settings import Settings

Params = dict[str, Array | dict[str, Array]]


def layer_shapes(s: Settings) -> dict[str, tuple[int, ...]]:
    """The weights of one layer; those that multiply activations are [in..., out...]."""
    return {
        "input_norm": (s.hidden_size,),
        "q": (s.hidden_size, s.num_heads, s.head_dim),
        "k": (s.hidden_size, s.num_kv_heads, s.head_dim),
        "v": (s.hidden_size, s.num_kv_heads, s.head_dim),
        "q_norm": (s.head_dim,),
        "k_norm": (s.head_dim,),
        "o": (s.num_heads, s.head_dim, s.hidden_size),
        "mlp_norm": (s.hidden_size,),
        "gate": (s.hidden_size, s.intermediate_size),
        "up": (s.hidden_size, s.intermediate_size),
        "down": (s.intermediate_size, s.hidden_size),
    }


def init_params(settings: Settings, key: Key[Array, ""]) -> Params:
    """Norms are one; the two projections into the residual start smaller, as there are 2 * num_layers of
    them."""
    residual_std = settings.init_std / (2 * settings.num_layers) ** 0.5
    embed_key, *layer_keys = jax.random.split(key, 1 + len(layer_shapes(settings)))
    layers = {}
    for layer_key, (name, shape) in zip(layer_keys, layer_shapes(settings).items(), strict=True):
        stacked = (settings.num_layers, *shape)
        std = residual_std if name in ("o", "down") else settings.init_std
        layers[name] = (
            jnp.ones(stacked) if name.endswith("norm") else std * jax.random.normal(layer_key, stacked)
        )
    embed = settings.init_std * jax.random.normal(embed_key, (settings.vocab_size, settings.hidden_size))
    return {"embed": embed, "layers": layers, "final_norm": jnp.ones(settings.hidden_size)}


def rms_norm(x: Float[Array, "... n"], weight: Float[Array, " n"], eps: float) -> Float[Array, "... n"]:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def rotation(positions: Int[Array, "rows time"], settings: Settings) -> Float[Array, "rows time half"]:
    """The angle of each pair of channels; pairs are (i, i + head_dim / 2), Hugging Face's convention."""
    exponents = jnp.arange(0, settings.head_dim, 2, dtype=jnp.float32) / settings.head_dim
    return positions[..., None] * settings.rope_theta**-exponents


def rotate(
    x: Float[Array, "rows time heads dim"], angles: Float[Array, "rows time half"]
) -> Float[Array, "rows time heads dim"]:
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def visible(segments: Int[Array, "rows time"]) -> Bool[Array, "rows time time"]:
    """Query t sees key u when u <= t in the same document; padding sees padding, so no softmax is empty."""
    time = jnp.arange(segments.shape[1])
    return (segments[:, :, None] == segments[:, None, :]) & (time[:, None] >= time[None, :])


def attention(
    x: Float[Array, "rows time hidden"],
    w: dict[str, Array],
    mask: Bool[Array, "rows time time"],
    angles: Float[Array, "rows time half"],
    settings: Settings,
    key: Key[Array, ""] | None,
) -> Float[Array, "rows time hidden"]:
    eps = settings.rms_norm_eps
    q = rotate(rms_norm(jnp.einsum("bth,hnd->btnd", x, w["q"]), w["q_norm"], eps), angles)
    k = rotate(rms_norm(jnp.einsum("bth,hkd->btkd", x, w["k"]), w["k_norm"], eps), angles)
    v = jnp.einsum("bth,hkd->btkd", x, w["v"])
    # Heads [kv_head, group]: consecutive query heads share one key head.
    q = q.reshape(*q.shape[:2], settings.num_kv_heads, -1, settings.head_dim)
    scores = (
        jnp.einsum("btkgd,bukd->bkgtu", q, k, preferred_element_type=jnp.float32) * settings.head_dim**-0.5
    )
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), axis=-1).astype(x.dtype)
    mixed = jnp.einsum("bkgtu,bukd->btkgd", dropout(weights, settings.attention_dropout, key), v)
    return jnp.einsum(
        "btnd,ndh->bth", mixed.reshape(*x.shape[:2], settings.num_heads, settings.head_dim), w["o"]
    )


def mlp(x: Float[Array, "rows time hidden"], w: dict[str, Array]) -> Float[Array, "rows time hidden"]:
    return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def decoder_layer(
    x: Float[Array, "rows time hidden"],
    w: dict[str, Array],
    mask: Bool[Array, "rows time time"],
    angles: Float[Array, "rows time half"],
    settings: Settings,
    key: Key[Array, ""] | None,
) -> Float[Array, "rows time hidden"]:
    weights_key, attention_key, mlp_key = (None,) * 3 if key is None else jax.random.split(key, 3)
    normed = rms_norm(x, w["input_norm"], settings.rms_norm_eps)
    x = x + dropout(
        attention(normed, w, mask, angles, settings, weights_key), settings.dropout, attention_key
    )
    normed = rms_norm(x, w["mlp_norm"], settings.rms_norm_eps)
    return x + dropout(mlp(normed, w), settings.dropout, mlp_key)


def forward(
    params: Params, rows: Rows, settings: Settings, dtype: jnp.dtype, key: Key[Array, ""] | None = None
) -> Float[Array, "rows time vocab"]:
    """Float32 logits; with a key, dropout is on."""
    # Rows of the table are picked in float32, so the gradients of a frequent token add up in float32.
    x = params["embed"][rows.inputs].astype(dtype)
    params = jax.tree.map(lambda weight: weight.astype(dtype), params)
    mask, angles = visible(rows.segments), rotation(rows.positions, settings)
    embed_key, layer_keys = None, None
    if key is not None:
        embed_key, *keys = jax.random.split(key, 1 + settings.num_layers)
        layer_keys = jnp.stack(keys)

    def layer(x, weights_and_key):
        weights, layer_key = weights_and_key
        return decoder_layer(x, weights, mask, angles, settings, layer_key), None

    x, _ = jax.lax.scan(layer, dropout(x, settings.dropout, embed_key), (params["layers"], layer_keys))
    x = rms_norm(x, params["final_norm"], settings.rms_norm_eps)
    return jnp.einsum("bth,vh->btv", x, params["embed"], preferred_element_type=jnp.float32)


def summed_loss(
    logits: Float[Array, "rows time vocab"], rows: Rows
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Cross entropy in nats over all real targets, and their number."""
    real = rows.segments != PADDING_SEGMENT
    picked = jnp.take_along_axis(logits, rows.targets[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    return jnp.sum(losses, where=real), jnp.sum(real)
