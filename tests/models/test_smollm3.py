"""What SmolLM3's config.json says of layers without rotary embedding and of their windows."""

from typing import Any

import pytest

from tests.models.configs import SMOLLM3, read, refusal, windows_of

TYPES = ["sliding_attention", "full_attention", "full_attention"]
WINDOW = {"use_sliding_window": True, "sliding_window": 8}


def turned(**entries: Any) -> tuple[bool, ...]:
    """Whether each layer has rotary embedding."""
    return tuple(layer.attention.rope is not None for layer in read(SMOLLM3, **entries).layers)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, (True, True, True)),
        ({"num_hidden_layers": 5}, (True, True, True, False, True)),
        ({"no_rope_layer_interval": 2}, (True, False, True)),
        ({"no_rope_layer_interval": 1}, (False, False, False)),
        ({"no_rope_layers": None, "no_rope_layer_interval": None}, (True, True, True)),
        ({"no_rope_layers": [0, 1, 0], "no_rope_layer_interval": 2}, (False, True, False)),
        ({"no_rope_layers": [1, 0, 1, 0, 0]}, (True, False, True)),
    ],
)
def test_layers_without_rotary_embedding(entries: dict, expected: tuple[bool, ...], caplog) -> None:
    assert turned(**entries) == expected
    assert caplog.text == ""


@pytest.mark.parametrize("value", [[], [1, 0], [1, 0, 2], [1, 0, True], [1, 0, "1"], 1, "101"])
def test_a_list_that_does_not_say_it_of_each_layer_is_refused(value: Any) -> None:
    assert f"no_rope_layers {value!r}" in refusal(SMOLLM3, no_rope_layers=value)


def test_the_interval_is_an_integer_from_1() -> None:
    for value in (0, -1, 2.0, "4", True):
        assert f"no_rope_layer_interval {value!r}" in refusal(SMOLLM3, no_rope_layer_interval=value)


@pytest.mark.parametrize(
    ("entries", "windows"),
    [
        (WINDOW, (None, 8, None)),
        ({**WINDOW, "use_sliding_window": False}, (None, None, None)),
        ({"sliding_window": 8}, (None, None, None)),
        ({"use_sliding_window": True, "sliding_window": None}, (None, None, None)),
        ({**WINDOW, "layer_types": TYPES}, (8, None, None)),
        ({"layer_types": ["full_attention"] * 3}, (None, None, None)),
    ],
)
def test_windows_are_of_layers_without_rotary_embedding_or_by_type(entries: dict, windows: tuple) -> None:
    assert windows_of(read(SMOLLM3, no_rope_layers=[1, 0, 1], **entries)) == windows


@pytest.mark.parametrize("entries", [{"sliding_window": 8}, {"use_sliding_window": True}])
def test_layer_types_with_a_window_that_is_not_there_are_refused(entries: dict) -> None:
    assert "layer_types" in refusal(SMOLLM3, layer_types=TYPES, **entries)


def test_head_is_tied_where_the_file_does_not_say() -> None:
    assert read(SMOLLM3).tie_word_embeddings
    assert not read(SMOLLM3, tie_word_embeddings=False).tie_word_embeddings
