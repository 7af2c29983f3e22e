"""What config.json of Gemma 4 means, as the hub and transformers 5 write it, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jinfer.errors import UnsupportedModelError
from jinfer.execution.kv_cache import KVHeads, KVLayout
from jinfer.models.config import ExpertsConfig, ModelConfig, TokenInputsConfig
from jinfer.models.registry import build_model, read_model_config
from jinfer.models.rope import rope_frequencies
from jinfer.models.rope_config import ProportionalRope, RopeConfig
from jinfer.quantization.checkpoint import check_layers
from pallas_kernels.router import RouterOptions
from tests.models.goldens import GOLDENS
from tests.weights.loaded import assert_same, loaded

FULL, SLIDING = "full_attention", "sliding_attention"
TYPES = [SLIDING, FULL, SLIDING, SLIDING, FULL]
GEMMA4 = {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 0,
    "layer_types": TYPES,
    "max_position_embeddings": 128,
    "sliding_window": 8,
}


def read(**entries: Any) -> ModelConfig:
    return read_model_config({**GEMMA4, **entries})


def refusal(**entries: Any) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        read(**entries)
    return str(caught.value)


def test_layers_without_a_window_have_heads_of_their_own() -> None:
    local, full, *_ = read(attention_k_eq_v=True, num_global_key_value_heads=1).layers
    assert (local.attention.head_dim, local.attention.num_kv_heads, local.attention.sliding_window) == (
        16,
        2,
        8,
    )
    assert (full.attention.head_dim, full.attention.num_kv_heads, full.attention.sliding_window) == (
        32,
        1,
        None,
    )
    assert (local.attention.keys_are_values, full.attention.keys_are_values) == (False, True)
    assert local.attention.scale == full.attention.scale == 1.0
    assert local.attention.has_value_norm
    assert local.has_scale


def test_kv_heads_of_their_own_are_for_keys_that_are_values() -> None:
    attention = read(num_global_key_value_heads=1).layers[1].attention
    assert (attention.num_kv_heads, attention.keys_are_values) == (2, False)


def test_transformers_spelling_says_the_same() -> None:
    own = {name: value for name, value in GEMMA4.items() if name != "global_head_dim"}
    heads = {"head_dim": 32, "num_key_value_heads": 1}
    written = {**own, "attention_k_eq_v": True, "per_layer_config": {"1": heads, "4": heads}}
    assert read_model_config(written) == read(attention_k_eq_v=True, num_global_key_value_heads=1)
    assert "which are alike" in refusal(per_layer_config={"1": heads})


def test_two_rotary_embeddings(caplog: pytest.LogCaptureFixture) -> None:
    rules = {
        FULL: {"partial_rotary_factor": 0.5, "rope_theta": 1e5, "rope_type": "proportional"},
        SLIDING: {"rope_theta": 1e3, "rope_type": "default"},
    }
    for given, thetas, share in ((rules, (1e3, 1e5), 0.5), (None, (1e4, 1e6), 0.25)):
        local, full = (layer.attention for layer in read(rope_parameters=given).layers[:2])
        assert local.rope == RopeConfig(thetas[0])
        assert full.rope == RopeConfig(thetas[1], ProportionalRope(share))
    assert caplog.text == ""


def test_the_first_pairs_are_turned_by_the_frequencies_of_all() -> None:
    found = rope_frequencies(RopeConfig(1e6, ProportionalRope(0.25)), 512)
    assert found.shape == (256,)
    np.testing.assert_array_equal(found[:64], rope_frequencies(RopeConfig(1e6), 512)[:64])
    assert not found[64:].any()


def test_upper_layers_read_the_cache_of_the_last_of_their_type() -> None:
    config = read(num_kv_shared_layers=2, use_double_wide_mlp=True)
    assert [layer.attention.kv_layer for layer in config.layers] == [None, None, None, 2, 1]
    assert [layer.mlp.intermediate_size for layer in config.layers] == [40, 40, 40, 80, 80]
    assert config.caching_layers == (0, 1, 2)
    assert [config.cache_index(number) for number in range(5)] == [0, 1, 2, 2, 1]
    layout = KVLayout.of(config, page_size=4, dtype=jnp.dtype("float32"))
    assert layout.layers == (KVHeads(2, 16), KVHeads(2, 32), KVHeads(2, 16))


def test_inputs_of_each_layer() -> None:
    found = read(hidden_size_per_layer_input=8, vocab_size_per_layer_input=90).token_inputs
    assert found == TokenInputsConfig(90, 8, "gelu_tanh")
    assert read().token_inputs is None
    assert read(hidden_size_per_layer_input=None).token_inputs == TokenInputsConfig(262144, 256, "gelu_tanh")


def test_the_last_layer_has_no_window() -> None:
    windows = [layer.attention.sliding_window for layer in read(layer_types=[SLIDING] * 5).layers]
    assert windows == [8, 8, 8, 8, None]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"num_kv_shared_layers": 4}, "of 5 layers each type must have one"),
        ({"use_bidirectional_attention": "all"}, "what came before"),
        ({"attention_k_eq_v": True, "num_global_key_value_heads": 3}, "4 query heads must be a multiple"),
        ({"global_head_dim": 33}, "global_head_dim 33; rotary embedding"),
        ({"rope_parameters": {FULL: {"rope_type": "proportional", "factor": 2.0}}}, "no factor"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(entries: dict[str, Any], message: str) -> None:
    assert message in refusal(**entries)


def test_experts_lie_beside_the_mlp_of_each_layer() -> None:
    given = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24}
    routing = RouterOptions(top_k=2, renormalize=True)
    experts = ExpertsConfig(6, 24, routing, activation="gelu_tanh")
    assert {layer.experts_beside for layer in read(**given).layers} == {experts}
    assert {layer.experts_beside for layer in read(**{**given, "enable_moe_block": False}).layers} == {None}
    assert "no more than the 6 experts" in refusal(**{**given, "top_k_experts": 7})
    assert "no 'moe_intermediate_size'" in refusal(**{**given, "moe_intermediate_size": None})


def test_quantized_checkpoints_of_it_are_refused() -> None:
    model = build_model(read(), jnp.dtype("float32"), "xla")
    with pytest.raises(UnsupportedModelError, match=r"beside attention and one MLP, .*quantization='fp8'"):
        check_layers(model)


def test_keys_of_layers_that_read_anothers_are_left_out(tmp_path: Path) -> None:
    directory = GOLDENS / "gemma4_shared_cache"
    tensors = load_file(directory / "model.safetensors")
    unused = {
        name.replace("layers.2.", "layers.3."): x
        for name, x in tensors.items()
        if ".layers.2.self_attn.k_" in name or ".layers.2.self_attn.v_" in name
    }
    save_file({**tensors, **unused}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    assert len(unused) == 3
    assert_same(loaded(tmp_path), loaded(directory))


def test_a_multimodal_model_has_it_as_its_text_model() -> None:
    raw = {"architectures": ["Gemma4ForConditionalGeneration"], "vision_config": {}, "audio_config": {}}
    text = {name: value for name, value in GEMMA4.items() if name != "architectures"}
    assert read_model_config({**raw, "text_config": text}) == replace(read(), is_part=True)


def test_the_real_config_is_read_whole(shared_data: Path) -> None:
    raw = json.loads((shared_data / "configs" / "gemma-4-26B-A4B" / "config.json").read_text())
    config = read_model_config(raw)
    experts = config.layers[0].experts_beside
    assert experts is not None
    assert (experts.num_experts, experts.intermediate_size, experts.routing.top_k) == (128, 704, 8)
    local, full = config.layers[0].attention, config.layers[5].attention
    assert (local.head_dim, local.num_kv_heads, full.head_dim, full.num_kv_heads) == (256, 8, 512, 2)
    assert full.rope == RopeConfig(1e6, ProportionalRope(0.25))
