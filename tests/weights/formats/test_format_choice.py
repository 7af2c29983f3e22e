"""The file that says how weights are quantized, what is refused by name, and what is said at the start."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jinfer.cli import main
from jinfer.errors import InsufficientMemoryError, UnsupportedModelError
from jinfer.execution.device_memory import DeviceMemory
from jinfer.models.registry import read_model_config
from jinfer.weights.params import unflatten
from tests.checkpoints import CONFIG, random_tensors, write_json, write_shards
from tests.weights.formats.checkpoints import HEAD, SIZES, SMALL, write_quantized
from tests.weights.formats.packers import Compressed, Gptq, awq
from tests.weights.loaded import assert_same, expected, loaded, raised

AWQ = partial(awq, group_size=64)
AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 64}
OTHER_METHODS = ("bitsandbytes", "hqq", "quark", "aqlm", "modelopt", "torchao", "AWQ", "", ["awq"])


@pytest.mark.parametrize("method", OTHER_METHODS, ids=str)
@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
def test_another_method_is_refused_by_name_before_weights_are_read(name: str, method: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read_model_config({**CONFIG, name: {"quant_method": method, "bits": 4}})

    assert f"{name} of config.json has" in str(caught.value)
    assert method == "" or repr(method) in str(caught.value)


def test_a_published_configuration_without_a_method_is_refused(shared_data: Path) -> None:
    directory = shared_data / "configs_quantized" / "Qwen3-32B-FP8-Static-PerTensor"
    with pytest.raises(UnsupportedModelError, match="has no quant_method: jinfer reads"):
        read_model_config(json.loads((directory / "config.json").read_text()))


def test_the_older_name_of_the_entry_means_compressed_tensors(tmp_path):
    weights = {"num_bits": 4, "type": "int", "group_size": 32}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    given = {"format": "pack-quantized", "config_groups": groups, "ignore": [HEAD]}
    made = write_quantized(tmp_path, Compressed(4), None, sizes=SIZES[32], compression_config=given)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize(
    ("name", "pack", "content"),
    [
        ("quantize_config.json", Gptq(desc_act=True), {"bits": 4, "group_size": 32, "desc_act": True}),
        (
            "quant_config.json",
            partial(awq, group_size=32),
            {"w_bit": 4, "q_group_size": 32, "version": "GEMM"},
        ),
    ],
)
def test_packed_weights_that_config_json_does_not_mention_are_described_beside_it(
    name, pack, content, tmp_path, caplog
):
    made = write_quantized(tmp_path, pack, None, sizes=SIZES[32])
    write_json(tmp_path / name, content)
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(tmp_path)

    assert_same(params, expected(made.weights, 1))
    assert name not in caplog.text


def test_a_side_file_is_checked_as_the_entry_is(tmp_path):
    write_quantized(tmp_path, Gptq(), None, sizes=SIZES[32])
    write_json(tmp_path / "quantize_config.json", {"bits": 3})

    assert "quantize_config.json has bits 3" in raised(tmp_path)


def test_the_entry_of_config_json_goes_before_a_side_file(tmp_path, caplog):
    made = write_quantized(tmp_path, AWQ, AWQ_CONFIG)
    write_json(tmp_path / "quant_config.json", {"bits": 3})
    with caplog.at_level(logging.WARNING, logger="jinfer"):
        params = loaded(tmp_path)

    assert_same(params, expected(made.weights, 1))
    assert "quant_config.json" not in caplog.text


def test_packed_weights_that_nothing_describes_are_refused(tmp_path):
    write_quantized(tmp_path, AWQ, None)

    assert "self_attn.q_proj.weight is missing" in raised(tmp_path)


def test_parts_of_a_module_may_lie_in_several_files(tmp_path):
    made = write_quantized(tmp_path / "whole", AWQ, AWQ_CONFIG)
    write_shards(tmp_path, made.tensors, num_shards=3)
    write_json(tmp_path / "config.json", made.config)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_plain_weights_with_a_quantization_config_are_served_as_they_are(tmp_path, caplog):
    """As the params of a checkpoint that was converted."""
    tensors, config = random_tensors(SMALL), {**SMALL, "quantization_config": AWQ_CONFIG}
    write_json(tmp_path / "config.json", config)
    save_file(tensors, tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(tmp_path)

    assert_same(params, expected(tensors, 1))
    assert "AWQ" not in caplog.text
    assert_same(loaded(config, unflatten(expected(tensors, 1))), expected(tensors, 1))


def test_integers_without_a_quantization_config_are_refused_as_before(tmp_path):
    pack = Compressed(8, strategy="channel", is_packed=False)
    write_quantized(tmp_path, pack, None)

    assert "q_proj.weight has dtype I8, of which jinfer reads BF16, F16, F32, F64" in raised(tmp_path)


def test_the_start_says_how_the_weights_are_served(tmp_path, caplog):
    write_quantized(tmp_path, AWQ, AWQ_CONFIG, torch_dtype="float16")
    with caplog.at_level(logging.INFO, logger="jinfer"):
        loaded(tmp_path, dtype="bfloat16")

    assert "stored as 4-bit AWQ, and served as 4 bits with a scale for 64 inputs, zero points" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_take_the_memory_of_their_codes(dtype, tmp_path, monkeypatch):
    made = write_quantized(tmp_path, AWQ, AWQ_CONFIG, sizes=SIZES[128])
    itemsize, num_bytes = np.dtype(dtype).itemsize, 0
    for name, x in made.weights.items():
        if name.removesuffix(".weight") + ".qweight" not in made.tensors:
            num_bytes += x.size * itemsize
        else:  # bytes for multiples of 256 inputs, scales of float16, and zeros of eight groups in a word
            num_out, num_in = x.shape
            num_bytes += num_out * (-(-num_in // 256) * 128 + num_in // 64 * 2 + -(-num_in // 512) * 4)
    monkeypatch.setattr(DeviceMemory, "available_bytes", lambda self, utilization: num_bytes)
    loaded(tmp_path, dtype=dtype)

    monkeypatch.setattr(DeviceMemory, "available_bytes", lambda self, utilization: num_bytes - 1)
    with pytest.raises(InsufficientMemoryError):
        loaded(tmp_path, dtype=dtype)


def test_convert_writes_the_floats(tmp_path):
    made = write_quantized(tmp_path / "packed", AWQ, AWQ_CONFIG)
    out = tmp_path / "out"

    assert main(["convert", "--model", str(made.directory), "--to", "orbax", str(out)]) == 0
    assert_same(loaded(out), expected(made.weights, 1))
