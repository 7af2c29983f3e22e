"""Tensors that a model has no place for: what can change nothing is left out, and the rest is refused by
name."""

import logging

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from jinfer.weights.params import unflatten
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint, write_json
from tests.weights.loaded import assert_same, expected, loaded, raised

BLOCK = "model.layers.0.self_attn."
TENSORS = random_tensors()
FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (f"{BLOCK}rotary_emb.inv_freq", np.ones(4, np.float32)),
        ("model.rotary_emb.inv_freq", np.ones(4, np.float64)),
        ("model.rotary_emb.original_inv_freq", np.ones(4, np.float32)),
        (f"{BLOCK}rotary_emb.cos_cached", np.ones((1, 1, 64, 8), np.float16)),
        (f"{BLOCK}rotary_emb.sin_cached", np.ones((1, 1, 64, 8), ml_dtypes.bfloat16)),
        ("model.position_ids", np.arange(64)[None]),
        (f"{BLOCK}masked_bias", np.array(-1e9, np.float32)),
        (f"{BLOCK}bias", np.tril(np.ones((1, 1, 8, 8), bool))),
        ("model.layers.0.attn.bias", np.tril(np.ones((1, 1, 8, 8), np.uint8))),
        ("model.extra.weight", np.zeros((0, 32), np.float32)),
        ("model.extra.weight", np.zeros(0, np.int8)),
        ("lm_head.bias", np.zeros(300, np.float32)),
        ("model.norm.bias", -np.zeros(32, np.float32)),
    ],
)
def test_what_can_change_nothing_is_left_out_and_said_to_who_asks(name, tensor, tmp_path, caplog):
    write_checkpoint(tmp_path, tensors={**TENSORS, name: tensor}, tokenizer=False)
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(tmp_path)

    assert_same(params, expected(TENSORS))
    assert f"changes nothing: {name}" in caplog.text


@pytest.mark.parametrize("dtype", [*FLOATS, ml_dtypes.float8_e5m2], ids=lambda x: np.dtype(x).name)
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_a_bias_decides_by_its_values(dtype, name, tmp_path):
    bias = np.zeros(16 if name in ("k_proj", "v_proj") else 32, dtype)
    write_checkpoint(tmp_path / "zero", tensors={**TENSORS, f"{BLOCK}{name}.bias": bias}, tokenizer=False)
    bias[-1] = 2**-10
    write_checkpoint(tmp_path / "other", tensors={**TENSORS, f"{BLOCK}{name}.bias": bias}, tokenizer=False)

    assert_same(loaded(tmp_path / "zero"), expected(TENSORS))
    assert f"{BLOCK}{name}.bias is not a tensor of the model" in raised(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (f"{BLOCK}q_proj.bias", np.full(32, np.nan, np.float32)),
        (f"{BLOCK}q_proj.bias", np.zeros(32, np.int8)),  # quantized: its zero point is elsewhere
        (f"{BLOCK}q_proj.bias", np.zeros((32, 2), np.float32)),
        (f"{BLOCK}q_norm.weight", np.zeros(8, np.float32)),  # multiplied, it would change everything
        (f"{BLOCK}q_norm.weight", np.ones(8, np.float32)),
        (f"{BLOCK}q_proj.lora_B.weight", np.zeros((32, 4), np.float32)),
        (f"{BLOCK}bias", np.ones(32, np.float32)),
        (f"{BLOCK}rotary_emb.scale", np.ones(8, np.float32)),
        ("model.layers.2.mlp.down_proj.weight", np.zeros((32, 48), np.float32)),
        ("position_ids_extra", np.ones(3, np.float32)),
    ],
)
def test_what_may_change_something_is_refused_by_name(name, tensor, tmp_path):
    write_checkpoint(tmp_path, tensors={**TENSORS, name: tensor}, tokenizer=False)

    assert f"{name} is not a tensor of the model" in raised(tmp_path)


def test_zero_biases_that_a_model_does_have_are_loaded(tmp_path):
    biases = {
        f"model.layers.{layer}.self_attn.{name}_proj.bias": np.zeros(size, np.float32)
        for layer in range(2)
        for name, size in {"q": 32, "k": 16, "v": 16, "o": 32}.items()
    }
    write_checkpoint(
        tmp_path, config=dict(CONFIG, attention_bias=True), tensors={**TENSORS, **biases}, tokenizer=False
    )

    assert not loaded(tmp_path)["attention/qkv/bias"].any()


@pytest.mark.parametrize("served", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", FLOATS, ids=lambda x: np.dtype(x).name)
def test_weights_of_any_float_are_cast_as_torch_does_it(stored, served, tmp_path):
    """By way of float32, where float64 is wider than what is served."""
    tensors = {name: (x * (1 + 2**-30)).astype(stored) for name, x in TENSORS.items()}
    write_checkpoint(tmp_path, tensors=tensors, tokenizer=False)
    as_float32 = {name: x.astype(np.float32) for name, x in tensors.items()}

    wanted = {path: x.astype(jnp.dtype(served)) for path, x in expected(as_float32).items()}
    assert_same(loaded(tmp_path, dtype=served), wanted)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.int64, np.bool_, np.complex64, ml_dtypes.float8_e4m3fn]
)
def test_weights_of_what_is_no_plain_float_are_refused_by_name(dtype, tmp_path):
    tensors = {**TENSORS, "model.norm.weight": np.ones(32, dtype)}
    names = {"int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64", "bool": "BOOL", "complex64": "C64"}
    name = names.get(np.dtype(dtype).name, "F8_E4M3")
    write_checkpoint(tmp_path, tensors=TENSORS, tokenizer=False)
    save_file(tensors, tmp_path / "model.safetensors")

    assert f"model.norm.weight has dtype {name}, of which jinfer reads BF16, F16, F32, F64" in raised(
        tmp_path
    )


@pytest.mark.parametrize("place", ["orbax", "memory"])
@pytest.mark.parametrize("value", [0, 1])
def test_it_is_so_of_params_as_well(place, value, tmp_path):
    params = unflatten({**expected(TENSORS), "attention/qkv/bias": np.full((2, 64), value, np.float32)})
    source: tuple = (CONFIG, params)
    if place == "orbax":
        source = (tmp_path,)
        write_json(tmp_path / "config.json", CONFIG)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((tmp_path / "params").resolve(), params)

    if value:
        assert "attention/qkv/bias is not a parameter of the model" in raised(*source)
    else:
        assert_same(loaded(*source), expected(TENSORS))
