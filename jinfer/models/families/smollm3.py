"""SmolLM3 (Hugging Face, 2025): Llama, but one layer in four has no rotary embedding (Yang et al., "RoPE to
NoPE and Back Again", 2025)."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.window_entries import read_layer_types, windows_by_type

ARCHITECTURES = ("SmolLM3ForCausalLM",)
MODEL_TYPE = "smollm3"
DEFAULTS = FamilyDefaults(
    vocab_size=128256,
    intermediate_size=11008,
    max_position_embeddings=32768,
    num_kv_heads=4,
    num_layers=36,
    num_heads=16,
    rope_theta=2e6,
    tie_word_embeddings=True,
)
DEFAULT_INTERVAL = 4


def read_config(entries: Entries) -> ModelConfig:
    """`no_rope_layers` or `no_rope_layer_interval` says which layers have no rotary embedding. A window is of
    these alone, where there are no `layer_types`."""
    are_turned = _read_turned_layers(entries)
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=entries.switch("mlp_bias", False),
        sliding_windows=_read_windows(entries, are_turned),
    )
    layers = tuple(
        layer if is_turned else replace(layer, attention=replace(layer.grouped_attention, rope=None))
        for layer, is_turned in zip(config.layers, are_turned, strict=True)
    )
    return replace(config, layers=layers)


def _read_turned_layers(entries: Entries) -> tuple[bool, ...]:
    """The layers with rotary embedding: 1 in `no_rope_layers`, which may be longer than the model."""
    num_layers = read_num_layers(entries, DEFAULTS.num_layers)
    interval = entries.integer("no_rope_layer_interval", DEFAULT_INTERVAL)
    flags = entries.integers("no_rope_layers", at_least=0, at_most=1)
    if flags is None:
        return tuple((number + 1) % interval != 0 for number in range(num_layers))
    if len(flags) < num_layers:
        entries.refuse("no_rope_layers", f"it must have a 0 or 1 for each of the {num_layers} layers")
    return tuple(flag == 1 for flag in flags[:num_layers])


def _read_windows(entries: Entries, are_turned: tuple[bool, ...]) -> tuple[int | None, ...]:
    window = entries.integer("sliding_window", None)
    if not entries.switch("use_sliding_window", False):
        window = None
    types = read_layer_types(entries, len(are_turned))
    if types is None:
        return tuple(None if is_turned else window for is_turned in are_turned)
    return windows_by_type(types, window, "use_sliding_window is not true, or sliding_window is null")
