"""The entries of a config.json that families spell alike, read once and checked."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jinfer.entries import NEEDED, Entries
from jinfer.errors import UnsupportedModelError
from jinfer.models.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig
from jinfer.models.rope_config import RopeConfig
from jinfer.models.rope_entries import (
    DEFAULT_THETA,
    FULL,
    SLIDING,
    RopeContext,
    read_rope,
    read_rotary_dim,
)
from pallas_kernels.matmul import Activation

logger = logging.getLogger(__name__)

DEFAULT_NUM_HEADS = 32
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
RopeReader = Callable[[Entries, RopeContext, str], RopeConfig]
REMEDY = "use a model that keeps to it, or add what is missing (docs/adding_a_model.md)"


@dataclass(frozen=True)
class FamilyDefaults:
    """Values of entries that config.json lacks: the defaults of the family's configuration class in
    transformers 5.

    None: as many KV heads as heads, a head_dim of hidden_size / heads, and heads that are turned whole.
    """

    vocab_size: int
    intermediate_size: int
    max_position_embeddings: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    num_layers: int = 32
    rms_norm_eps: float = 1e-6
    num_heads: int = DEFAULT_NUM_HEADS
    rope_theta: float = DEFAULT_THETA
    tie_word_embeddings: bool = False
    partial_rotary_factor: float | None = None
    activation: str = "silu"


def read_decoder_config(
    entries: Entries,
    architecture: str,
    defaults: FamilyDefaults,
    *,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool = False,
    has_head_norms: bool = False,
    sliding_windows: tuple[int | None, ...] | None = None,
    activation_entry: str = "hidden_act",
    rope_reader: RopeReader | None = None,
) -> ModelConfig:
    """The decoder of a config.json, of which a family says what it spells in its own way. `rope_reader` gives
    the rotary embedding of a type of layers; without one all have the same.

    Raises UnsupportedModelError for a malformed or unsupported entry.
    """
    activation = _activation(entries, activation_entry, defaults)
    num_layers = _size(entries, "num_hidden_layers", defaults.num_layers)
    windows = sliding_windows or (None,) * num_layers
    # Every shape follows from it: no file leaves it to a default.
    hidden_size = entries.required_integer("hidden_size")
    max_position_embeddings = _with_default(
        entries, "max_position_embeddings", defaults.max_position_embeddings
    )
    attention = replace(
        _read_heads(entries, defaults, hidden_size),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        has_head_norms=has_head_norms,
    )
    rotary_dim = attention.rotary_dim or attention.head_dim
    context = RopeContext(rotary_dim, max_position_embeddings, defaults.rope_theta)
    ropes = _read_ropes(entries, context, windows, rope_reader)
    mlp = MLPConfig(_size(entries, "intermediate_size", defaults.intermediate_size), mlp_bias, activation)
    return ModelConfig(
        architecture=architecture,
        vocab_size=_size(entries, "vocab_size", defaults.vocab_size),
        hidden_size=hidden_size,
        layers=tuple(
            LayerConfig(replace(attention, sliding_window=window, rope=rope), mlp)
            for window, rope in zip(windows, ropes, strict=True)
        ),
        rms_norm_eps=entries.number("rms_norm_eps", defaults.rms_norm_eps, at_least=0),
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=entries.switch("tie_word_embeddings", defaults.tie_word_embeddings),
        max_context=_max_context(entries),
    )


def _read_heads(entries: Entries, defaults: FamilyDefaults, hidden_size: int) -> AttentionConfig:
    """The heads, which all layers have alike."""
    num_heads = _size(entries, "num_attention_heads", defaults.num_heads)
    num_kv_heads = _num_kv_heads(entries, num_heads, defaults)
    head_dim = _head_dim(entries, hidden_size, num_heads, defaults)
    rotary_dim = read_rotary_dim(entries, head_dim, defaults.partial_rotary_factor)
    return AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=None,
        rotary_dim=None if rotary_dim == head_dim else rotary_dim,
    )


def _read_ropes(
    entries: Entries, context: RopeContext, windows: Sequence[int | None], reader: RopeReader | None
) -> list[RopeConfig]:
    """The rotary embedding of each layer."""
    types = [FULL if window is None else SLIDING for window in windows]
    if reader is None:
        return [read_rope(entries, context, layer_types=set(types))] * len(types)
    by_type = {kind: reader(entries, context, kind) for kind in dict.fromkeys(types)}
    return [by_type[kind] for kind in types]


def read_num_layers(entries: Entries, default: int = FamilyDefaults.num_layers) -> int:
    """The number of layers, for families that say something of each."""
    return _with_default(entries, "num_hidden_layers", default)


def _activation(entries: Entries, name: str, defaults: FamilyDefaults) -> Activation:
    activation = entries.text(name, defaults.activation)
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise UnsupportedModelError(
            f"config.json has {name} {activation!r}; jinfer implements {known}: {REMEDY}"
        )
    return ACTIVATIONS[activation]


def _size(entries: Entries, name: str, default: int) -> int:
    """A size of the weights: nearly every file has it, so that its absence is said."""
    if name not in entries.raw:
        logger.warning(
            "config.json has no %r: %d is taken, the family's default in transformers", name, default
        )
    return _with_default(entries, name, default)


def _with_default(entries: Entries, name: str, default: int) -> int:
    """Null is no value here, in transformers either."""
    if name in entries.raw and not entries.has(name):
        raise UnsupportedModelError(f"config.json has null for {name!r}, {NEEDED}")
    return entries.integer(name, default)


def _num_kv_heads(entries: Entries, num_heads: int, defaults: FamilyDefaults) -> int:
    """Null means as many as heads, in every family."""
    name = "num_key_value_heads"
    default = num_heads if name in entries.raw else defaults.num_kv_heads or num_heads
    num_kv_heads = entries.integer(name, default)
    if num_heads % num_kv_heads:
        raise UnsupportedModelError(
            f"config.json has {num_heads} attention heads over {num_kv_heads} KV heads ({name}, or the "
            "family's default where it is absent); it must be a whole multiple"
        )
    return num_kv_heads


def _head_dim(entries: Entries, hidden_size: int, num_heads: int, defaults: FamilyDefaults) -> int:
    head_dim = entries.integer("head_dim", defaults.head_dim)
    if head_dim is None and hidden_size < num_heads:
        raise UnsupportedModelError(
            f"config.json has hidden_size {hidden_size} and num_attention_heads {num_heads}, which leaves "
            "heads no dimension; correct one of them, or add head_dim"
        )
    head_dim = hidden_size // num_heads if head_dim is None else head_dim
    if head_dim % 2:
        raise UnsupportedModelError(
            f"config.json has head_dim {head_dim} (hidden_size / num_attention_heads where it is absent); "
            "rotary embedding turns dimensions in pairs, so it must be even"
        )
    return head_dim


def _max_context(entries: Entries) -> int | None:
    """Dual chunk attention (An et al., 2024) is plain attention up to the length that it extends."""
    name = "dual_chunk_attention_config"
    dual = entries.object(name)
    if dual is None:
        return None
    most = dual.integer("original_max_position_embeddings", None)
    logger.warning(
        "config.json has %s, which jinfer does not implement: attention is plain, which is right up to %s",
        name,
        "its original length, which it does not say"
        if most is None
        else f"{most} positions: the context ends there",
    )
    return most
