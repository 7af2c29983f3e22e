"""Experts that lie together in one tensor of a layer, beside experts with a tensor each."""

import functools
import json
import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jinfer.cli.command import main
from jinfer.models.params import decoder_params
from jinfer.models.registry import read_model_config
from jinfer.weights import streaming
from jinfer.weights.params import unflatten
from pallas_kernels.core.weights import BlockFp8Weight, Mxfp4Weight
from tests.models.goldens import GOLDENS
from tests.weights.formats.packers import awq, fp8, mxfp4_arrays
from tests.weights.loaded import as_floats, assert_same, loaded, raised
from tests.weights.test_served_types import params_of

NUM_EXPERTS = 3
GATE_UP, DOWN = "mlp/experts/gate_up/kernel", "mlp/experts/down/kernel"
QWEN3 = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_experts": NUM_EXPERTS,
    "num_experts_per_tok": 2,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_local_experts": NUM_EXPERTS,
    "num_experts_per_tok": 2,
}


def tensors_of(name):
    """The tensors of a golden checkpoint."""
    return load_file(GOLDENS / name / "model.safetensors")


def written(directory, name, tensors):
    """A golden checkpoint with other tensors."""
    directory.mkdir()
    shutil.copy(GOLDENS / name / "config.json", directory)
    save_file({key: np.ascontiguousarray(x) for key, x in tensors.items()}, directory / "model.safetensors")
    return directory


def fused(tensors, module, names):
    """The tensors with those of all experts of each layer in one: [experts, out, in]."""
    rest, stacks = dict(tensors), {}
    for name in tensors:
        layer, found, leaf = name.partition(f".{module}.experts.0.")
        if found and leaf == f"{names[0]}.weight":
            experts = range(sum(each.endswith(leaf) and each.startswith(layer) for each in tensors))
            stacks[layer] = np.stack(
                [
                    np.concatenate([rest.pop(f"{layer}.{module}.experts.{e}.{n}.weight") for n in names])
                    for e in experts
                ]
            )
    return rest, stacks


@pytest.fixture(params=[None, 777], ids=["one buffer", "small buffers"])
def buffers(request, monkeypatch):
    """Staging buffers that hold a tensor, or a few of its rows."""
    if request.param is not None:
        monkeypatch.setattr(streaming, "BUFFER_BYTES", request.param)


@pytest.mark.usefixtures("buffers")
def test_one_tensor_of_all_experts_is_what_one_of_each_is(tmp_path):
    name = "qwen3_moe_some_dense"
    tensors = tensors_of(name)
    tensors, gate_up = fused(tensors, "mlp", ("gate_proj", "up_proj"))
    tensors, down = fused(tensors, "mlp", ("down_proj",))
    tensors |= {f"{layer}.mlp.experts.gate_up_proj": x for layer, x in gate_up.items()}
    tensors |= {f"{layer}.mlp.experts.down_proj": x for layer, x in down.items()}
    assert len(gate_up) == len(down) == 2
    assert_same(loaded(written(tmp_path / "fused", name, tensors)), loaded(GOLDENS / name))


@pytest.mark.usefixtures("buffers")
def test_turned_and_interleaved_experts_are_what_one_tensor_of_each_is(tmp_path):
    name = "gpt_oss_yarn"
    tensors = {}
    for key, x in tensors_of(name).items():
        block, found, leaf = key.partition(".experts.")
        if not found:
            tensors[key] = x
            continue
        kind = "bias" if leaf.endswith("_bias") else "weight"
        for expert, of_expert in enumerate(x):
            parts = {"down_proj": of_expert}
            if leaf.startswith("gate_up"):
                parts = {"gate_proj": of_expert[..., ::2], "up_proj": of_expert[..., 1::2]}
            for module, part in parts.items():
                tensors[f"{block}.experts.{expert}.{module}.{kind}"] = part.T
    assert_same(loaded(written(tmp_path / "apart", name, tensors)), loaded(GOLDENS / name))


def test_experts_of_another_size_are_refused(tmp_path):
    tensors = tensors_of("gpt_oss_yarn")
    name = "model.layers.1.mlp.experts.down_proj"
    tensors[name] = tensors[name][:-1]
    message = raised(written(tmp_path / "fewer", "gpt_oss_yarn", tensors))
    assert f"{name} has dtype F32 and shape (5, 40, 32), and the model needs (6, 40, 32)" in message


def test_a_missing_expert_is_named(tmp_path):
    tensors = tensors_of("mixtral_window")
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    del tensors[name]
    assert f"{name} is missing" in raised(written(tmp_path / "short", "mixtral_window", tensors))


def random_tensors(config):
    """A tensor for each name that the model has."""
    rng, tensors = np.random.default_rng(0), {}
    for spec in decoder_params(read_model_config(config), jnp.dtype("float32")).by_path.values():
        for place in spec.places():
            for name, tensor in zip(place.names, spec.tensors, strict=True):
                shape = (*spec.entry_shape[:-1], tensor.num_columns)
                shape = shape[::-1] if spec.is_transposed else shape
                tensors[name] = rng.normal(0, 0.5, shape).astype(np.float32)
    return tensors


def written_quantized(directory, config, quantization, tensors):
    config = {**config, "quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.usefixtures("buffers")
def test_mxfp4_experts_stay_codes(tmp_path):
    """Gate and up are rows in turns, and lie side by side on the device."""
    rng, tensors, weights = np.random.default_rng(1), random_tensors(GPT_OSS), {}
    tensors = {name: x for name, x in tensors.items() if ".experts." not in name or name.endswith("bias")}
    for module, num_outputs, num_inputs in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
        codes, scales, weights[module] = mxfp4_arrays(rng, NUM_EXPERTS, num_outputs, num_inputs)
        name = f"model.layers.0.mlp.experts.{module}"
        tensors |= {f"{name}_blocks": codes.reshape(*scales.shape, 16), f"{name}_scales": scales}

    params = params_of(
        written_quantized(tmp_path, GPT_OSS, {"quant_method": "mxfp4"}, tensors), dtype="bfloat16"
    )

    assert isinstance(params[GATE_UP], Mxfp4Weight)
    assert isinstance(params[DOWN], Mxfp4Weight)
    gate_up, down = weights["gate_up_proj"].swapaxes(-1, -2), weights["down_proj"].swapaxes(-1, -2)
    side_by_side = np.concatenate([gate_up[..., ::2], gate_up[..., 1::2]], axis=-1)
    np.testing.assert_array_equal(as_floats(params[GATE_UP]), side_by_side[None])
    np.testing.assert_array_equal(as_floats(params[DOWN]), down[None])


QWEN3_FORMATS = {
    "fp8 of blocks": (
        functools.partial(fp8, block=(128, 128)),
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        BlockFp8Weight,
    ),
    "awq": (functools.partial(awq, group_size=32), {"quant_method": "awq", "group_size": 32}, None),
}


@pytest.mark.parametrize("name", QWEN3_FORMATS)
def test_experts_are_served_in_their_type_or_as_floats(name, tmp_path, caplog):
    pack, quantization, kind = QWEN3_FORMATS[name]
    rng, tensors, weights = np.random.default_rng(2), random_tensors(QWEN3), {}
    for tensor in [each for each in tensors if ".experts." in each]:
        module = tensor.removesuffix(".weight")
        made = pack(rng, *tensors.pop(tensor).shape)
        weights[module] = made.weight
        tensors |= {f"{module}.{leaf}": x for leaf, x in made.tensors.items()}

    with caplog.at_level(logging.INFO):
        params = params_of(written_quantized(tmp_path, QWEN3, quantization, tensors))

    assert isinstance(params[GATE_UP], kind or jnp.ndarray)
    assert ("served as floats" in caplog.text) == (kind is None)
    for path, modules in ((GATE_UP, ("gate_proj", "up_proj")), (DOWN, ("down_proj",))):
        wanted = [
            [
                np.concatenate(
                    [weights[f"model.layers.{i}.mlp.experts.{e}.{module}"].T for module in modules], axis=-1
                )
                for e in range(NUM_EXPERTS)
            ]
            for i in range(2)
        ]
        np.testing.assert_array_equal(as_floats(params[path]), np.array(wanted))


@pytest.mark.parametrize(
    ("config", "quantization", "kinds"),
    [
        (
            GPT_OSS,
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            Mxfp4Weight,
        ),
        (QWEN3, QWEN3_FORMATS["fp8 of blocks"][1], BlockFp8Weight),
        (QWEN3, QWEN3_FORMATS["awq"][1], jnp.ndarray),
    ],
)
def test_random_experts_have_the_type_that_config_json_describes(config, quantization, kinds):
    params = params_of({**config, "quantization_config": quantization}, dummy_weights=True)
    assert isinstance(params[GATE_UP], kinds)
    assert isinstance(params[DOWN], kinds)
    assert isinstance(params["mlp/router/kernel"], jnp.ndarray)
    assert 0.002 < as_floats(params[DOWN]).std() < 0.2


def test_a_rule_that_quantizes_leaves_experts_and_router(caplog):
    with caplog.at_level(logging.WARNING):
        params = params_of(QWEN3, dummy_weights=True, quantization="fp8")
    assert not isinstance(params["attention/qkv/kernel"], jnp.ndarray)
    assert isinstance(params[GATE_UP], jnp.ndarray)
    assert isinstance(params["mlp/router/kernel"], jnp.ndarray)
    assert "experts" in caplog.text


def test_orbax_keeps_experts(tmp_path, capsys):
    source = GOLDENS / "gpt_oss_yarn"
    assert main(["convert", "--model", str(source), "--to", "orbax", str(tmp_path / "out")]) == 0
    assert_same(loaded(tmp_path / "out"), loaded(source))


def test_params_in_memory_may_have_experts():
    plain = loaded(GOLDENS / "qwen2_moe_shared")
    config = json.loads((GOLDENS / "qwen2_moe_shared" / "config.json").read_text(encoding="utf-8"))
    assert_same(loaded(config, unflatten(plain)), plain)


def test_a_checkpoint_is_not_quantized_of_experts(tmp_path, capsys):
    source = GOLDENS / "mixtral_window"
    assert main(["convert", "--model", str(source), "--quantize", "int8", str(tmp_path / "out")]) == 1
    assert "MixtralForCausalLM has experts, which are not among the products" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
