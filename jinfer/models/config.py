"""What a Hugging Face config.json says about a decoder, read once and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinfer.errors import UnsupportedModelError

DEFAULT_ROPE_THETA = 10000.0
DEFAULT_SLIDING_WINDOW = 4096  # of the families that have one, in files that do not mention it
SLIDING = "sliding_attention"
LAYER_TYPES = ("full_attention", SLIDING)
REMEDY = "use a model that keeps to it, or add what is missing (docs/adding_a_model.md)"


@dataclass(frozen=True)
class LinearRopeScaling:
    """Positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class Llama3RopeScaling:
    """Low frequencies are divided by `factor`, high ones kept, and those between blended (Llama 3.1's rule)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class RopeConfig:
    theta: float
    scaling: LinearRopeScaling | Llama3RopeScaling | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. One class for all families: a family sets what it has and leaves the rest."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    sliding_windows: tuple[int | None, ...]
    """Of each layer; None sees everything."""
    norms_in_weights: bool = False
    """Not of the file, but of how weights are kept: `jinfer.models.decoder.with_norms_in_weights`."""


def read_decoder_config(
    raw: Mapping[str, Any], *, qkv_bias: bool, output_bias: bool, mlp_bias: bool = False,
    sliding_windows: tuple[int | None, ...] | None = None,
) -> ModelConfig:  # fmt: skip
    """What all families spell alike. Raises UnsupportedModelError for a missing or unsupported entry."""
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"config.json has hidden_act {activation!r}; jinfer implements 'silu': {REMEDY}")
    num_layers, num_heads = required(raw, "num_hidden_layers"), required(raw, "num_attention_heads")
    num_kv_heads = raw.get("num_key_value_heads") or num_heads
    hidden_size = required(raw, "hidden_size")
    if num_heads % num_kv_heads:
        raise UnsupportedModelError(
            f"config.json has {num_heads} attention heads over {num_kv_heads} KV heads; it must be a whole multiple"
        )
    return ModelConfig(
        architecture=raw["architectures"][0],
        vocab_size=required(raw, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=required(raw, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=raw.get("head_dim") or hidden_size // num_heads,
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope=read_rope(raw),
        max_position_embeddings=required(raw, "max_position_embeddings"),
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        sliding_windows=sliding_windows or (None,) * num_layers,
    )


def required(raw: Mapping[str, Any], name: str) -> Any:
    """An entry of config.json that has no default."""
    if raw.get(name) is None:
        raise UnsupportedModelError(
            f"config.json has no {name!r}, which the architecture needs; add it or fetch the file again"
        )
    return raw[name]


def read_rope(raw: Mapping[str, Any]) -> RopeConfig:
    """Rotary embedding from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    scaling = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(scaling.get("rope_theta", raw.get("rope_theta", DEFAULT_ROPE_THETA)))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    rotated_share = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if rotated_share != 1.0:
        raise UnsupportedModelError(
            f"config.json has partial_rotary_factor {rotated_share}; jinfer implements 1.0: {REMEDY}"
        )
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, LinearRopeScaling(required(scaling, "factor")))
    if kind == "llama3":
        fields = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return RopeConfig(theta, Llama3RopeScaling(**{name: required(scaling, name) for name in fields}))
    raise UnsupportedModelError(
        f"config.json has rope type {kind!r}; jinfer implements default, linear and llama3: {REMEDY}"
    )


def read_layer_windows(raw: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The sliding window of each layer, as Qwen writes it: `layer_types`, or all layers from `max_window_layers` on."""
    num_layers, window = required(raw, "num_hidden_layers"), raw.get("sliding_window", DEFAULT_SLIDING_WINDOW)
    if not raw.get("use_sliding_window") or window is None:
        return (None,) * num_layers
    types = raw.get("layer_types")
    if types is None:
        first = required(raw, "max_window_layers")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(types) != num_layers or not set(types) <= set(LAYER_TYPES):
        raise UnsupportedModelError(
            f"config.json has layer_types {types!r}; jinfer implements {' and '.join(LAYER_TYPES)}, one for each of "
            f"the {num_layers} layers: {REMEDY}"
        )
    return tuple(window if kind == SLIDING else None for kind in types)
