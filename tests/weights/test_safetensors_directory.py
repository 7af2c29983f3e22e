"""model.safetensors.index.json says which file holds each tensor, and what is said of one that does not."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoints import CONFIG, random_tensors, write_json, write_shards
from tests.weights.loaded import assert_same, expected, loaded, raised

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = random_tensors()
NORM = "model.norm.weight"


@pytest.fixture
def shards(tmp_path) -> Path:
    """A directory with two shards, which hold every other tensor each."""
    write_json(tmp_path / "config.json", CONFIG)
    return write_shards(tmp_path, TENSORS)


def change(file: Path, changes: Mapping[str, np.ndarray | None]) -> None:
    """Adds tensors to a file, or where None takes them away."""
    tensors = {name: x for name, x in {**load_file(file), **changes}.items() if x is not None}
    save_file(tensors, file)


def change_index(directory: Path, changed: Callable[[dict[str, Any]], Any]) -> None:
    """Writes what `changed` makes of the weight_map, or leaves of it."""
    content = json.loads((directory / INDEX).read_text())
    content["weight_map"] = changed(content["weight_map"]) or content["weight_map"]
    write_json(directory / INDEX, content)


@pytest.mark.parametrize("stale", [FIRST, SECOND])
def test_a_stale_copy_in_another_file_is_not_read_and_said(shards, stale, caplog):
    other = load_file(shards / (SECOND if stale == FIRST else FIRST))
    change(shards / stale, {name: x + 1 for name, x in other.items()})
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(shards)

    assert_same(params, expected(TENSORS))
    assert "gives them to other files" in caplog.text


def test_a_stale_copy_of_another_shape_or_dtype_is_no_matter(shards):
    other = load_file(shards / FIRST)
    change(shards / SECOND, {name: np.zeros(7, np.int8) for name in other})

    assert_same(loaded(shards), expected(TENSORS))


def test_a_tensor_that_the_index_does_not_mention_is_read_from_the_only_file_with_it_and_said(shards, caplog):
    change_index(shards, lambda weight_map: weight_map.pop(NORM) and None)
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(shards)

    assert_same(params, expected(TENSORS))
    assert f"does not mention {NORM}" in caplog.text


def test_a_tensor_that_the_index_does_not_mention_and_two_files_hold_is_refused(shards):
    change_index(shards, lambda weight_map: weight_map.pop(NORM) and None)
    for file in (FIRST, SECOND):
        change(shards / file, {NORM: TENSORS[NORM]})

    message = raised(shards)
    assert FIRST in message
    assert SECOND in message
    assert f"both hold {NORM}" in message


def test_a_tensor_that_is_in_another_file_than_the_index_says_is_missing(shards):
    change_index(
        shards, lambda weight_map: weight_map.update({NORM: SECOND if weight_map[NORM] == FIRST else FIRST})
    )

    assert f"{NORM} is missing: the index gives it to model-0000" in raised(shards)


def test_a_tensor_that_the_index_promises_and_no_model_needs_is_missing_too(shards):
    change_index(shards, lambda weight_map: weight_map.update({"model.more.weight": FIRST}))

    assert f"model.more.weight is not in {FIRST}, to which the index gives it" in raised(shards)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_a_buffer_that_the_index_promises_is_not_missed(shards, name):
    change_index(shards, lambda weight_map: weight_map.update({name: FIRST}))

    assert_same(loaded(shards), expected(TENSORS))


def test_a_head_that_the_index_of_a_tied_model_promises_is_not_missed(tmp_path):
    write_json(tmp_path / "config.json", dict(CONFIG, tie_word_embeddings=True))
    tied = {name: x for name, x in TENSORS.items() if name != "lm_head.weight"}
    write_shards(tmp_path, tied)
    change_index(tmp_path, lambda weight_map: weight_map.update({"lm_head.weight": FIRST}))

    assert_same(loaded(tmp_path), expected(tied))


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/../../model.safetensors",
        "..\\model.safetensors",
        "model\0.safetensors",
        "",
        ".",
        "pytorch_model.bin",
        5,
        None,
        ["model.safetensors"],
        {"a": 1},
        True,
    ],
    ids=repr,
)
def test_a_name_that_is_no_file_of_the_directory_is_refused(shards, file):
    (shards.parent / "model.safetensors").write_bytes((shards / FIRST).read_bytes())
    change_index(shards, lambda weight_map: weight_map.update({NORM: file}))

    message = raised(shards)
    assert f"{shards / INDEX} is not an index" in message
    assert NORM in message
    assert "fetch it again" in message


@pytest.mark.parametrize("weight_map", [None, [], "model.safetensors", 5, ["a", "b"]], ids=repr)
def test_a_weight_map_of_another_type_is_refused(shards, weight_map):
    write_json(shards / INDEX, {"weight_map": weight_map})

    assert "is not an index" in raised(shards)


@pytest.mark.parametrize("second", [FIRST, SECOND])
def test_a_name_that_is_there_twice_may_not_say_two_things(shards, second):
    text = (shards / INDEX).read_text()
    file = json.loads(text)["weight_map"][NORM]
    (shards / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"{NORM}": "{second}",'))

    if second == file:
        assert_same(loaded(shards), expected(TENSORS))
    else:
        message = raised(shards)
        assert f"{NORM!r} is there twice" in message
        assert FIRST in message
        assert SECOND in message


def test_files_may_have_any_name_and_lie_in_a_folder(shards):
    (shards / "parts").mkdir()
    names = {FIRST: "parts/one.safetensors", SECOND: "./pytorch_model-00002-of-00002.safetensors"}
    for old, new in names.items():
        (shards / old).rename(shards / new)
    change_index(shards, lambda weight_map: {name: names[file] for name, file in weight_map.items()})

    assert_same(loaded(shards), expected(TENSORS))


def test_an_index_of_one_file_that_is_called_as_a_single_one_is_one_source(shards, caplog):
    for file in (FIRST, SECOND):
        (shards / file).unlink()
    save_file({**TENSORS, "stale": np.zeros(0, np.float32)}, shards / "model.safetensors")
    change_index(shards, lambda weight_map: dict.fromkeys(weight_map, "model.safetensors"))
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(shards)

    assert_same(params, expected(TENSORS))
    assert "more than one set" not in caplog.text
