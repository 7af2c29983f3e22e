"""tie_word_embeddings, and what is stored: values decide whether there is a head, wherever the weights
lie."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jinfer import cli
from jinfer.errors import InsufficientMemoryError
from jinfer.weights.params import unflatten
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_json, write_shards
from tests.weights.loaded import assert_same, expected, loaded, raised

TIED = dict(CONFIG, tie_word_embeddings=True)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
WITH_HEAD = random_tensors()
WITHOUT_HEAD = {name: x for name, x in WITH_HEAD.items() if name != HEAD}
ONLY_HEAD = {HEAD if name == EMBEDDING else name: x for name, x in WITHOUT_HEAD.items()}
PLACES = ("single", "shards", "orbax", "memory")


def given(
    place: str, tmp_path: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] = TIED
) -> tuple[Any, Any]:
    """A source and params of a model with these tensors."""
    if place in ("orbax", "memory"):
        whole = {EMBEDDING: np.zeros(0), **tensors}
        flat = {path: x for path, x in expected(whole).items() if x.size}
        if place == "memory":
            return config, unflatten(flat)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((tmp_path / "params").resolve(), unflatten(flat))
    elif place == "shards":
        write_shards(tmp_path, tensors)
    else:
        write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)
    write_json(tmp_path / "config.json", config)
    return tmp_path, None


@pytest.mark.parametrize("place", PLACES)
def test_a_stored_head_of_other_values_is_used_and_said(place, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(*given(place, tmp_path, WITH_HEAD))

    assert_same(params, expected(WITH_HEAD))
    assert "tie_word_embeddings is true" in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_a_stored_head_of_the_same_values_takes_no_memory(place, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(*given(place, tmp_path, {**WITHOUT_HEAD, HEAD: WITHOUT_HEAD[EMBEDDING]}))

    assert_same(params, expected(WITHOUT_HEAD))
    assert "tie_word_embeddings" not in caplog.text


@pytest.mark.parametrize("place", PLACES)
def test_a_head_alone_stands_for_the_embedding(place, tmp_path):
    assert_same(loaded(*given(place, tmp_path, ONLY_HEAD)), expected(WITHOUT_HEAD))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (WITHOUT_HEAD, "(lm_head.weight|head/kernel) is missing"),
        (ONLY_HEAD, "embed\\w+(.weight|/kernel) is missing"),
    ],
    ids=["no head", "no embedding"],
)
def test_a_model_that_is_not_tied_needs_both(place, tensors, fault, tmp_path):
    source, params = given(place, tmp_path, tensors, CONFIG)

    assert re.search(fault, raised(source, params))


@pytest.mark.parametrize(
    "family", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]
)
def test_it_is_so_in_every_family(family, tmp_path):
    tensors = dict(WITH_HEAD)
    for layer in range(2):
        block = f"model.layers.{layer}.self_attn."
        if family == "Qwen2ForCausalLM":
            tensors |= {
                f"{block}{name}_proj.bias": np.ones(size, np.float32)
                for name, size in zip("qkv", (32, 16, 16), strict=True)
            }
        if family == "Qwen3ForCausalLM":
            tensors |= {f"{block}{name}_norm.weight": np.ones(8, np.float32) for name in "qk"}
    write_checkpoint(tmp_path, config=dict(TIED, architectures=[family]), tensors=tensors, tokenizer=False)

    np.testing.assert_array_equal(loaded(tmp_path)["head/kernel"], WITH_HEAD[HEAD])


def test_neither_embedding_nor_head_is_a_missing_embedding(tmp_path):
    tensors = {name: x for name, x in WITHOUT_HEAD.items() if name != EMBEDDING}
    write_checkpoint(tmp_path, config=TIED, tensors=tensors, tokenizer=False)

    assert f"{EMBEDDING} is missing" in raised(tmp_path)


def test_a_head_that_stands_for_the_embedding_is_named_in_what_is_said_of_it(tmp_path):
    write_checkpoint(
        tmp_path, config=TIED, tensors={**ONLY_HEAD, HEAD: np.zeros((299, 32), np.float32)}, tokenizer=False
    )

    assert f"{HEAD} has shape (299, 32), the model needs (300, 32)" in raised(tmp_path)


@pytest.mark.parametrize("shape", [(301, 32), (300, 16)])
def test_a_head_of_another_shape_is_refused(shape, tmp_path):
    write_checkpoint(
        tmp_path, config=TIED, tensors={**WITHOUT_HEAD, HEAD: np.zeros(shape, np.float32)}, tokenizer=False
    )

    assert f"{HEAD} has shape {shape}" in raised(tmp_path)


def test_values_are_compared_across_dtypes(tmp_path):
    rounded = WITH_HEAD[EMBEDDING].astype(ml_dtypes.bfloat16)
    tensors = {**WITHOUT_HEAD, EMBEDDING: rounded.astype(np.float32)}
    for name, head in {"same": rounded, "other": WITH_HEAD[EMBEDDING].astype(np.float16)}.items():
        write_checkpoint(tmp_path / name, config=TIED, tensors={**tensors, HEAD: head}, tokenizer=False)

    assert "head/kernel" not in loaded(tmp_path / "same")
    np.testing.assert_array_equal(
        loaded(tmp_path / "other")["head/kernel"], WITH_HEAD[EMBEDDING].astype(np.float16)
    )


@pytest.mark.parametrize("place", [0, 299 * 32 + 31], ids=["first", "last"])
def test_one_value_that_differs_is_enough(place, tmp_path, monkeypatch):
    # Many pieces, the last of them shorter.
    monkeypatch.setattr("jinfer.weights.tied_params.COMPARED_BYTES", 1024)
    head = WITHOUT_HEAD[EMBEDDING].copy()
    head.flat[place] += 1
    write_checkpoint(tmp_path, config=TIED, tensors={**WITHOUT_HEAD, HEAD: head}, tokenizer=False)

    np.testing.assert_array_equal(loaded(tmp_path)["head/kernel"], head)


def test_a_head_counts_when_memory_is_looked_at(tmp_path, monkeypatch):
    """Of a device whose memory holds the weights without the head."""
    sizes = {}
    for name, tensors in {"with": WITH_HEAD, "without": WITHOUT_HEAD}.items():
        write_checkpoint(tmp_path / name, config=TIED, tensors=tensors, tokenizer=False)
        sizes[name] = sum(x.nbytes for x in tensors.values())
    monkeypatch.setattr(
        "jinfer.execution.device_memory.DeviceMemory.available_bytes", lambda self, config: sizes["without"]
    )

    loaded(tmp_path / "without")
    with pytest.raises(InsufficientMemoryError):
        loaded(tmp_path / "with")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_jax_arrays_of_a_callers_own_keep_their_head(dtype):
    params = unflatten({path: jnp.asarray(x, dtype) for path, x in expected(WITH_HEAD).items()})

    assert "head/kernel" in loaded(TIED, params)


def test_what_convert_writes_of_a_tied_model_with_a_head_is_served_with_it(tmp_path, capsys):
    source = write_checkpoint(tmp_path / "source", config=TIED, tensors=WITH_HEAD, tokenizer=False)
    out = tmp_path / "out"
    words = ["convert", "--model", str(source), "--to", "orbax", str(out)]
    assert cli.main(words) == 0
    assert "tie_word_embeddings is true" in capsys.readouterr().err
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    assert_same(loaded(out), expected(WITH_HEAD))
