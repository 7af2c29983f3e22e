"""DeepSeek's checkpoints: what latent attention makes of fp8, and the layers that predict several tokens."""

import functools
import json
import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pallas_kernels.core.weights import BlockFp8Weight
from tests.models.goldens import GOLDENS
from tests.weights.formats.packers import awq, fp8
from tests.weights.loaded import as_floats, loaded
from tests.weights.test_served_types import params_of

GOLDEN = GOLDENS / "deepseek_v3_yarn"
FORMATS = {
    "fp8": (
        functools.partial(fp8, block=(128, 128)),
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    ),
    "awq": (functools.partial(awq, group_size=8), {"quant_method": "awq", "bits": 4, "group_size": 8}),
}


def written(directory, tensors, **entries):
    """The golden checkpoint with other tensors, and entries of its config.json."""
    raw = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**raw, **entries}), encoding="utf-8")
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_heads_become_floats_and_products_stay_as_they_are_stored(name, tmp_path):
    """In fp8; of AWQ, whose matrices are stored turned, kv_b alone is."""
    pack, quantization = FORMATS[name]
    tensors, weights, rng = load_file(GOLDEN / "model.safetensors"), {}, np.random.default_rng(0)
    is_stored = (lambda each: "self_attn" in each) if name == "fp8" else (lambda each: "kv_b_proj" in each)
    for tensor in [each for each in tensors if is_stored(each) and "norm" not in each]:
        module = tensor.removesuffix(".weight")
        made = pack(rng, *tensors.pop(tensor).shape)
        weights[module] = made.weight
        tensors |= {f"{module}.{leaf}": x for leaf, x in made.tensors.items()}
    params = params_of(written(tmp_path, tensors, quantization_config=quantization))

    for layer, stack in enumerate(("layers_0", "layers_1")):
        attention = f"{stack}/attention"
        prefix = f"model.layers.{layer}.self_attn"
        kv_up = params[f"{attention}/kv_up"]
        assert isinstance(kv_up, jnp.ndarray)
        np.testing.assert_array_equal(kv_up[0], weights[f"{prefix}.kv_b_proj"])
        if name == "fp8":
            kernel = params[f"{attention}/q/kernel"]
            assert isinstance(kernel, BlockFp8Weight)
            np.testing.assert_array_equal(as_floats(kernel)[0].T, weights[f"{prefix}.q_b_proj"])


def test_tensors_of_prediction_layers_are_left_out_and_said(tmp_path, caplog):
    tensors = load_file(GOLDEN / "model.safetensors")
    behind = {
        each.replace("layers.1.", "layers.2."): x for each, x in tensors.items() if ".layers.1.self" in each
    }
    behind["model.layers.2.eh_proj.weight"] = np.ones((4, 8), np.float32)
    with caplog.at_level(logging.INFO):
        params = loaded(written(tmp_path, {**tensors, **behind}))
    shutil.copy(GOLDEN / "model.safetensors", tmp_path)
    for path, x in loaded(tmp_path).items():
        np.testing.assert_array_equal(params[path], x)
    assert "model.layers.2." in caplog.text
