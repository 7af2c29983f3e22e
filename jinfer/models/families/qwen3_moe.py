"""Qwen3-MoE (Yang et al., "Qwen3 Technical Report", 2025): Qwen3 with experts, of which each token has a few,
in the place of all or some MLPs."""

from jinfer.entries import Entries
from jinfer.models.config import ExpertsConfig, ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.expert_entries import (
    dense_mlp,
    read_num_experts,
    read_sparse_layers,
    read_top_k,
    with_experts,
)
from jinfer.models.window_entries import read_window
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("Qwen3MoeForCausalLM",)
MODEL_TYPE = "qwen3_moe"
DEFAULTS = FamilyDefaults(
    vocab_size=151936,
    intermediate_size=6144,
    max_position_embeddings=32768,
    num_kv_heads=4,
    num_layers=24,
)
NUM_EXPERTS, TOP_K, EXPERT_SIZE = 128, 8, 768  # where config.json lacks them


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections; `sliding_window`, where `use_sliding_window` says
    so, is of all layers. Weights of experts add up to 1 with `norm_topk_prob` alone."""
    bias = entries.switch("attention_bias", False)
    window = read_window(entries) if entries.switch("use_sliding_window", False) else None
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        has_head_norms=True,
        sliding_windows=(window,) * read_num_layers(entries, DEFAULTS.num_layers),
    )
    num_experts = read_num_experts(entries, NUM_EXPERTS)
    are_sparse = read_sparse_layers(entries, num_experts, DEFAULTS.num_layers)
    if not any(are_sparse):
        return config
    experts = ExpertsConfig(
        num_experts=num_experts,
        intermediate_size=entries.integer("moe_intermediate_size", EXPERT_SIZE),
        routing=RouterOptions(
            top_k=read_top_k(entries, num_experts, TOP_K),
            renormalize=entries.switch("norm_topk_prob", False),
        ),
        activation=dense_mlp(config).activation,
    )
    return with_experts(config, experts, are_sparse)
