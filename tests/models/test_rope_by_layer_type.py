"""Rotary embedding that config.json says for each type of layer, as Gemma 3 does. None of the families has
layers that are turned differently, in transformers either."""

import importlib
from typing import Any

import pytest

from jinfer.models.rope_config import LinearRopeScaling, RopeConfig
from tests.models.configs import (
    FAMILIES,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    SMALL,
    SMOLLM3,
    attention_of,
    read,
    refusal,
)

DEFAULT, LINEAR = {"rope_type": "default"}, {"rope_type": "linear", "factor": 4.0}
THETA = {"rope_theta": 1e6}
FULL_AND_SLIDING = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}
FULL_AND_SLIDING |= {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize("architecture", [LLAMA, QWEN3])
def test_entries_by_layer_type_hold_where_all_layers_are_of_one(architecture: str) -> None:
    by_type = {"full_attention": {**LINEAR, **THETA}, "sliding_attention": DEFAULT}
    assert attention_of(read(architecture, rope_parameters=by_type)).rope == RopeConfig(
        1e6, LinearRopeScaling(4.0)
    )
    assert (
        attention_of(read(architecture, **THETA, rope_parameters={"full_attention": LINEAR})).rope.theta
        == 1e6
    )


WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


def test_entries_of_layer_types_that_are_equal_are_one() -> None:
    by_type = {"full_attention": LINEAR, "sliding_attention": {**LINEAR, "rope_theta": 1e4}}
    assert attention_of(read(QWEN2, **WINDOWS, rope_parameters=by_type)).rope == RopeConfig(
        1e4, LinearRopeScaling(4.0)
    )


@pytest.mark.parametrize(
    "by_type",
    [
        {"full_attention": LINEAR, "sliding_attention": DEFAULT},
        {"full_attention": LINEAR},
        {"full_attention": LINEAR, "sliding_attention": None},
        {"global": LINEAR},
    ],
)
def test_entries_of_layer_types_that_differ_or_lack_one_are_refused(by_type: dict) -> None:
    assert "rope_parameters" in refusal(QWEN2, **WINDOWS, rope_parameters=by_type)


@pytest.mark.parametrize("architecture", [MISTRAL, QWEN2, QWEN3])
def test_entries_that_differ_are_refused_with_the_rule_and_the_remedy(architecture: str) -> None:
    by_type = {"full_attention": {**DEFAULT, **THETA}, "sliding_attention": {**DEFAULT, "rope_theta": 1e4}}
    message = refusal(architecture, **FULL_AND_SLIDING, rope_parameters=by_type)
    assert message.startswith("rope_parameters of config.json is {'full_attention'")
    assert "one entry for all layers" in message
    assert "write the one that it was trained with" in message


def frequencies_of_transformers(architecture: str, rope_parameters: dict[str, Any]) -> list[float]:
    """How fast each pair of dimensions turns, in the class of a family."""
    transformers = pytest.importorskip("transformers")
    name = architecture.removesuffix("ForCausalLM")
    config = getattr(transformers, f"{name}Config")(
        **SMALL, **FULL_AND_SLIDING, head_dim=8, rope_parameters=rope_parameters
    )
    module = importlib.import_module(getattr(transformers, architecture).__module__)
    return getattr(module, f"{name}RotaryEmbedding")(config).inv_freq.tolist()


@pytest.mark.oracle
@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_class_of_transformers_reads_one_entry_for_all_layers(architecture: str) -> None:
    """By layer type it fails, or takes the default theta in place of what the entries say. Where this
    changes, jinfer can serve such a file: its layers may differ."""
    plain, default = (
        frequencies_of_transformers(architecture, {**DEFAULT, "rope_theta": theta}) for theta in (1e6, 1e4)
    )
    assert plain != default
    by_type = {"full_attention": {**DEFAULT, **THETA}, "sliding_attention": {**DEFAULT, **THETA}}
    if architecture in (QWEN2, QWEN3, SMOLLM3):
        with pytest.raises(KeyError, match="rope_type"):
            frequencies_of_transformers(architecture, by_type)
    else:
        assert frequencies_of_transformers(architecture, by_type) == default
