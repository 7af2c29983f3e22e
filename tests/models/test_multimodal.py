"""What the config.json of a multimodal model means for its text model, and what is refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.generation_config import GenerationConfig
from jinfer.models.multimodal import MULTIMODAL, text_config
from jinfer.models.registry import read_model_config
from jinfer.models.rope_config import RopeConfig
from tests.models.configs import GEMMA3, MISTRAL, QWEN3, SMALL, read

GEMMA3_4B = {  # in the spelling of transformers 4, of which defaults are left out
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "eos_token_id": [1, 106],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def multimodal(architecture: str, text: dict[str, Any], **outside: Any) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "text_config": {**SMALL, **text},
        "vision_config": {"hidden_size": 8},
        **outside,
    }


@pytest.mark.parametrize(
    ("architecture", "text_type", "text_architecture"),
    [
        ("Gemma3ForConditionalGeneration", "gemma3_text", GEMMA3),
        ("gemma3forconditionalgeneration", "gemma3_text", GEMMA3),
        ("Mistral3ForConditionalGeneration", "mistral", MISTRAL),
    ],
)
def test_a_text_model_is_read_as_when_it_is_alone(
    architecture: str, text_type: str, text_architecture: str
) -> None:
    text = {"sliding_window": 8, "head_dim": 16}
    alone = read(text_architecture, **text, tie_word_embeddings=True)
    for named in ({"model_type": text_type}, {}):
        found = read_model_config(multimodal(architecture, {**text, **named}))
        assert found == replace(alone, is_part=True)


def test_three_counts_of_positions_are_one_in_a_text() -> None:
    rope = {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"}
    text = {"model_type": "qwen3_vl_text", "rope_theta": 5e6, "rope_scaling": rope, "head_dim": 16}
    found = read_model_config(multimodal("Qwen3VLForConditionalGeneration", text, tie_word_embeddings=False))
    assert found.layers == read(QWEN3, head_dim=16, rope_theta=5e6).layers
    assert found.layers[0].attention.rope == RopeConfig(5e6)


def test_that_vision_is_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        config = read_model_config(GEMMA3_4B)
    assert (config.num_layers, config.layers[0].attention.num_heads) == (34, 8)
    assert [layer.attention.sliding_window for layer in config.layers[:6]] == [1024] * 5 + [None]
    said = [record.message for record in caplog.records if "multimodal" in record.message]
    assert said == [
        "Gemma3ForConditionalGeneration is multimodal: its text model is run, and its vision is left out; "
        "prompts are text alone"
    ]


def test_ends_of_sequence_are_found_outside_and_inside() -> None:
    inside = {**GEMMA3_4B, "eos_token_id": None, "text_config": {"eos_token_id": 7}}
    for raw, ids in ((GEMMA3_4B, {1, 106}), (inside, {7})):
        of_text = text_config(raw)
        assert GenerationConfig.of(None, of_text).eos_token_ids(of_text, None, 1000) == ids


@pytest.mark.parametrize(
    ("outside", "inside", "is_tied"),
    [
        ({}, {}, True),
        ({}, {"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": False}, {}, False),
    ],
)
def test_whether_embeddings_are_tied_is_said_outside_or_inside(outside, inside, is_tied) -> None:
    raw = multimodal("Mistral3ForConditionalGeneration", inside, **outside)
    assert read_model_config(raw).tie_word_embeddings is is_tied


def test_quantization_is_read_from_outside() -> None:
    raw = multimodal("Mistral3ForConditionalGeneration", {}, quantization_config={"quant_method": "aqlm"})
    with pytest.raises(UnsupportedModelError, match="aqlm"):
        read_model_config(raw)


def test_another_text_model_is_refused_with_those_that_are_known() -> None:
    raw = multimodal("Mistral3ForConditionalGeneration", {"model_type": "mistral4"})
    with pytest.raises(UnsupportedModelError, match=r"text_config with model_type 'mistral4'.*mistral"):
        read_model_config(raw)
    with pytest.raises(UnsupportedModelError, match="text_config 3; it must be an object"):
        read_model_config({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3})


def test_real_configs_are_read_whole(shared_data: Path) -> None:
    found = {}
    for path in (shared_data / "configs").glob("*/config.json"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["architectures"][0] in MULTIMODAL:
            found[path.parent.name] = read_model_config(raw)
    assert found["Qwen3-VL-2B-Instruct"].tie_word_embeddings
    assert not found["Qwen3-VL-32B-Thinking"].tie_word_embeddings
    assert found["Qwen3-VL-8B-Instruct"].layers[0].attention.rope == RopeConfig(5e6)
