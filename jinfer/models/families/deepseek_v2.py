"""DeepSeek-V2 and V2-Lite (DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts
Language Model", 2024): latent attention, and experts beside shared ones."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.deepseek_entries import (
    ExpertDefaults,
    check_method,
    read_leading_dense,
    with_deepseek_experts,
)
from jinfer.models.latent_entries import LatentDefaults, read_latent_decoder_config
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("DeepseekV2ForCausalLM",)
MODEL_TYPE = "deepseek_v2"
DEFAULTS = FamilyDefaults(vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048)
LATENT_DEFAULTS = LatentDefaults(q_latent_dim=1536)
EXPERT_DEFAULTS = ExpertDefaults(num_experts=64, expert_size=1407, num_shared=2)
GREEDY, BY_GROUPS = "greedy", "group_limited_greedy"


def read_config(entries: Entries) -> ModelConfig:
    """The first `first_k_dense_replace` layers have no experts. By the `topk_method` experts are chosen among
    all or in the best groups. Pairs of rotary dimensions lie side by side."""
    config = read_latent_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        LATENT_DEFAULTS,
        has_interleaved_rope=True,
        mlp_bias=entries.switch("mlp_bias", False),
    )
    check_method(
        entries,
        {
            "topk_method": (GREEDY, BY_GROUPS),
            "scoring_func": ("softmax",),
            "norm_topk_prob": (False,),
            "moe_layer_freq": (1,),
        },
    )
    if entries.text("topk_method", GREEDY) == GREEDY:  # groups, if there are some, are not used
        entries = Entries({**entries.raw, "n_group": 1, "topk_group": 1}, entries.name)
    are_sparse = read_leading_dense(entries, config.num_layers, default=0)
    return with_deepseek_experts(config, entries, EXPERT_DEFAULTS, are_sparse, RouterOptions(top_k=1))
