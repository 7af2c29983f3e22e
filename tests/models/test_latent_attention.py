"""Latent attention as data: what is read of DeepSeek's files, its parameters and its cache."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jinfer import LLM
from jinfer.errors import ConfigError, UnsupportedModelError
from jinfer.execution.kv_cache import KVLayout, LatentVectors
from jinfer.models.config import ExpertsConfig, LatentAttentionConfig, MLPConfig
from jinfer.models.params import decoder_params
from jinfer.models.registry import build_model, read_model_config
from jinfer.models.rope_config import YarnRopeScaling
from jinfer.quantization.checkpoint import check_layers
from pallas_kernels.router import RouterOptions
from tests.models.configs import SMALL, read, refusal
from tests.models.goldens import ENGINE, GOLDENS

V2, V3, GLM_LITE = "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"
DENSE = {"first_k_dense_replace": SMALL["num_hidden_layers"]}
BFLOAT16 = jnp.dtype("bfloat16")


def attention_of(architecture: str = V3, **entries: Any) -> LatentAttentionConfig:
    """The attention of all layers of a small config."""
    (attention,) = {layer.attention for layer in read(architecture, **{**DENSE, **entries}).layers}
    assert isinstance(attention, LatentAttentionConfig)
    return attention


@pytest.mark.parametrize(
    ("name", "heads", "q_latent_dim", "scale", "theta_scale"),
    [("DeepSeek-V2-Lite", 16, None, 0.114721, 1.0), ("DeepSeek-V3", 128, 1536, 0.135234, 1.0)],
)
def test_real_configs(shared_data: Path, name, heads, q_latent_dim, scale, theta_scale):
    raw = json.loads((shared_data / "configs" / name / "config.json").read_text(encoding="utf-8"))
    attention = read_model_config(raw).layers[0].attention
    assert isinstance(attention, LatentAttentionConfig)
    sizes = attention.num_heads, attention.latent_dim, attention.nope_dim, attention.rope_dim
    assert sizes == (heads, 512, 128, 64)
    assert (attention.value_dim, attention.q_latent_dim) == (128, q_latent_dim)
    assert attention.scale == pytest.approx(scale, rel=1e-5)
    assert attention.rope is not None
    assert isinstance(attention.rope.scaling, YarnRopeScaling)
    assert attention.rope.attention_factor == pytest.approx(theta_scale)


def test_defaults_are_those_of_transformers():
    assert attention_of(V2).q_latent_dim == 1536
    assert attention_of(V2, q_lora_rank=None).q_latent_dim is None
    assert attention_of(V3).scale == (128 + 64) ** -0.5
    glm = attention_of(GLM_LITE, mlp_layer_types=["dense"] * 3)
    assert (glm.q_latent_dim, glm.nope_dim, glm.value_dim) == (768, 192, 256)


@pytest.mark.parametrize("is_interleaved", [True, False])
def test_pairs_lie_as_the_file_says(is_interleaved):
    assert attention_of(V3, rope_interleave=is_interleaved).has_interleaved_rope == is_interleaved
    assert attention_of(V2, rope_interleave=is_interleaved).has_interleaved_rope, "V2 has no such entry"


def test_refusals():
    assert "qk_rope_head_dim 15; rotary embedding turns" in refusal(V3, **DENSE, qk_rope_head_dim=15)
    linear = {"rope_type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}
    assert "mscale_all_dim 1.0; jinfer applies it" in refusal(V2, **DENSE, rope_scaling=linear)


def test_layers_for_the_prediction_of_several_tokens_are_left_out():
    config = read(V3, **DENSE, num_nextn_predict_layers=2)
    specs = decoder_params(config, BFLOAT16)
    left_out = [layer for layer in range(7) if specs.ignores(f"model.layers.{layer}.mlp.up_proj.weight")]
    assert left_out == [3, 4]


def test_a_position_is_one_vector_in_each_layer():
    layout = KVLayout.of(read(V3, **DENSE), page_size=16, dtype=BFLOAT16)
    assert layout.layers == (LatentVectors(576),) * 3
    assert [pages.array.shape for pages in layout.abstract(7)] == [(7, 16, 576)] * 3
    assert list(layout.position_bytes()) == [1152] * 3
    assert layout.page_bytes == 3 * 16 * 1152


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8_e4m3"])
def test_a_cache_in_8_bits_is_refused_by_name(kv_cache_dtype):
    with pytest.raises(ConfigError, match=f"'{kv_cache_dtype}' is of keys and values.*leave kv_cache_dtype"):
        LLM(GOLDENS / "deepseek_v2_dense_yarn", **ENGINE, kv_cache_dtype=kv_cache_dtype)


def test_experts_of_real_configs(shared_data: Path):
    raw = json.loads((shared_data / "configs" / "DeepSeek-V3" / "config.json").read_text(encoding="utf-8"))
    *dense, experts = (layer.mlp for layer in read_model_config(raw).layers[:4])
    assert dense == [MLPConfig(18432)] * 3
    assert experts == ExpertsConfig(
        num_experts=256,
        intermediate_size=2048,
        routing=RouterOptions(
            top_k=8,
            scores="sigmoid",
            renormalize=True,
            scaling=2.5,
            num_groups=8,
            top_groups=4,
            group_score="two_best",
        ),
        has_correction_bias=True,
        shared=MLPConfig(2048),
    )


def test_refusals_of_experts():
    sparse = {"first_k_dense_replace": 1, "num_experts_per_tok": 2}
    assert "'noaux_tc'; in this family jinfer implements 'greedy' and" in refusal(V2, topk_method="noaux_tc")
    assert "scoring_func 'softmax'; in this family" in refusal(V3, **sparse, scoring_func="softmax")
    assert "n_group 3; it must divide the 256 experts" in refusal(V3, **sparse, n_group=3)
    assert "topk_group 9; a token has experts of some of 8" in refusal(V3, **sparse, topk_group=9)
    few = {"n_routed_experts": 8, "n_group": 8, "topk_group": 1}
    assert "fewer than the 2 experts of a token" in refusal(V3, **sparse, **few)
    assert "must be a list of 3 of 'dense' and 'sparse'" in refusal(GLM_LITE, mlp_layer_types=["dense"])


def test_quantized_checkpoints_of_it_are_refused():
    model = build_model(read(V3, **DENSE), BFLOAT16, "xla")
    with pytest.raises(
        UnsupportedModelError, match=r"has latent attention, .*; load it with quantization='fp8'"
    ):
        check_layers(model)
