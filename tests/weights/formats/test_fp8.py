"""fp8 with a scale for each block, or one for a tensor: bit for bit the definition's, loaded as an engine
loads it."""

import json
import logging
from functools import partial

import ml_dtypes
import numpy as np
import pytest

from jinfer.models.registry import read_model_config
from jinfer.weights import streaming
from jinfer.weights.formats.format_choice import read_format
from tests.weights.formats.checkpoints import HEAD, ODD, write_quantized
from tests.weights.formats.packers import fp8
from tests.weights.loaded import assert_same, expected, loaded, raised

Q_PROJ = "model.layers.0.self_attn.q_proj"
EDGES = {"hidden_size": 136, "head_dim": 34, "intermediate_size": 200}
"""Sizes that leave a part of a block of 128 at each edge."""


def config(block=(128, 128), **changes):
    size = {} if block is None else {"weight_block_size": list(block)}
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", **size, **changes}


@pytest.mark.parametrize("scale_dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("block", "sizes"), [((128, 128), EDGES), ((16, 32), EDGES), ((32, 16), ODD)])
def test_blocks(block, sizes, scale_dtype, tmp_path):
    made = write_quantized(
        tmp_path, partial(fp8, block=block, scale_dtype=scale_dtype), config(block), sizes=sizes
    )
    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("scalar", [True, False])
def test_one_scale_for_a_tensor(scalar, tmp_path):
    pack = partial(fp8, block=None, scalar=scalar)
    made = write_quantized(tmp_path, pack, config(None, activation_scheme="static"), sizes=ODD)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_every_byte_has_its_value(tmp_path):
    """All finite numbers of e4m3, subnormal ones and both zeros among them."""
    values = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    values = np.where(np.isnan(values.astype(np.float32)), 1, values).astype(ml_dtypes.float8_e4m3fn)
    weight = np.resize(values, (40, 36))
    changes = {f"{Q_PROJ}.weight": weight, f"{Q_PROJ}.weight_scale": np.array(0.3, np.float32)}
    made = write_quantized(tmp_path, partial(fp8, block=None), config(None), sizes=ODD, changes=changes)

    params = loaded(tmp_path)
    wanted = expected({**made.weights, f"{Q_PROJ}.weight": weight.astype(np.float32) * np.float32(0.3)}, 1)
    assert_same(params, wanted)


@pytest.mark.parametrize("buffer_bytes", [777])
def test_weights_do_not_depend_on_the_chunks(buffer_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    made = write_quantized(tmp_path, partial(fp8, block=(16, 32)), config((16, 32)), sizes=ODD)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("name", ["modules_to_not_convert", "ignored_layers"])
def test_modules_that_are_not_converted_are_plain(name, tmp_path):
    """ "mlp.gate" is no part of "mlp.gate_proj", which is stored in fp8."""
    given = config((16, 32), **{name: [HEAD, "model.layers.0.mlp.gate", "model.layers.0.self_attn"]})
    made = write_quantized(
        tmp_path, partial(fp8, block=(16, 32)), given, sizes=ODD, leave=(HEAD, "self_attn")
    )
    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_what_belongs_to_activations_and_the_cache_is_not_applied_and_said(tmp_path, caplog):
    names = ("k_scale", "kv_scale")
    changes = {f"model.layers.0.self_attn.{name}": np.array(2, np.float32) for name in names}
    with caplog.at_level(logging.INFO, logger="jinfer"):
        made = write_quantized(tmp_path, partial(fp8, block=None), config(None), sizes=ODD, changes=changes)
        params = loaded(tmp_path)

    assert_same(params, expected(made.weights, 1))
    assert all(name in caplog.text for name in names)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight_scale_inv": None}, ".weight_scale_inv is missing"),
        (
            {"weight_scale_inv": np.ones((2, 2), np.float32)},
            ".weight_scale_inv has shape (2, 2), and its format needs (3, 2)",
        ),
        ({"weight_scale_inv": np.ones((3, 2), np.int8)}, ".weight_scale_inv has dtype I8"),
    ],
)
def test_a_fault_is_named(changes, said, tmp_path):
    changes = {f"{Q_PROJ}.{leaf}": tensor for leaf, tensor in changes.items()}
    write_quantized(tmp_path, partial(fp8, block=(16, 32)), config((16, 32)), sizes=ODD, changes=changes)

    assert f"{Q_PROJ}{said}" in raised(tmp_path)


def test_a_module_that_is_listed_as_plain_and_is_not_is_refused(tmp_path):
    given = config((16, 32), modules_to_not_convert=["q_proj"])
    write_quantized(tmp_path, partial(fp8, block=(16, 32)), given, sizes=ODD)

    assert f"{Q_PROJ} is stored in fp8, and modules_to_not_convert names it" in raised(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fmt": "e5m2"}, "fmt 'e5m2'"),
        ({"activation_scheme": "none"}, "activation_scheme 'none'"),
        ({"weight_block_size": [128]}, "weight_block_size [128]"),
        ({"weight_block_size": 128}, "weight_block_size 128"),
        ({"weight_block_size": [128, -1]}, "weight_block_size [128, -1]"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, said, tmp_path):
    write_quantized(tmp_path, partial(fp8, block=(16, 32)), config(**changes), sizes=ODD)

    assert f"quantization_config of config.json has {said}" in raised(tmp_path)


def test_the_configuration_of_a_published_model_is_read(shared_data):
    raw = json.loads((shared_data / "configs_quantized" / "Qwen3-32B-FP8" / "config.json").read_text())

    assert raw["quantization_config"]["quant_method"] == "fp8"
    assert read_model_config(raw).num_layers == 64


@pytest.mark.parametrize("name", ["Qwen3-30B-A3B-FP8", "DeepSeek-V3"])
def test_the_format_of_a_published_model_is_read_though_its_architecture_is_not(name, shared_data):
    raw = json.loads((shared_data / "configs" / name / "config.json").read_text())

    assert read_format(raw).block == (128, 128)
