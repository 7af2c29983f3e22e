"""What config.json says of experts, and what is taken where it does not."""

import json
import math
from pathlib import Path

import pytest

from jinfer.models.config import ExpertsConfig, MLPConfig
from jinfer.models.registry import read_model_config
from jinfer.models.rope_config import RopeConfig, YarnRopeScaling
from pallas_kernels.experts import ClampedSwiglu
from pallas_kernels.router import RouterOptions
from tests.models.configs import read, refusal, windows_of

QWEN3_MOE, QWEN2_MOE, MIXTRAL, GPT_OSS = (
    f"{name}ForCausalLM" for name in ("Qwen3Moe", "Qwen2Moe", "Mixtral", "GptOss")
)


def mlps_of(config) -> list[MLPConfig | ExpertsConfig]:
    return [layer.mlp for layer in config.layers]


def sparse_layers(**entries) -> list[int]:
    mlps = mlps_of(read(QWEN3_MOE, **entries))
    return [number for number, mlp in enumerate(mlps) if isinstance(mlp, ExpertsConfig)]


def test_defaults_are_those_of_the_families():
    experts = [read(name).layers[0].mlp for name in (QWEN3_MOE, QWEN2_MOE, MIXTRAL, GPT_OSS)]
    assert experts == [
        ExpertsConfig(128, 768, RouterOptions(8)),
        ExpertsConfig(60, 1408, RouterOptions(4), shared=MLPConfig(5632), has_shared_gate=True),
        ExpertsConfig(8, 72, RouterOptions(2, renormalize=True)),
        ExpertsConfig(
            *(128, 72, RouterOptions(4, scores="softmax_of_chosen")), bias=True, activation=ClampedSwiglu()
        ),
    ]


def test_layers_with_experts():
    assert sparse_layers() == [0, 1, 2]
    assert sparse_layers(decoder_sparse_step=2) == [1]
    assert sparse_layers(mlp_only_layers=[0]) == [1, 2]
    assert sparse_layers(mlp_only_layers=[1], decoder_sparse_step=2) == []
    assert sparse_layers(num_experts=0) == []
    assert mlps_of(read(QWEN3_MOE, decoder_sparse_step=2))[0] == MLPConfig(72)


def test_weights_add_up_to_one_where_the_file_says_so():
    for name in (QWEN3_MOE, QWEN2_MOE):
        for given in (True, False):
            assert mlps_of(read(name, norm_topk_prob=given))[0].routing.renormalize == given


def test_experts_have_either_name():
    for name in (QWEN3_MOE, MIXTRAL, GPT_OSS):
        for entry in ("num_experts", "num_local_experts"):
            assert mlps_of(read(name, **{entry: 16}))[0].num_experts == 16
    assert "num_local_experts 4 and num_experts 8" in refusal(QWEN3_MOE, num_experts=8, num_local_experts=4)


def test_a_token_has_no_more_experts_than_there_are():
    assert "num_experts_per_tok 5; a layer has 4 experts" in refusal(
        MIXTRAL, num_local_experts=4, num_experts_per_tok=5
    )


def test_windows():
    assert windows_of(read(QWEN3_MOE, sliding_window=8)) == (None,) * 3
    assert windows_of(read(QWEN3_MOE, sliding_window=8, use_sliding_window=True)) == (8,) * 3
    of_qwen2 = {"sliding_window": 8, "use_sliding_window": True}
    assert windows_of(read(QWEN2_MOE, **of_qwen2)) == (8, None, 8)
    assert windows_of(read(QWEN2_MOE, **of_qwen2, max_window_layers=1)) == (8, None, None)
    types = ["full_attention", "sliding_attention", "full_attention"]
    assert windows_of(read(QWEN2_MOE, **of_qwen2, layer_types=types)) == (None, 8, None)
    assert windows_of(read(MIXTRAL, sliding_window=8)) == (8,) * 3
    assert windows_of(read(GPT_OSS)) == (128, None, 128)
    assert windows_of(read(GPT_OSS, sliding_window=8, layer_types=types)) == (None, 8, None)


def test_gpt_oss_is_turned_by_yarn_where_the_file_has_no_entry():
    yarn = YarnRopeScaling(32.0, 4096, 0.1 * math.log(32) + 1, truncate=False)
    assert read(GPT_OSS).layers[0].attention.rope == RopeConfig(150000.0, yarn)
    plain = {"rope_type": "default", "rope_theta": 1e4}
    assert read(GPT_OSS, rope_parameters=plain).layers[0].attention.rope == RopeConfig(1e4)


def test_gates_and_biases_of_gpt_oss():
    config = read(GPT_OSS, swiglu_alpha=1.5, swiglu_limit=3.0, attention_bias=False)
    assert config.layers[0].mlp.activation == ClampedSwiglu(1.5, 3.0)
    attention = config.layers[0].attention
    assert (attention.has_sinks, attention.qkv_bias, attention.output_bias) == (True, False, False)


@pytest.mark.parametrize(
    ("name", "num_experts", "top_k", "size"),
    [
        ("Qwen3-30B-A3B", 128, 8, 768),
        ("Qwen3-30B-A3B-FP8", 128, 8, 768),
        ("Mixtral-8x7B-v0.1", 8, 2, 14336),
        ("gpt-oss-20b", 32, 4, 2880),
        ("gpt-oss-120b", 128, 4, 2880),
    ],
)
def test_real_configs(name: str, num_experts: int, top_k: int, size: int, shared_data: Path):
    raw = json.loads((shared_data / "configs" / name / "config.json").read_text(encoding="utf-8"))
    (mlp,) = set(mlps_of(read_model_config(raw)))
    assert (mlp.num_experts, mlp.routing.top_k, mlp.intermediate_size) == (num_experts, top_k, size)
