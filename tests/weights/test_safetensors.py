"""Safetensors checkpoints of every layout, and what is said about those that do not fit."""

import gc
import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jinfer.errors import CheckpointError
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement, default_placement
from jinfer.weights import streaming
from jinfer.weights.params import MAX_NAMED, Params, flatten
from jinfer.weights.safetensors import load_checkpoint
from jinfer.weights.safetensors_directory import find_tensors
from jinfer.weights.staging import MAX_READERS, NUM_SPARE_BUFFERS, StagingBuffer
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_shards
from tests.weights.loaded import assert_same, expected

LAYER_0 = "model.layers.0."
TIED = dict(CONFIG, tie_word_embeddings=True)
BIASED = dict(CONFIG, attention_bias=True, mlp_bias=True)


def model_of(config: Mapping[str, Any] = CONFIG, dtype: str = "float32") -> Model:
    return build_model(read_model_config(config), jnp.dtype(dtype), "xla")


def load(directory, config: Mapping[str, Any] = CONFIG, dtype: str = "float32") -> dict[str, np.ndarray]:
    params: Params = load_checkpoint(
        model_of(config, dtype).param_specs, directory, placement=default_placement(), progress=False
    )
    return {path: np.asarray(x) for path, x in flatten(params).items()}


def test_a_single_file_fills_every_parameter(tmp_path):
    tensors = random_tensors()
    write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)

    assert_same(load(tmp_path), expected(tensors))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_shards_give_what_a_single_file_gives(tmp_path, num_shards):
    tensors = random_tensors()
    write_shards(tmp_path, tensors, num_shards=num_shards)

    assert_same(load(tmp_path), expected(tensors))


def test_biases_are_joined_like_their_matrices(tmp_path):
    tensors, random = random_tensors(), np.random.default_rng(1)
    for name in [name for name in tensors if "_proj" in name]:
        bias = random.normal(size=tensors[name].shape[0]).astype(np.float32)
        tensors[name.replace(".weight", ".bias")] = bias
    write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)
    params = load(tmp_path, BIASED)

    joined = [tensors[f"model.layers.1.self_attn.{name}_proj.bias"] for name in "qkv"]
    np.testing.assert_array_equal(params["attention/qkv/bias"][1], np.concatenate(joined))
    np.testing.assert_array_equal(params["mlp/down/bias"][0], tensors[f"{LAYER_0}mlp.down_proj.bias"])


@pytest.mark.parametrize(
    "stored", [ml_dtypes.bfloat16, np.float16, np.float32], ids=lambda x: np.dtype(x).name
)
@pytest.mark.parametrize("served", ["float32", "bfloat16"])
def test_weights_of_any_float_dtype_are_converted_to_the_models(tmp_path, stored, served):
    tensors = {name: x.astype(stored) for name, x in random_tensors().items()}
    write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)
    params = load(tmp_path, dtype=served)

    assert {x.dtype for x in params.values()} == {jnp.dtype(served)}
    assert_same(params, {path: x.astype(served) for path, x in expected(tensors).items()})


def test_dtypes_may_be_mixed(tmp_path):
    tensors = random_tensors()
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(ml_dtypes.bfloat16)
    write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)

    assert_same(load(tmp_path), expected(tensors))


def test_a_model_that_was_built_tied_is_not_given_weights_with_another_head(tmp_path):
    write_checkpoint(tmp_path, tensors=random_tensors(), tokenizer=False)

    assert "lm_head.weight has other values than model.embed_tokens.weight" in raised(tmp_path, TIED)


def raised(directory, config: Mapping[str, Any] = CONFIG) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(directory, config)
    return str(caught.value)


def raised_for(
    directory, changes: Mapping[str, np.ndarray | None], config: Mapping[str, Any] = CONFIG
) -> str:
    """The message for the tiny checkpoint with some tensors replaced, added or, where None, taken away."""
    tensors = {name: x for name, x in (random_tensors() | dict(changes)).items() if x is not None}
    write_checkpoint(directory, config=config, tensors=tensors, tokenizer=False)
    return raised(directory, config)


def test_all_faults_are_in_one_message(tmp_path):
    message = raised_for(
        tmp_path,
        {
            "lm_head.weight": None,
            f"{LAYER_0}mlp.down_proj.weight": np.zeros((32, 47), np.float32),
            "model.extra.weight": np.zeros(3, np.float32),
        },
    )

    assert str(tmp_path) in message
    assert "lm_head.weight is missing" in message
    assert f"{LAYER_0}mlp.down_proj.weight has shape (32, 47), the model needs (32, 48)" in message
    assert "model.extra.weight is not a tensor of the model" in message


def test_of_many_faults_the_first_are_named_and_the_rest_counted(tmp_path):
    message = raised_for(tmp_path, {f"extra.{i}": np.zeros(1, np.float32) for i in range(MAX_NAMED + 5)})

    assert message.count("is not a tensor") == MAX_NAMED
    assert message.endswith("; and 5 more")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("model.embed_tokens.weight", (299, 32), "(300, 32)"),
        ("model.embed_tokens.weight", (32, 300), "(300, 32)"),
        ("model.norm.weight", (33,), "(32)"),
        ("model.norm.weight", (1, 32), "(32)"),
        (f"{LAYER_0}input_layernorm.weight", (), "(32)"),
        (f"{LAYER_0}self_attn.o_proj.weight", (32, 31), "(32, 32)"),
        (f"{LAYER_0}self_attn.q_proj.weight", (32, 31), "(*, 32)"),
        (f"{LAYER_0}mlp.up_proj.weight", (48,), "(*, 32)"),
    ],
)
def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path, name, shape, wanted):
    message = raised_for(tmp_path, {name: np.zeros(shape, np.float32)})

    assert f"{name} has shape {shape}, the model needs {wanted}" in message


def test_joined_tensors_that_are_too_many_rows_together_are_named(tmp_path):
    message = raised_for(tmp_path, {f"{LAYER_0}self_attn.k_proj.weight": np.zeros((17, 32), np.float32)})

    assert f"{LAYER_0}self_attn.q_proj.weight + {LAYER_0}self_attn.k_proj.weight" in message
    assert "(32, 32), (17, 32), (16, 32), but must have 64 rows together" in message


def test_joined_tensors_that_share_the_rows_in_another_way_are_named(tmp_path):
    """As many rows together as the model has, but of another number of heads and KV heads."""
    shapes = {"q_proj": 16, "k_proj": 32, "v_proj": 16}
    changes = {
        f"{LAYER_0}self_attn.{name}.weight": np.zeros((n, 32), np.float32) for name, n in shapes.items()
    }

    assert "must have 64 rows together: 32, 16, 16" in raised_for(tmp_path, changes)


def test_tensors_of_a_layer_beyond_the_model_are_left_over(tmp_path):
    name = "model.layers.2.mlp.down_proj.weight"

    assert f"{name} is not a tensor of the model" in raised_for(
        tmp_path, {name: np.zeros((32, 48), np.float32)}
    )


def test_quantized_weights_are_refused(tmp_path):
    message = raised_for(tmp_path, {"lm_head.weight": np.zeros((300, 32), np.int8)})

    assert "lm_head.weight has dtype I8, of which jinfer reads BF16, F16, F32" in message


def test_a_directory_without_weights_is_told_what_is_needed(tmp_path):
    assert "neither model.safetensors nor model.safetensors.index.json" in raised(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    write_checkpoint(tmp_path, tokenizer=False)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    assert f"{file} is truncated or corrupt" in raised(tmp_path)


@pytest.mark.parametrize(
    "header",
    [b"", b"junk", (2**40).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little") + b"{no}", b"\0" * 8],
)
def test_a_corrupt_header_is_an_error_with_the_file_and_a_remedy(tmp_path, header):
    write_checkpoint(tmp_path, tokenizer=False)
    (tmp_path / "model.safetensors").write_bytes(header)

    message = raised(tmp_path)
    assert f"{tmp_path / 'model.safetensors'} is truncated or corrupt" in message
    assert "fetch it again" in message


def test_an_index_that_names_a_missing_shard(tmp_path):
    write_shards(tmp_path, random_tensors(), num_shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()

    message = raised(tmp_path)
    assert "names model-00002-of-00003.safetensors, which" in message
    assert "fetch the model again" in message


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 5}}', "\udcff"]
)
def test_a_corrupt_index_is_an_error_with_the_file_and_a_remedy(tmp_path, index):
    write_shards(tmp_path, random_tensors())
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8", errors="surrogateescape")

    message = raised(tmp_path)
    assert f"{tmp_path / 'model.safetensors.index.json'} is not an index" in message
    assert "fetch it again" in message


def test_a_tensor_that_the_index_promises_and_no_shard_holds_is_missing(tmp_path):
    tensors = random_tensors()
    write_shards(tmp_path, {name: x for name, x in tensors.items() if name != "model.norm.weight"})
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))

    assert "model.norm.weight is missing" in raised(tmp_path)


def entry(dtype: object = "F32", shape: object = (2, 2), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"x": 5},
        {"x": {}},
        {"x": entry(shape=7)},
        {"x": entry(shape=["a"])},
        {"x": entry(shape=[-2, -2])},
        {"x": entry(shape=[2, True])},
        {"x": entry(shape=[1] * 9)},
        {"x": entry(offsets=[0])},
        {"x": entry(offsets=[-16, 0])},
        {"x": entry(offsets=[16, 0])},
        {"x": entry(offsets=[8, 24])},
        {"x": entry(shape=[2, 3])},
        {"x": entry(dtype="BF16")},
        {"x": entry(shape=[2**40, 2**40], offsets=[0, 16])},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(tmp_path, header):
    """Whoever wrote the file, no byte outside of it is read."""
    encoded = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(16))

    assert f"{file} is truncated or corrupt" in raised(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    write_checkpoint(tmp_path, tokenizer=False)
    file = tmp_path / "model.safetensors"
    tensors = find_tensors(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    last = max(tensors.values(), key=lambda tensor: tensor.first_byte)

    with pytest.raises(
        CheckpointError, match=r"model.safetensors cannot be read \(it ended early\); fetch it again"
    ):
        last.read_rows(0, np.zeros(last.num_bytes, np.uint8))


def test_host_memory_is_bounded_however_large_the_checkpoint_is(tmp_path, monkeypatch):
    """25 MB in 21 tensors, through buffers of 256 KiB; and on the device, each parameter is there once."""
    config = dict(CONFIG, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, head_dim=64)
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1024}
    tensors = {name: np.zeros(x.shape, np.float32) for name, x in random_tensors(config).items()}
    write_checkpoint(tmp_path, config=config, tensors=tensors, tokenizer=False)
    total = sum(x.nbytes for x in tensors.values())
    del tensors
    assert total > 24e6
    buffers: list[int] = []
    kind = "pageable" if jax.default_backend() == "cpu" else "pinned"
    make = getattr(StagingBuffer, kind)

    def counted(num_bytes: int, placement: Placement) -> StagingBuffer:
        if num_bytes > 1:  # not the byte that asks a device for pinned memory
            buffers.append(num_bytes)
        return make(num_bytes, placement)

    monkeypatch.setattr(StagingBuffer, kind, counted)
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 256 * 1024)
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    tracemalloc.start()  # which sees what numpy allocates
    params = load_checkpoint(
        model_of(config).param_specs, tmp_path, placement=default_placement(), progress=False
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert set(buffers) == {256 * 1024}
    assert len(buffers) <= MAX_READERS + NUM_SPARE_BUFFERS
    assert most < 10e6
    assert sum(x.nbytes for x in jax.live_arrays()) - before == total  # on the device, once
    jax.tree.map(lambda x: x.delete(), params)
