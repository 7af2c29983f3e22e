"""The tiny models that jinfer is compared on with transformers: at least one for every option that a family
reads.

Their head dimensions differ, so that the kernels meet whole and padded ones. Windows are smaller than the
longest prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 96
MAX_POSITIONS = 128
MATRIX_SCALE = 0.3
WITHOUT_PRE_NORMS = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


@dataclass(frozen=True)
class Variant:
    """A class of transformers, and the options of its configuration."""

    architecture: str
    options: Mapping[str, Any]
    max_shard_size: str = "1GB"

    @property
    def embedding_scale(self) -> float:
        """The size of random embeddings. Without norms before the layers, small ones drown in what the layers
        add, and the text repeats itself; so it does where large ones are the head as well."""
        is_tied = self.options.get("tie_word_embeddings", False)
        return 1.0 if self.architecture in WITHOUT_PRE_NORMS and not is_tied else MATRIX_SCALE


def _variant(architecture: str, *, max_shard_size: str = "1GB", **options: Any) -> Variant:
    common = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "num_hidden_layers": 2,
        "intermediate_size": 72,
        "rms_norm_eps": 1e-5,
        "pad_token_id": None,  # some families' own is beyond this vocabulary
    }
    return Variant(architecture, {**common, **options}, max_shard_size)


def _multimodal(
    architecture: str, text: Mapping[str, Any], vision: Mapping[str, Any], **options: Any
) -> Variant:
    """A text model beside a vision model that is as small as can be."""
    of_text = {**_variant(architecture, **text).options}
    of_vision = {"patch_size": 2, "intermediate_size": 8, **vision}
    return Variant(architecture, {"text_config": of_text, "vision_config": of_vision, **options})


def _sizes(hidden: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads}


NO_IDS = {"pad_token_id": None, "eos_token_id": None}  # where the family's defaults are beyond the vocabulary
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With head_dim 16 the wavelengths are 6 (kept: under 32 / 4), 20 (blended) and 63 or more (stretched:
    # over 32 / 1).
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
SHORT = 24  # an original context that the longest prompt exceeds, and the others as they are continued
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": SHORT,
}
YARN_MSCALE_ROPE = {**YARN_ROPE, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 4.0, "beta_slow": 0.5}
LATENT_YARN_ROPE = {**YARN_ROPE, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}
YARN_WHOLE_ROPE = {**YARN_ROPE, "truncate": False, "attention_factor": 0.75}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}


def _longrope(head_dim: int, **more: float) -> dict[str, Any]:
    pairs = head_dim // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": SHORT,
        "short_factor": [1 + i / 8 for i in range(pairs)],
        "long_factor": [1.5 + i for i in range(pairs)],
        **more,
    }


def _latent(**sizes: int | None) -> dict[str, int | None]:
    """Heads of latent attention: powers of two where the kernels want them, and else none."""
    latent = {"kv_lora_rank": 32, "qk_nope_head_dim": 12, "qk_rope_head_dim": 16, "v_head_dim": 20}
    return {**latent, **sizes}


def _latent_experts(**options: int | float | bool) -> dict[str, int | float | bool]:
    """Experts in all layers but the first."""
    experts = {
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "n_shared_experts": 1,
    }
    return {**experts, **options}


VARIANTS: Mapping[str, Variant] = {
    "llama2_mha": _variant("LlamaForCausalLM", **_sizes(32, 4, 4)),
    "llama3_rope_sharded": _variant(
        "LlamaForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=16,
        rope_parameters=LLAMA3_ROPE,
        max_shard_size="32KB",
    ),
    "llama_mqa_biases_tied": _variant(
        "LlamaForCausalLM",
        **_sizes(32, 4, 1),
        head_dim=24,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "llama_linear_rope": _variant("LlamaForCausalLM", **_sizes(48, 4, 2), rope_parameters=LINEAR_ROPE),
    "qwen2_tied": _variant("Qwen2ForCausalLM", **_sizes(32, 4, 2), tie_word_embeddings=True),
    "qwen2_upper_window": _variant(
        "Qwen2ForCausalLM", **_sizes(48, 3, 1), use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3_head_dim_80": _variant(
        "Qwen3ForCausalLM", **_sizes(32, 2, 1), head_dim=80, tie_word_embeddings=True
    ),
    "qwen3_biases": _variant("Qwen3ForCausalLM", **_sizes(32, 4, 2), head_dim=64, attention_bias=True),
    "mistral_window": _variant("MistralForCausalLM", **_sizes(32, 4, 2), head_dim=20, sliding_window=6),
    "llama_longrope": _variant(
        "LlamaForCausalLM", **_sizes(32, 4, 2), head_dim=16, rope_parameters=_longrope(16)
    ),
    "mistral_dynamic_rope": _variant(
        "MistralForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=16,
        sliding_window=None,
        max_position_embeddings=SHORT,
        rope_parameters=DYNAMIC_ROPE,
    ),
    "phi3_window": _variant("Phi3ForCausalLM", **_sizes(32, 4, 4), sliding_window=8, **NO_IDS),
    "phi3_partial_longrope_tied": _variant(
        "Phi3ForCausalLM",
        **_sizes(32, 2, 1),
        **NO_IDS,
        tie_word_embeddings=True,
        original_max_position_embeddings=SHORT,
        rope_parameters={**_longrope(12), "partial_rotary_factor": 0.75},
    ),
    "glm_interleaved_biases": _variant("GlmForCausalLM", **_sizes(32, 4, 2), head_dim=16, **NO_IDS),
    "glm4_post_norms_tied": _variant(
        "Glm4ForCausalLM",
        **_sizes(48, 3, 1),
        head_dim=24,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        **NO_IDS,
    ),
    "seed_oss_output_bias": _variant(
        "SeedOssForCausalLM", **_sizes(32, 4, 2), head_dim=16, attention_out_bias=True, mlp_bias=True
    ),
    "smollm3_window": _variant(
        "SmolLM3ForCausalLM",
        **_sizes(48, 3, 1),
        num_hidden_layers=3,
        no_rope_layers=[1, 0, 1],
        use_sliding_window=True,
        sliding_window=8,
        attention_bias=True,
        mlp_bias=True,
    ),
    "smollm3_yarn": _variant(
        "SmolLM3ForCausalLM",
        **_sizes(32, 4, 2),
        no_rope_layer_interval=2,
        tie_word_embeddings=False,
        max_position_embeddings=2 * SHORT,
        rope_parameters=YARN_ROPE,
    ),
    "olmo2_gqa_biases": _variant(
        "Olmo2ForCausalLM",
        **_sizes(48, 4, 2),
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    ),
    "olmo3_yarn_by_type": _variant(
        "Olmo3ForCausalLM",
        **_sizes(48, 4, 2),
        attention_bias=True,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=8 * SHORT,
        rope_parameters={
            "full_attention": YARN_ROPE,
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
    ),
    "olmo2_mha_tied": _variant("Olmo2ForCausalLM", **_sizes(32, 4, 4), tie_word_embeddings=True),
    "qwen2_yarn": _variant(
        "Qwen2ForCausalLM", **_sizes(48, 3, 1), max_position_embeddings=2 * SHORT, rope_parameters=YARN_ROPE
    ),
    "granite_multipliers": _variant(
        "GraniteForCausalLM",
        **_sizes(48, 4, 2),
        embedding_multiplier=1.5,
        attention_multiplier=0.15,
        residual_multiplier=0.7,
        logits_scaling=3.0,
    ),
    "granite_biases_tied": _variant(
        "GraniteForCausalLM",
        **_sizes(32, 4, 4),
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        embedding_multiplier=0.6,
        attention_multiplier=0.5,
        residual_multiplier=1.4,
        logits_scaling=0.5,
    ),
    "qwen3_moe_some_dense": _variant(
        "Qwen3MoeForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=24,
        num_hidden_layers=3,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        mlp_only_layers=[1],
        attention_bias=True,
    ),
    "qwen3_moe_sparse_step_window": _variant(
        "Qwen3MoeForCausalLM",
        **_sizes(32, 4, 2),
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        norm_topk_prob=False,
        decoder_sparse_step=2,
        use_sliding_window=True,
        sliding_window=8,
        tie_word_embeddings=True,
    ),
    "qwen2_moe_shared": _variant(
        "Qwen2MoeForCausalLM",
        **_sizes(32, 4, 2),
        num_hidden_layers=3,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
        mlp_only_layers=[1],
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=2,
    ),
    "qwen2_moe_normalized": _variant(
        "Qwen2MoeForCausalLM",
        **_sizes(48, 3, 1),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=24,
        norm_topk_prob=True,
        qkv_bias=False,
    ),
    "mixtral_window": _variant(
        "MixtralForCausalLM",
        **_sizes(32, 4, 2),
        intermediate_size=40,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
    ),
    "gpt_oss_yarn": _variant(
        "GptOssForCausalLM",
        **_sizes(32, 4, 2),
        **NO_IDS,
        head_dim=16,
        intermediate_size=40,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters={**YARN_ROPE, "truncate": False},
    ),
    "gpt_oss_other_gate": _variant(
        "GptOssForCausalLM",
        **_sizes(48, 4, 4),
        **NO_IDS,
        head_dim=24,
        intermediate_size=24,
        num_local_experts=4,
        num_experts_per_tok=4,
        layer_types=["full_attention", "sliding_attention"],
        sliding_window=6,
        attention_bias=False,
        tie_word_embeddings=True,
        swiglu_alpha=1.2,
        swiglu_limit=2.5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "gemma2_soft_caps": _variant(
        "Gemma2ForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=24,
        num_hidden_layers=3,
        sliding_window=8,
        tie_word_embeddings=False,
        query_pre_attn_scalar=12,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0,
    ),
    "gemma2_biases": _variant(
        "Gemma2ForCausalLM",
        **_sizes(32, 2, 1),
        head_dim=16,
        sliding_window=8,
        attention_bias=True,
        tie_word_embeddings=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
    "gemma3_two_ropes": _variant(
        "Gemma3ForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=16,
        num_hidden_layers=3,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        tie_word_embeddings=False,
        query_pre_attn_scalar=12,
        rope_parameters={
            "full_attention": LINEAR_ROPE,
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    ),
    "gemma3_biases_cap": _variant(
        "Gemma3ForCausalLM",
        **_sizes(32, 2, 1),
        head_dim=24,
        sliding_window=8,
        sliding_window_pattern=2,
        attention_bias=True,
        tie_word_embeddings=False,
        final_logit_softcapping=4.0,
    ),
    "gemma4_shared_cache": _variant(  # as E2B
        "Gemma4ForCausalLM",
        **_sizes(24, 4, 1),
        num_hidden_layers=5,
        intermediate_size=40,
        head_dim=16,
        global_head_dim=24,
        layer_types=["sliding_attention", "full_attention", *["sliding_attention"] * 2, "full_attention"],
        sliding_window=8,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCAB_SIZE,
        final_logit_softcapping=4.0,
        tie_word_embeddings=False,
        **NO_IDS,
    ),
    "gemma4_experts_beside": _variant(  # as 26B-A4B
        "Gemma4ForCausalLM",
        **_sizes(32, 4, 2),
        intermediate_size=40,
        head_dim=16,
        global_head_dim=16,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=6,
        top_k_experts=2,
        moe_intermediate_size=24,
        final_logit_softcapping=4.0,
        tie_word_embeddings=False,
        **NO_IDS,
    ),
    "gemma4_keys_are_values": _variant(  # as 31B
        "Gemma4ForCausalLM",
        **_sizes(32, 4, 2),
        num_hidden_layers=3,
        head_dim=16,
        global_head_dim=32,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        sliding_window=8,
        hidden_size_per_layer_input=0,
        attention_bias=True,
        tie_word_embeddings=False,
        **NO_IDS,
    ),
    "ministral_some_windows": _variant(
        "MinistralForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=16,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "ministral3_growth": _variant(
        "Ministral3ForCausalLM",
        **_sizes(32, 4, 2),
        head_dim=16,
        sliding_window=24,
        tie_word_embeddings=True,
        max_position_embeddings=16 * 8,
        rope_parameters={
            **YARN_MSCALE_ROPE,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.5,
        },
        **NO_IDS,
    ),
    "mistral3_multimodal": _multimodal(
        "Mistral3ForConditionalGeneration",
        {
            **_sizes(32, 4, 1),
            **NO_IDS,
            "model_type": "ministral3",
            "head_dim": 24,
            "rope_parameters": {**YARN_ROPE, "llama_4_scaling_beta": 0.2},
        },
        {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "head_dim": 8, "image_size": 4},
        tie_word_embeddings=False,
        image_token_index=VOCAB_SIZE,
        spatial_merge_size=1,
    ),
    "qwen3_vl_three_counts": _multimodal(
        "Qwen3VLForConditionalGeneration",
        {
            **_sizes(32, 4, 2),
            "head_dim": 16,
            "attention_bias": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        {
            "depth": 1,
            "hidden_size": 8,
            "num_heads": 1,
            "out_hidden_size": 32,
            "num_position_embeddings": 4,
            "spatial_merge_size": 1,
            "deepstack_visual_indexes": [0],
        },
    ),
    "gemma3_multimodal": _multimodal(
        "Gemma3ForConditionalGeneration",
        {**_sizes(32, 4, 2), "head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 2},
        {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "image_size": 4},
        tie_word_embeddings=False,
    ),
    "deepseek_v2_dense_yarn": _variant(
        "DeepseekV2ForCausalLM",
        **_sizes(48, 3, 3),
        **_latent(q_lora_rank=None),
        first_k_dense_replace=2,
        attention_bias=True,
        tie_word_embeddings=True,
        rope_parameters={**LATENT_YARN_ROPE, "mscale_all_dim": 0.707},
    ),
    "deepseek_v2_groups_biases": _variant(
        "DeepseekV2ForCausalLM",
        **_sizes(32, 4, 4),
        **_latent(q_lora_rank=24),
        **_latent_experts(n_group=4, topk_group=2, routed_scaling_factor=4.0),
        topk_method="group_limited_greedy",
        attention_bias=True,
        mlp_bias=True,
    ),
    "deepseek_v3_yarn": _variant(
        "DeepseekV3ForCausalLM",
        **_sizes(32, 4, 4),
        **_latent(q_lora_rank=24, v_head_dim=12),
        **_latent_experts(n_group=4, topk_group=2, routed_scaling_factor=2.5),
        rope_parameters=LATENT_YARN_ROPE,
    ),
    "glm4_moe_lite_halves_biases": _variant(
        "Glm4MoeLiteForCausalLM",
        **_sizes(48, 3, 3),
        **_latent(q_lora_rank=20, qk_nope_head_dim=24),
        **_latent_experts(num_hidden_layers=3),
        mlp_layer_types=["dense", "sparse", "dense"],
        rope_interleave=False,
        attention_bias=True,
        norm_topk_prob=False,
    ),
}

ROPES: Mapping[str, Mapping[str, Any]] = {
    "linear": {"rope_parameters": LINEAR_ROPE},
    "llama3": {"rope_parameters": LLAMA3_ROPE},
    "dynamic": {"rope_parameters": DYNAMIC_ROPE, "max_position_embeddings": SHORT},
    "yarn": {"rope_parameters": YARN_ROPE, "max_position_embeddings": SHORT},
    "yarn_mscale": {"rope_parameters": YARN_MSCALE_ROPE},
    "yarn_whole": {"rope_parameters": YARN_WHOLE_ROPE},
    "longrope": {"rope_parameters": _longrope(16)},
    "longrope_factor": {"rope_parameters": _longrope(16, factor=2.0)},
}
FAMILIES = {
    name.lower(): f"{name}ForCausalLM"
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Glm", "SeedOss", "SmolLM3", "Olmo2", "Granite")
}
"""The families that have every type of rotary embedding; GLM-4-0414 turns heads as GLM does."""
HEADS = {"glm": {"head_dim": 32, **NO_IDS}}  # of which half is turned
# Of the others each way to compute it once: one function reads it, in all families.
FIRST_FAMILIES, EACH_WAY = ("llama", "mistral", "qwen2", "qwen3", "glm"), ("dynamic", "yarn", "longrope")
ROPE_VARIANTS: Mapping[str, Variant] = {
    f"{family}_with_{rope}": _variant(
        architecture, **{**_sizes(32, 4, 2), "head_dim": 16, **HEADS.get(family, {}), **options}
    )
    for family, architecture in FAMILIES.items()
    for rope, options in ROPES.items()
    if family in FIRST_FAMILIES or rope in EACH_WAY
}
"""The types of rotary embedding in the families: for the live comparison, and without fixtures."""
