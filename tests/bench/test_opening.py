"""The costs of a model, from its parameters."""

from types import SimpleNamespace

import pytest

from jinfer.bench.opening import work_of
from jinfer.config import EngineConfig
from jinfer.loading import load_model, resolve_model
from jinfer.placement import default_placement
from jinfer.weights.params import num_bytes
from tests.tiny_model import CONFIG

WIDE = {
    **CONFIG,
    "hidden_size": 128,
    "num_attention_heads": 16,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(("quantization", "rate"), [(None, 1), ("int4", 1), ("int8", 2), ("fp8", 2)])
def test_types_of_weights_say_how_many_bytes_and_how_fast(quantization, rate):
    config = EngineConfig(dummy_weights=True, quantization=quantization, progress=False)
    placement = default_placement()
    resolved = resolve_model(WIDE, params=None, tokenizer=None, config=config, placement=placement)
    loaded = load_model(resolved, params=None, config=config, placement=placement)

    work = work_of(SimpleNamespace(loaded=loaded, limits=resolved.chosen_limits))
    assert work.linear_rate == rate
    assert work.weight_bytes == num_bytes(loaded.params) - num_bytes(loaded.params["embedding"])


def test_experts_are_counted_apart():
    raw = {
        **WIDE,
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_hidden_layers": 3,
        "mlp_only_layers": [1],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    }
    config = EngineConfig(dummy_weights=True, dtype="float32", progress=False)
    placement = default_placement()
    resolved = resolve_model(raw, params=None, tokenizer=None, config=config, placement=placement)
    loaded = load_model(resolved, params=None, config=config, placement=placement)
    work = work_of(SimpleNamespace(loaded=loaded, limits=resolved.chosen_limits))

    assert [(each.num_experts, each.top_k, each.num_bytes) for each in work.experts] == [
        (8, 2, 2 * 8 * 3 * 24 * 128 * 4)
    ]
    stored = num_bytes(loaded.params) - num_bytes(loaded.params["embedding"])
    assert work.weight_bytes + work.experts[0].num_bytes == stored
    of_layer = 128 * (8 + 2 * 3 * 24)
    assert work.linear_params - 2 * of_layer - 3 * 128 * 128 == 3 * _attention_params(loaded.model.config)


def _attention_params(config):
    attention = config.layers[0].attention
    return 2 * config.hidden_size * attention.head_dim * (attention.num_heads + attention.num_kv_heads)
