"""What config.json of Ministral and Ministral 3 means, and what is refused."""

import pytest

from jinfer.models.config import QueryGrowth
from jinfer.models.registry import read_model_config
from jinfer.models.rope_config import RopeConfig, YarnRopeScaling
from tests.models.configs import SMALL, attention_of, read, refusal, windows_of

MINISTRAL, MINISTRAL3 = "MinistralForCausalLM", "Ministral3ForCausalLM"
RULE = {  # of the 8B
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_theta": 1e6,
    "rope_type": "yarn",
    "type": "yarn",
}
YARN = RopeConfig(1e6, YarnRopeScaling(16.0, 16384, attention_factor=1.0))


def test_some_layers_of_ministral_have_a_window() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows_of(read(MINISTRAL, sliding_window=8, layer_types=types)) == (8, None, 8)
    assert windows_of(read(MINISTRAL, sliding_window=8)) == (8, 8, 8)


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
def test_queries_grow_by_the_rule_of_rotary_embedding(
    spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = read(MINISTRAL3, max_position_embeddings=262144, **{spelling: RULE})
    assert attention_of(config).query_growth == QueryGrowth(0.1, 16384)
    assert attention_of(config).rope == YARN
    assert config.context_length == 262144
    assert caplog.text == ""


def test_a_file_without_a_rule_has_the_familys() -> None:
    assert read(MINISTRAL3).layers == read(MINISTRAL3, rope_parameters=RULE).layers


@pytest.mark.parametrize("name", ["llama_4_scaling_beta", "original_max_position_embeddings"])
def test_a_rule_must_say_how_queries_grow(name: str) -> None:
    rule = {key: value for key, value in RULE.items() if key != name}
    assert f"no {name!r}" in refusal(MINISTRAL3, rope_parameters=rule)


def test_growth_is_a_number_from_0() -> None:
    assert "from 0" in refusal(MINISTRAL3, rope_parameters={**RULE, "llama_4_scaling_beta": -1})


def test_a_multimodal_model_may_have_either_text_model() -> None:
    raw = {"architectures": ["Mistral3ForConditionalGeneration"], "vision_config": {}}
    text = {**SMALL, "model_type": "ministral3", "rope_parameters": RULE}
    config = read_model_config({**raw, "text_config": text})
    assert (config.architecture, config.is_part) == (MINISTRAL3, True)
