"""What config.json means, in the spelling of transformers 4 and 5, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.models.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig
from jinfer.models.multimodal import text_config
from jinfer.models.registry import known_architectures, read_model_config
from jinfer.models.rope_config import Llama3RopeScaling, RopeConfig
from tests.models.configs import (
    GLM,
    GLM4,
    GRANITE,
    LLAMA,
    MISTRAL,
    OLMO2,
    PHI3,
    QWEN2,
    QWEN3,
    SEED_OSS,
    SMALL,
    attention_of,
    read,
    refusal,
    windows_of,
)


def test_sizes_are_read_and_the_rest_has_defaults() -> None:
    assert read() == ModelConfig(
        architecture=LLAMA,
        vocab_size=96,
        hidden_size=32,
        layers=(
            LayerConfig(
                attention=AttentionConfig(
                    num_heads=4,
                    num_kv_heads=2,
                    head_dim=8,
                    rope=RopeConfig(10000.0),
                    qkv_bias=False,
                    output_bias=False,
                    sliding_window=None,
                ),
                mlp=MLPConfig(intermediate_size=72, bias=False),
            ),
        )
        * 3,
        rms_norm_eps=1e-6,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize(
    ("architecture", "entries", "biases"),
    [
        (LLAMA, {}, (False, False, False)),
        (LLAMA, {"attention_bias": True}, (True, True, False)),
        (LLAMA, {"mlp_bias": True}, (False, False, True)),
        (QWEN2, {}, (True, False, False)),
        (QWEN3, {"attention_bias": True, "mlp_bias": True}, (True, True, False)),
        (MISTRAL, {"attention_bias": True, "mlp_bias": True}, (False, False, False)),
        (PHI3, {"attention_bias": True, "mlp_bias": True}, (False, False, False)),
        (GLM, {}, (True, False, False)),
        (GLM4, {"attention_bias": False, "mlp_bias": True}, (False, False, False)),
        (OLMO2, {"attention_bias": True, "mlp_bias": True}, (True, True, False)),
        (SEED_OSS, {}, (True, False, False)),
        (SEED_OSS, {"attention_bias": False, "attention_out_bias": True}, (False, True, False)),
        (SEED_OSS, {"attention_bias": None, "mlp_bias": True}, (True, False, True)),
        (GRANITE, {"attention_bias": True, "mlp_bias": True}, (True, True, True)),
    ],
)
def test_biases_of_qkv_output_and_mlp(
    architecture: str, entries: dict, biases: tuple[bool, bool, bool]
) -> None:
    config = read(architecture, **entries)
    attention, mlp = attention_of(config), config.layers[0].mlp
    assert (attention.qkv_bias, attention.output_bias, mlp.bias) == biases


@pytest.mark.parametrize(
    ("architecture", "entries", "windows"),
    [
        (LLAMA, {"sliding_window": 8}, (None, None, None)),
        (MISTRAL, {"sliding_window": 8}, (8, 8, 8)),
        (MISTRAL, {"sliding_window": None}, (None, None, None)),
        (MISTRAL, {}, (4096, 4096, 4096)),
        (PHI3, {"sliding_window": 8}, (8, 8, 8)),
        (PHI3, {"sliding_window": 8, "layer_types": ["sliding_attention"] * 3}, (8, 8, 8)),
        (PHI3, {"sliding_window": None}, (None, None, None)),
        (GLM4, {"sliding_window": 8}, (None, None, None)),
        (PHI3, {}, (None, None, None)),
        (QWEN2, {"sliding_window": 8, "max_window_layers": 1}, (None, None, None)),
        (
            QWEN2,
            {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
            (None, None, None),
        ),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, (None, 8, 8)),
        (QWEN2, {"use_sliding_window": True, "max_window_layers": 2}, (None, None, 4096)),
        (
            QWEN3,
            {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
            (None, None, None),
        ),
        (
            QWEN3,
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (8, None, 8),
        ),
    ],
)
def test_windows_of_the_layers(architecture: str, entries: dict, windows: tuple[int | None, ...]) -> None:
    assert windows_of(read(architecture, **entries)) == windows


MULTIPLIERS = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.0078125,
    "residual_multiplier": 0.22,
    "logits_scaling": 8,
}


def test_the_multipliers_of_granite() -> None:
    """Absent and null are 1, also for attention, where it is no head_dim ** -0.5."""
    for config, wanted in (
        (read(GRANITE, **MULTIPLIERS), (12.0, 0.0078125, 0.22, 8.0)),
        (read(GRANITE, **dict.fromkeys(MULTIPLIERS)), (1, 1, 1, 1)),
        (read(GRANITE), (1, 1, 1, 1)),
    ):
        scale = attention_of(config).scale
        assert (config.embedding_scale, scale, config.residual_scale, config.logits_divisor) == wanted


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_a_multiplier_is_a_number_above_0(name: str) -> None:
    for value in ("12", 0, -1.0, True, float("inf")):
        assert f"config.json has {name} {value!r}; it must be a finite number above 0" in refusal(
            GRANITE, **{name: value}
        )


def test_head_dim_is_the_family_s_where_it_is_not_given() -> None:
    for config in (read(LLAMA), read(QWEN2), read(MISTRAL, head_dim=None)):
        assert attention_of(config).head_dim == 8
    assert attention_of(read(QWEN3)).head_dim == 128
    for architecture in (MISTRAL, QWEN3):
        assert attention_of(read(architecture, head_dim=20)).head_dim == 20


def test_kv_heads_are_all_heads_where_they_are_not_given() -> None:
    assert attention_of(read(num_key_value_heads=None)).num_kv_heads == 4


@pytest.mark.parametrize(
    ("entries", "value", "remedy"),
    [
        ({"hidden_act": "gelu"}, "'gelu'", "'silu'"),
        ({"partial_rotary_factor": 0.5}, "0.5", "1.0"),
        ({"num_key_value_heads": 3}, "4 attention heads over 3 KV heads", "whole multiple"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(entries: dict, value: str, remedy: str) -> None:
    message = refusal(**entries)
    assert value in message
    assert remedy in message


@pytest.mark.parametrize("types", [["sliding_attention"], ["chunked_attention"] * 3])
def test_layer_types_that_do_not_fit_are_refused(types: list[str]) -> None:
    message = refusal(QWEN2, use_sliding_window=True, sliding_window=8, layer_types=types)
    assert types[0] in message
    assert "full_attention and sliding_attention, one for each of the 3 layers" in message


@pytest.mark.parametrize(
    ("window", "kind"), [(8, "full_attention"), (None, "sliding_attention")], ids=["window", "no window"]
)
def test_layer_types_that_contradict_the_window_of_all_layers_are_refused(window, kind) -> None:
    message = refusal(PHI3, sliding_window=window, layer_types=[kind] * 3)
    assert f"with sliding_window {window} all layers" in message


def test_glm_turns_pairs_side_by_side_in_half_of_each_head() -> None:
    for architecture, has_post_norms in ((GLM, False), (GLM4, True)):
        config = read(architecture)
        attention = attention_of(config)
        assert (attention.head_dim, attention.rotary_dim) == (128, 64)
        assert attention.has_interleaved_rope
        assert {layer.has_post_norms for layer in config.layers} == {has_post_norms}
    assert not attention_of(read(PHI3)).has_interleaved_rope


@pytest.mark.parametrize("name", [name for name in SMALL if name != "num_key_value_heads"])
def test_a_missing_entry_is_named(name: str) -> None:
    message = refusal(**{name: None})
    assert repr(name) in message
    assert "add it" in message


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM"])
def test_without_architectures_the_known_ones_are_listed(architectures: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="'architectures'") as caught:
        read_model_config({**SMALL, "architectures": architectures})
    assert all(name in str(caught.value) for name in known_architectures())


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    message = refusal("GPTNeoXForCausalLM")
    assert all(
        name in message for name in ("GPTNeoXForCausalLM", *known_architectures(), "docs/adding_a_model.md")
    )


def test_real_configs_are_read_or_refused_by_name(shared_data: Path) -> None:
    paths = sorted((shared_data / "configs").glob("*/config.json"))
    num_read = 0
    for path in paths:
        raw = json.loads(path.read_text(encoding="utf-8"))
        (architecture,) = raw["architectures"]
        if architecture in known_architectures():
            config = read_model_config(raw)
            of_text = text_config(raw)
            sizes = of_text["num_hidden_layers"], of_text["vocab_size"]
            assert (config.num_layers, config.vocab_size) == sizes
            num_read += 1
        else:
            with pytest.raises(UnsupportedModelError, match=architecture) as caught:
                read_model_config(raw)
            assert all(name in str(caught.value) for name in known_architectures())
    assert 0 < num_read < len(paths)


def test_what_is_read_of_real_configs(shared_data: Path) -> None:
    def of(name: str) -> ModelConfig:
        return read_model_config(json.loads((shared_data / "configs" / name / "config.json").read_text()))

    llama, qwen = of("Meta-Llama-3.1-8B"), of("Qwen3-0.6B")
    assert attention_of(llama).rope == RopeConfig(500000.0, Llama3RopeScaling(8.0, 1.0, 4.0, 8192))
    heads = attention_of(llama)
    assert (heads.num_heads, heads.num_kv_heads, heads.head_dim) == (32, 8, 128)
    assert (attention_of(qwen).num_heads, attention_of(qwen).head_dim, qwen.tie_word_embeddings) == (
        16,
        128,
        True,
    )
    assert set(windows_of(qwen)) == {None}


def test_what_is_read_of_phi_3_mini_and_phi_4_mini() -> None:
    """The entries that their files have, but for the factors of longrope, which are stand-ins."""
    of_both = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "rms_norm_eps": 1e-5}
    of_both |= {"architectures": [PHI3], "model_type": "phi3", "rope_theta": 10000.0, "attention_bias": False}
    of_both |= {"original_max_position_embeddings": 4096, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    of_three = {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064}
    of_three |= {"max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047}
    of_four = {"num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064}
    of_four |= {"max_position_embeddings": 131072, "partial_rotary_factor": 0.75, "sliding_window": 262144}
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    of_four |= {"rope_scaling": {"type": "longrope", **factors}, "tie_word_embeddings": True}
    three, four = (read_model_config({**of_both, **entries}) for entries in (of_three, of_four))
    heads = [attention_of(config) for config in (three, four)]
    assert [(each.num_kv_heads, each.head_dim, each.rotary_dim) for each in heads] == [
        (32, 96, None),
        (8, 128, 96),
    ]
    assert [config.context_length for config in (three, four)] == [4096, 131072]
    assert [set(windows_of(config)) for config in (three, four)] == [{2047}, {262144}]
    assert heads[0].rope == RopeConfig(10000.0)
    assert heads[1].rope.attention_factor == pytest.approx(1.190238)  # sqrt(1 + log(32) / log(4096))


def test_weights_of_an_unknown_format_are_refused_before_they_are_read() -> None:
    message = refusal(quantization_config={"quant_method": "hqq", "bits": 4})
    assert "hqq" in message
    assert "another checkpoint" in message
