"""DeepSeek-V3 and R1 (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024): latent attention, and experts that
a learned bias balances. The layers that predict several tokens are left out."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.deepseek_entries import (
    ExpertDefaults,
    check_method,
    read_leading_dense,
    with_deepseek_experts,
    with_prediction_layers,
)
from jinfer.models.latent_entries import LatentDefaults, read_latent_decoder_config
from pallas_kernels.router import RouterOptions

ARCHITECTURES = ("DeepseekV3ForCausalLM",)
MODEL_TYPE = "deepseek_v3"
DEFAULTS = FamilyDefaults(
    vocab_size=129280,
    intermediate_size=18432,
    max_position_embeddings=4096,
    num_heads=128,
    num_layers=61,
)
LATENT_DEFAULTS = LatentDefaults(q_latent_dim=1536)
EXPERT_DEFAULTS = ExpertDefaults(
    num_experts=256, expert_size=2048, num_shared=1, top_k=8, scaling=2.5, num_groups=8, top_groups=4
)
NUM_DENSE = 3  # layers without experts, where config.json does not say it
METHOD: dict[str, tuple[object, ...]] = {
    "topk_method": ("noaux_tc",),
    "scoring_func": ("sigmoid",),
    "moe_layer_freq": (1,),
}


def read_config(entries: Entries) -> ModelConfig:
    """Pairs of rotary dimensions lie side by side with `rope_interleave`, and else half of them apart. The
    first `first_k_dense_replace` layers have no experts."""
    config = read_latent_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        LATENT_DEFAULTS,
        has_interleaved_rope=entries.switch("rope_interleave", True),
    )
    check_method(entries, METHOD)
    are_sparse = read_leading_dense(entries, config.num_layers, NUM_DENSE)
    config = with_deepseek_experts(config, entries, EXPERT_DEFAULTS, are_sparse, read_balanced(entries))
    return with_prediction_layers(config, entries)


def read_balanced(entries: Entries) -> RouterOptions:
    """Sigmoids, chosen with a bias in the groups whose two best experts are best."""
    return RouterOptions(
        top_k=1,
        scores="sigmoid",
        renormalize=entries.switch("norm_topk_prob", True),
        group_score="two_best",
    )
