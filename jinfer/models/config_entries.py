"""The entries of a config.json that families spell alike, read once and checked."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jinfer.entries import MAX_INTEGER, NEEDED, Entries
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

DEFAULT_SLIDING_WINDOW = 4096  # of the families that have one, in files that do not mention it
DEFAULT_MAX_WINDOW_LAYERS = 28
DEFAULT_NUM_HEADS = 32
LAYER_TYPES = {FULL: FULL, SLIDING: SLIDING, "attention": FULL}  # "attention" is an older name
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


def check_full_attention(entries: Entries, defaults: FamilyDefaults) -> None:
    """Refuses `layer_types` of other than full attention, in families that have no other."""
    if set(read_layer_types(entries, read_num_layers(entries, defaults.num_layers)) or ()) - {FULL}:
        entries.refuse("layer_types", f"all layers of this family are of {FULL}")


def _activation(entries: Entries, name: str, defaults: FamilyDefaults) -> Activation:
    activation = entries.text(name, defaults.activation)
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise UnsupportedModelError(
            f"config.json has {name} {activation!r}; jinfer implements {known}: {REMEDY}"
        )
    return ACTIVATIONS[activation]


def read_layer_types(entries: Entries, num_layers: int) -> tuple[str, ...] | None:
    """`layer_types`, one for each layer; None where there are none."""
    types = entries.texts("layer_types")
    if types is None:
        return None
    if len(types) != num_layers or not set(types) <= set(LAYER_TYPES):
        raise UnsupportedModelError(
            f"config.json has layer_types {list(types)!r}; jinfer implements {FULL} and {SLIDING}, one for "
            f"each of the {num_layers} layers: {REMEDY}"
        )
    return tuple(LAYER_TYPES[kind] for kind in types)


def windows_by_type(types: Sequence[str], window: int | None, reason: str) -> tuple[int | None, ...]:
    """The window of each layer. Refuses types that ask for a window where there is none, for a `reason`."""
    if window is None and SLIDING in types:
        raise UnsupportedModelError(
            f"config.json has layer_types with {SLIDING}, but {reason}: correct one of them, for the window "
            "is unknown"
        )
    return tuple(window if kind == SLIDING else None for kind in types)


def read_window(entries: Entries) -> int | None:
    """`sliding_window`: null is none, and a file that does not mention it means 4096."""
    return entries.integer(
        "sliding_window", None if "sliding_window" in entries.raw else DEFAULT_SLIDING_WINDOW
    )


def read_layer_windows(entries: Entries) -> tuple[int | None, ...]:
    """The sliding window of each layer, as Qwen writes it: `layer_types`, or all layers from
    `max_window_layers` on.

    Both hold where `use_sliding_window` says so. Elsewhere any integer may stand there.
    """
    num_layers = read_num_layers(entries)
    first = entries.integer("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS, at_least=-MAX_INTEGER)
    entries.integer("sliding_window", None, at_least=-MAX_INTEGER)
    window = read_window(entries) if entries.switch("use_sliding_window", False) else None
    types = read_layer_types(entries, num_layers)
    if types is None:
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return windows_by_type(types, window, "use_sliding_window is not true, or sliding_window is null")


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
