"""The parameters and the operations of a layer's attention, by its kind."""

from typing import NamedTuple

from jinfer.models.config import AttentionConfig, LatentAttentionConfig


class AttentionWork(NamedTuple):
    """The work of one token in one layer.

    `cache_params` multiply the token for what it leaves in the cache, `other_params` for all else.
    `float_params` of the latter stay floats where linear layers are quantized. `pair_flops` are operations
    for each position that it sees.
    """

    cache_params: int
    other_params: int
    float_params: int
    pair_flops: int

    @classmethod
    def of(cls, attention: AttentionConfig | LatentAttentionConfig, hidden_size: int) -> "AttentionWork":
        """The work of a kind of attention in a model of this width."""
        if isinstance(attention, LatentAttentionConfig):
            return _latent_work(attention, hidden_size)
        queries = attention.num_heads * attention.head_dim
        num_kinds = 0 if attention.kv_layer is not None else 1 if attention.keys_are_values else 2
        return cls(
            cache_params=num_kinds * attention.num_kv_heads * attention.head_dim * hidden_size,
            other_params=2 * queries * hidden_size,
            float_params=0,
            pair_flops=4 * queries,
        )


def _latent_work(attention: LatentAttentionConfig, hidden_size: int) -> AttentionWork:
    """Pairs cost the least where keys and values are made of the latent vectors, which multiplies each token
    with the same parameters as its queries and its result are multiplied with where they are not."""
    heads, q_latent_dim = attention.num_heads, attention.q_latent_dim
    queries = heads * attention.head_dim
    q_params = hidden_size * queries if q_latent_dim is None else q_latent_dim * (hidden_size + queries)
    return AttentionWork(
        cache_params=attention.cache_dim * hidden_size,
        other_params=q_params + heads * attention.value_dim * hidden_size,
        float_params=heads * (attention.nope_dim + attention.value_dim) * attention.latent_dim,
        pair_flops=2 * heads * (attention.head_dim + attention.value_dim),
    )
