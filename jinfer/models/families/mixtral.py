"""Mixtral (Jiang et al., "Mixtral of Experts", 2024): Mistral with experts in the place of its MLPs."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ExpertNames, ExpertsConfig, ModelConfig, TensorNames
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.expert_entries import dense_mlp, read_num_experts, read_top_k, with_experts
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("MixtralForCausalLM",)
MODEL_TYPE = "mixtral"
DEFAULTS = FamilyDefaults(
    vocab_size=32000,
    intermediate_size=14336,
    max_position_embeddings=131072,
    num_kv_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
)
NUM_EXPERTS, TOP_K = 8, 2  # where config.json lacks them
BLOCK = "block_sparse_moe"
NAMES = TensorNames(
    experts=ExpertNames(
        router=f"{BLOCK}.gate",
        gate=f"{BLOCK}.experts.{{expert}}.w1",
        up=f"{BLOCK}.experts.{{expert}}.w3",
        down=f"{BLOCK}.experts.{{expert}}.w2",
    )
)


def read_config(entries: Entries) -> ModelConfig:
    """`intermediate_size` is that of an expert, and `sliding_window` holds for every layer."""
    num_layers, window = (
        read_num_layers(entries, DEFAULTS.num_layers),
        entries.integer("sliding_window", None),
    )
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=False,
        output_bias=False,
        sliding_windows=(window,) * num_layers,
    )
    num_experts, mlp = read_num_experts(entries, NUM_EXPERTS), dense_mlp(config)
    top_k = read_top_k(entries, num_experts, TOP_K)
    experts = ExpertsConfig(
        num_experts,
        mlp.intermediate_size,
        RouterOptions(top_k=top_k, renormalize=True),
        activation=mlp.activation,
    )
    return with_experts(replace(config, tensor_names=NAMES), experts, (True,) * num_layers)
