"""gpt-oss (OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025): experts with a clamped gate, attention
with sinks and a window in every other layer, biases everywhere, and rotary embedding by YaRN."""

import math
from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ExpertNames, ExpertsConfig, LayerConfig, ModelConfig, TensorNames
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.expert_entries import dense_mlp, read_num_experts, read_top_k
from jinfer.models.rope_config import RopeConfig, YarnRopeScaling
from jinfer.models.rope_entries import SPELLINGS, RopeContext, read_rope
from jinfer.models.window_entries import read_periodic_windows
from pallas_kernels.experts import ClampedSwiglu
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("GptOssForCausalLM",)
MODEL_TYPE = "gpt_oss"
DEFAULTS = FamilyDefaults(
    vocab_size=201088,
    intermediate_size=2880,
    max_position_embeddings=131072,
    num_kv_heads=8,
    head_dim=64,
    num_layers=36,
    rms_norm_eps=1e-5,
    num_heads=64,
    rope_theta=150000.0,
)
NUM_EXPERTS, TOP_K, WINDOW = 128, 4, 128  # where config.json lacks them
NAMES = TensorNames(
    experts=ExpertNames(router="mlp.router", has_turned_fused=True, has_interleaved_fused=True)
)
"""Experts lie in two tensors of each layer: [experts, in, out] of floats, or mxfp4 [experts, out, in]."""
YARN = YarnRopeScaling(
    factor=32.0,
    original_max_position_embeddings=4096,
    attention_factor=0.1 * math.log(32) + 1,
    truncate=False,
)
"""The scaling of a config.json that has no entry about rotary embedding."""


def read_config(entries: Entries) -> ModelConfig:
    """`layer_types`, where it is absent, begins with a window and alternates; `intermediate_size` is that of
    an expert."""
    bias = entries.switch("attention_bias", True)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        sliding_windows=read_periodic_windows(entries, DEFAULTS, period=2, default_window=WINDOW),
        rope_reader=_read_rope,
    )
    num_experts = read_num_experts(entries, NUM_EXPERTS)
    experts = ExpertsConfig(
        num_experts,
        dense_mlp(config).intermediate_size,
        RouterOptions(read_top_k(entries, num_experts, TOP_K), scores="softmax_of_chosen"),
        bias=True,
        activation=ClampedSwiglu(
            entries.number("swiglu_alpha", 1.702), entries.number("swiglu_limit", 7.0, above=0)
        ),
    )
    layers = tuple(
        LayerConfig(replace(layer.grouped_attention, has_sinks=True), experts) for layer in config.layers
    )
    return replace(config, tensor_names=NAMES, layers=layers)


def _read_rope(entries: Entries, context: RopeContext, layer_type: str) -> RopeConfig:
    if any(entries.has(name) for name in SPELLINGS):
        return read_rope(entries, context, {layer_type})
    return RopeConfig(entries.number("rope_theta", context.default_theta, above=0), YARN)
