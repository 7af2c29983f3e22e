"""The text model of Gemma 4 (Gemma Team, 2026): Gemma 3 with larger heads in layers without a window, whose
values may be their keys, an input of each token in each layer, and upper layers that read the keys and values
of lower ones."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import (
    ExpertNames,
    ExpertsConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    TensorNames,
    TokenInputsConfig,
)
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.families.gemma2 import read_cap
from jinfer.models.layer_entries import GlobalHeads, read_global_heads, read_kv_layers
from jinfer.models.rope_config import ProportionalRope, RopeConfig
from jinfer.models.rope_entries import FULL, SLIDING, SPELLINGS, RopeContext, read_rope_entry, without_entries
from jinfer.models.window_entries import read_layer_types, windows_by_type
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("Gemma4ForCausalLM",)
MODEL_TYPE = "gemma4_text"
DEFAULTS = FamilyDefaults(
    vocab_size=262144,
    intermediate_size=9216,
    max_position_embeddings=131072,
    num_kv_heads=4,
    head_dim=256,
    num_layers=30,
    num_heads=8,
    tie_word_embeddings=True,
    activation="gelu_pytorch_tanh",
)
WINDOW, PERIOD, INPUT_SIZE = 512, 6, 256
THETAS = {FULL: 1e6, SLIDING: 1e4}
SHARE, DEFAULT_SHARE = "partial_rotary_factor", 0.25
PROPORTIONAL = "proportional"
NAMES = TensorNames(
    experts=ExpertNames(
        router="router.proj",
        gate="experts.{expert}.gate_proj",
        up="experts.{expert}.up_proj",
        down="experts.{expert}.down_proj",
        fused_gate_up="experts.gate_up_proj",
        fused_down="experts.down_proj",
    )
)


def read_config(entries: Entries) -> ModelConfig:
    """`layer_types` are five of a window and one without by default; the last is without one in any file."""
    _check(entries)
    types = _read_types(entries)
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(
        without_entries(entries, (FULL, SLIDING)),
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        has_head_norms=True,
        sliding_windows=windows_by_type(
            types, entries.integer("sliding_window", WINDOW), "sliding_window is null"
        ),
        activation_entry="hidden_activation",
        rope_reader=lambda _, context, kind: _read_rope(entries, context, kind),
    )
    heads = read_global_heads(entries, types, config.layers[0].grouped_attention)
    kv_layers = read_kv_layers(entries, types)
    experts = _read_experts(entries, config.layers[0])
    factor = 2 if entries.switch("use_double_wide_mlp", False) else 1
    return replace(
        config,
        layers=tuple(
            replace(
                _as_gemma4(layer, heads if kind == FULL else None, kv_layer, factor), experts_beside=experts
            )
            for layer, kind, kv_layer in zip(config.layers, types, kv_layers, strict=True)
        ),
        tensor_names=NAMES,
        embedding_scale=config.hidden_size**0.5,
        logits_soft_cap=read_cap(entries, "final_logit_softcapping", None),
        token_inputs=_read_token_inputs(entries, config.layers[0]),
    )


def _check(entries: Entries) -> None:
    if entries.text("use_bidirectional_attention", None) == "all":
        entries.refuse("use_bidirectional_attention", "jinfer implements attention to what came before")


def _read_types(entries: Entries) -> tuple[str, ...]:
    num_layers = read_num_layers(entries, DEFAULTS.num_layers)
    types = read_layer_types(entries, num_layers) or tuple(
        FULL if (layer + 1) % PERIOD == 0 else SLIDING for layer in range(num_layers)
    )
    return (*types[:-1], FULL)


def _as_gemma4(
    layer: LayerConfig, heads: GlobalHeads | None, kv_layer: int | None, wide_factor: int
) -> LayerConfig:
    assert isinstance(layer.mlp, MLPConfig)
    attention = replace(layer.grouped_attention, scale=1.0, has_value_norm=True, kv_layer=kv_layer)
    if heads is not None:
        attention = replace(
            attention,
            head_dim=heads.head_dim,
            num_kv_heads=heads.num_kv_heads,
            keys_are_values=heads.keys_are_values,
        )
    factor = 1 if kv_layer is None else wide_factor
    return replace(
        layer,
        attention=attention,
        mlp=replace(layer.mlp, intermediate_size=factor * layer.mlp.intermediate_size),
        has_post_norms=True,
        has_scale=True,
    )


def _read_experts(entries: Entries, layer: LayerConfig) -> ExpertsConfig | None:
    """The experts beside the MLP of each layer, of which all sizes are given where there are some."""
    names = "num_experts", "top_k_experts", "moe_intermediate_size"
    if not entries.switch("enable_moe_block", False):
        for name in names:
            entries.has(name)
        return None
    assert isinstance(layer.mlp, MLPConfig)
    num_experts, top_k, size = map(entries.required_integer, names)
    if top_k > num_experts:
        entries.refuse("top_k_experts", f"a token has no more than the {num_experts} experts of a layer")
    routing = RouterOptions(top_k=top_k, renormalize=True)
    return ExpertsConfig(num_experts, size, routing, activation=layer.mlp.activation)


def _read_token_inputs(entries: Entries, layer: LayerConfig) -> TokenInputsConfig | None:
    size = entries.integer("hidden_size_per_layer_input", INPUT_SIZE, at_least=0)
    vocab_size = entries.integer("vocab_size_per_layer_input", DEFAULTS.vocab_size)
    assert isinstance(layer.mlp, MLPConfig)
    return TokenInputsConfig(vocab_size, size, layer.mlp.activation) if size else None


def _read_rope(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
    """`rope_parameters` has an entry for each type of layer, or is absent."""
    by_type = entries.object(SPELLINGS[0])
    rule = None if by_type is None else by_type.object(layer_type)
    context = replace(context, default_theta=THETAS[layer_type])
    if by_type is None and layer_type == FULL:
        return RopeConfig(THETAS[FULL], ProportionalRope(DEFAULT_SHARE))
    if rule is None or rule.text("rope_type", None) != PROPORTIONAL:
        return read_rope_entry(rule, Entries({}), context)
    share = rule.number(SHARE, 1.0, above=0)
    if share > 1 or rule.number("factor", 1.0) != 1:
        rule.refuse(SHARE, f"of type {PROPORTIONAL} it is at most 1, and there is no factor")
    return RopeConfig(rule.number("rope_theta", THETAS[layer_type], above=0), ProportionalRope(share))
