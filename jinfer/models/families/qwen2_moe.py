"""Qwen2-MoE and Qwen1.5-MoE (Yang et al., "Qwen2 Technical Report", 2024): Qwen2 with experts, and with one
that every token has, behind a gate of its own."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ExpertNames, ExpertsConfig, MLPConfig, ModelConfig, TensorNames
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.expert_entries import (
    dense_mlp,
    read_num_experts,
    read_sparse_layers,
    read_top_k,
    with_experts,
)
from jinfer.models.window_entries import (
    DEFAULT_MAX_WINDOW_LAYERS,
    read_layer_types,
    read_window,
    windows_by_type,
)
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("Qwen2MoeForCausalLM",)
MODEL_TYPE = "qwen2_moe"
DEFAULTS = FamilyDefaults(
    vocab_size=151936,
    intermediate_size=5632,
    max_position_embeddings=32768,
    num_kv_heads=16,
    num_layers=24,
    num_heads=16,
)
NUM_EXPERTS, TOP_K, EXPERT_SIZE, SHARED_SIZE = 60, 4, 1408, 5632  # where config.json lacks them
NAMES = TensorNames(experts=ExpertNames(shared="mlp.shared_expert"))


def read_config(entries: Entries) -> ModelConfig:
    """`qkv_bias` is true where it is absent; every other layer up to `max_window_layers` may have a sliding
    window. Weights of experts add up to 1 with `norm_topk_prob` alone."""
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=entries.switch("qkv_bias", True),
        output_bias=False,
        sliding_windows=_read_windows(entries),
    )
    config = replace(config, tensor_names=NAMES)
    num_experts = read_num_experts(entries, NUM_EXPERTS)
    are_sparse = read_sparse_layers(entries, num_experts, DEFAULTS.num_layers)
    if not any(are_sparse):
        return config
    activation = dense_mlp(config).activation
    experts = ExpertsConfig(
        num_experts=num_experts,
        intermediate_size=entries.integer("moe_intermediate_size", EXPERT_SIZE),
        routing=RouterOptions(
            top_k=read_top_k(entries, num_experts, TOP_K),
            renormalize=entries.switch("norm_topk_prob", False),
        ),
        activation=activation,
        shared=MLPConfig(
            entries.integer("shared_expert_intermediate_size", SHARED_SIZE), activation=activation
        ),
        has_shared_gate=True,
    )
    return with_experts(config, experts, are_sparse)


def _read_windows(entries: Entries) -> tuple[int | None, ...]:
    """The window of each layer: by `layer_types`, or of the layers 0, 2, 4, ... below `max_window_layers`;
    where `use_sliding_window` says so."""
    num_layers = read_num_layers(entries, DEFAULTS.num_layers)
    first_full = entries.integer("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS, at_least=0)
    entries.has("sliding_window")  # where windows are not used, any number may stand there
    window = read_window(entries) if entries.switch("use_sliding_window", False) else None
    types = read_layer_types(entries, num_layers)
    if types is None:
        return tuple(window if layer % 2 == 0 and layer < first_full else None for layer in range(num_layers))
    return windows_by_type(types, window, "use_sliding_window is not true, or sliding_window is null")
