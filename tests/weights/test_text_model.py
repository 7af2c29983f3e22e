"""The text model's tensors among others', under the names that multimodal checkpoints have for them."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_json, write_shards
from tests.weights.loaded import assert_same, expected, loaded, raised

MULTIMODAL = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "text_config": {**{k: v for k, v in CONFIG.items() if k != "architectures"}, "model_type": "mistral"},
    "vision_config": {"hidden_size": 8},
    "tie_word_embeddings": False,
}
NAMES = {
    "new": {"model.": "model.language_model.", "lm_head.": "lm_head."},
    "old": {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "alone": {"model.": "model.", "lm_head.": "lm_head."},
}
VISION = {
    "new": ("model.vision_tower.patch_conv.weight", "model.multi_modal_projector.norm.weight"),
    "old": ("vision_tower.patch_conv.weight", "multi_modal_projector.norm.weight"),
    "alone": (),
}
TENSORS = random_tensors()


def stored(order: str, *others: str) -> dict[str, np.ndarray]:
    """The text model's tensors with the names of an order, and others beside them."""
    text = {
        new + name.removeprefix(old): x
        for name, x in TENSORS.items()
        for old, new in NAMES[order].items()
        if name.startswith(old)
    }
    return {**text, **{name: np.ones((2, 2), np.float32) for name in (*VISION[order], *others)}}


def written(directory: Path, tensors: Mapping[str, np.ndarray], *, is_sharded: bool = False) -> Path:
    if is_sharded:
        write_shards(directory, tensors)
    else:
        write_checkpoint(directory, tensors=tensors, tokenizer=False)
    write_json(directory / "config.json", MULTIMODAL)
    return directory


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("order", NAMES)
def test_a_text_model_is_found_under_each_order_of_names(order, is_sharded, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(written(tmp_path, stored(order), is_sharded=is_sharded))

    assert_same(params, expected(TENSORS))
    assert ("2 tensors of vision" in caplog.text) == (order != "alone")


def test_parts_are_counted_one_by_one(tmp_path, caplog):
    others = "model.audio_tower.layers.0.weight", "model.embed_audio.weight", "model.embed_vision.weight"
    with caplog.at_level(logging.INFO, logger="jinfer"):
        loaded(written(tmp_path, stored("new", *others)))

    assert "3 tensors of vision, such as model.embed_vision.weight" in caplog.text
    assert "2 tensors of audio, such as model.audio_tower.layers.0.weight" in caplog.text


def test_other_tensors_and_missing_ones_are_named_as_they_are_stored(tmp_path):
    tensors = stored("old", "language_model.model.visions.weight")
    del tensors["language_model.model.norm.weight"]
    said = raised(written(tmp_path, tensors))
    assert "language_model.model.norm.weight is missing" in said
    assert "language_model.model.visions.weight is not a tensor of the model" in said


def test_a_tied_head_is_looked_for_under_its_stored_name(tmp_path, caplog):
    written(tmp_path, stored("old"))
    write_json(tmp_path / "config.json", {**MULTIMODAL, "tie_word_embeddings": True})
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        assert_same(loaded(tmp_path), expected(TENSORS))
    assert "language_model.lm_head.weight" in caplog.text


def test_a_text_model_of_its_own_has_no_tensors_of_vision(tmp_path):
    write_checkpoint(
        tmp_path, tensors={**TENSORS, "visual.weight": np.ones((2, 2), np.float32)}, tokenizer=False
    )
    assert "visual.weight is not a tensor of the model" in raised(tmp_path)
