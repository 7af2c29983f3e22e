"""The inputs of the products of a layer: seen by running it over text, with products that keep what they
read."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jinfer.models.attention import Attention, TokenBatch
from jinfer.models.config import LayerConfig
from jinfer.models.decoder import table_angles
from jinfer.models.decoder_layers import Layers
from jinfer.models.layers import GatedMLP, LayerIndex, Linear, RMSNorm
from pallas_kernels.paged_attention import KVPages

PAGE_SIZE = 16
MAX_SAMPLES = 1024
"""Rows of inputs that are kept of a layer, of all windows together."""


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """The inputs of a product over all calibration tokens: the mean and the maximum of |x| of each feature,
    and some of the rows."""

    mean: Float32[np.ndarray, " in"]
    max: Float32[np.ndarray, " in"]
    rows: Float32[np.ndarray, "samples in"]


@dataclass(frozen=True, eq=False)
class ObservedLinear(Linear):
    """A product that keeps what it reads in `seen`, under its path, while it is traced."""

    path: str
    seen: dict[str, Array]

    def __call__(
        self, x: Float[Array, "tokens in"], layer: LayerIndex, *, norm: RMSNorm | None = None, **around: Any
    ) -> Float[Array, "tokens out"]:
        self.seen[self.path] = x if norm is None else norm(x, layer, self.implementation)
        return super().__call__(x, layer, norm=norm, **around)


def run_layer(
    layers: Layers, config: LayerConfig, windows: Sequence[Float32[Array, "tokens features"]]
) -> tuple[list[Float32[Array, "tokens features"]], dict[str, InputStatistics]]:
    """The hidden states of each window after a layer, and what its products read by their paths.

    `layers` is a stack of this one layer, in float32. Windows are independent sequences.
    """
    outputs, means, maxima, rows = [], [], [], []
    for hidden in windows:
        kept = max(1, MAX_SAMPLES // len(windows))
        hidden, seen = _run_window(layers, config, hidden, kept)
        outputs.append(hidden)
        of_window = jax.device_get(seen)
        means.append({path: each[0] for path, each in of_window.items()})
        maxima.append({path: each[1] for path, each in of_window.items()})
        rows.append({path: each[2] for path, each in of_window.items()})
    weights = np.array([len(hidden) for hidden in windows], np.float64)
    statistics = {
        path: InputStatistics(
            np.average([each[path] for each in means], axis=0, weights=weights).astype(np.float32),
            np.max([each[path] for each in maxima], axis=0),
            np.concatenate([each[path] for each in rows]),
        )
        for path in means[0]
    }
    return outputs, statistics


@functools.partial(jax.jit, static_argnums=(1, 3))
def _run_window(
    layers: Layers, config: LayerConfig, hidden: Float32[Array, "tokens features"], num_kept: int
) -> tuple[Array, dict[str, tuple[Array, Array, Array]]]:
    """The hidden states after the layer; mean |x|, max |x| and `num_kept` rows of what each product read."""
    seen: dict[str, Array] = {}
    tokens = window_tokens(hidden.shape[0])
    attention = config.grouped_attention
    pages = jnp.zeros(
        (2, tokens.page_table.shape[1] + 1, PAGE_SIZE, attention.num_kv_heads, attention.head_dim),
        hidden.dtype,
    )
    output, _, _ = _observed(layers, seen)(
        hidden,
        0,
        config=config,
        angles=table_angles(attention.rope_table, tokens),
        kv_pages=KVPages(pages),
        tokens=tokens,
    )
    taken = _kept_rows(hidden.shape[0], num_kept)
    return output, {
        path: (jnp.mean(jnp.abs(x), axis=0), jnp.max(jnp.abs(x), axis=0), x[taken])
        for path, x in seen.items()
    }


def _kept_rows(num_rows: int, num_kept: int) -> np.ndarray:
    """The middles of `num_kept` equal parts of a window, or all rows where it has fewer.

    Neither end is always among them: the first token of a window is read unlike all others, and one row in
    16 would stand for one in 512.
    """
    num_kept = min(num_kept, num_rows)
    return ((2 * np.arange(num_kept) + 1) * num_rows // (2 * num_kept)).astype(np.int32)


def _observed(layers: Layers, seen: dict[str, Array]) -> Layers:
    """The same layers, whose products keep what they read."""

    def observe(linear: Linear, path: str) -> ObservedLinear:
        return ObservedLinear(linear.kernel, linear.bias, linear.implementation, path, seen)

    attention, mlp = layers.attention, layers.mlp
    assert isinstance(mlp, GatedMLP), "models with experts are refused before"
    assert isinstance(attention, Attention), "check_layers"
    return replace(
        layers,
        attention=replace(
            attention,
            qkv=observe(attention.qkv, "attention/qkv"),
            output=observe(attention.output, "attention/output"),
        ),
        mlp=GatedMLP(observe(mlp.gate_up, "mlp/gate_up"), observe(mlp.down, "mlp/down")),
    )


def window_tokens(num_tokens: int) -> TokenBatch:
    """A sequence of its own, from position 0 on, in pages 1, 2, ...: the tokens' ids are not asked for."""
    positions = np.arange(num_tokens, dtype=np.int32)
    num_pages = -(-num_tokens // PAGE_SIZE)
    return TokenBatch(
        token_ids=jnp.zeros(num_tokens, jnp.int32),
        positions=jnp.asarray(positions),
        page_ids=jnp.asarray(1 + positions // PAGE_SIZE),
        page_offsets=jnp.asarray(positions % PAGE_SIZE),
        page_table=jnp.arange(1, num_pages + 1, dtype=jnp.int32)[None],
        lengths=jnp.full(1, num_tokens, jnp.int32),
        query_starts=jnp.array([0, num_tokens], jnp.int32),
        num_decode_rows=jnp.zeros((), jnp.int32),
        prompt_lengths=jnp.full(num_tokens, num_tokens, jnp.int32),
    )
