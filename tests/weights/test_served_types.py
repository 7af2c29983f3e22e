"""Quantized kernels are served in their types: those of a checkpoint, and those that an option gives."""

import functools
import logging

import ml_dtypes
import numpy as np
import pytest

from jinfer import LLM, ConfigError
from jinfer.cli.command import main
from jinfer.config import EngineConfig
from jinfer.loading import load_model, resolve_model
from jinfer.placement import default_placement
from jinfer.weights.params import flatten, num_bytes, unflatten
from pallas_kernels.core.weights import (
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)
from tests.checkpoints import CONFIG, TINY_ENGINE, random_tensors, write_checkpoint
from tests.weights.formats.checkpoints import SIZES, write_quantized
from tests.weights.formats.packers import (
    Compressed,
    Gptq,
    InputOrder,
    awq,
    fp8,
    mxfp4_blocks,
    mxfp4_packed,
    own_order,
    uneven_groups,
)
from tests.weights.loaded import as_floats, assert_same, expected

KERNELS = ("attention/qkv/kernel", "attention/output/kernel", "mlp/gate_up/kernel", "mlp/down/kernel")
PROMPT = [5, 17, 3, 88, 41]


def params_of(source, params=None, **options):
    config = EngineConfig.from_options({"dtype": "float32", "progress": False, **options})
    placement = default_placement()
    resolved = resolve_model(source, params=params, tokenizer=None, config=config, placement=placement)
    found = load_model(resolved, params=params, config=config, placement=placement)
    sizes = [num_bytes(tree) for tree in (found.params, resolved.model.abstract_params)]
    assert sizes[0] == sizes[1], "the memory is counted before"
    return flatten(found.params)


def compressed(pack, activations=None):
    weights = {
        "num_bits": pack.bits,
        "type": pack.kind,
        "strategy": pack.strategy,
        "symmetric": pack.symmetric,
    }
    weights["group_size"] = pack.group_size if pack.strategy == "group" else None
    weights["actorder"] = "group" if pack.actorder else None
    packed = pack.is_packed and pack.kind == "int"
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if packed else f"{pack.kind}-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


INT8, FLOAT8 = Compressed(8, "int", "channel", is_packed=False), Compressed(8, "float", "channel")
DYNAMIC = {"dynamic": True, "strategy": "token"}
MXFP4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
FORMATS = {
    "awq": (
        functools.partial(awq, group_size=32),
        {"quant_method": "awq", "group_size": 32},
        Int4Weight,
        "float",
    ),
    "gptq": (
        Gptq(group_size=32),
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False},
        Int4Weight,
        "float",
    ),
    "gptq of 8 bits": (
        Gptq(8, group_size=32),
        {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": False},
        Int8Weight,
        "float",
    ),
    "gptq in the order of activations": (
        Gptq(group_size=32, desc_act=True, order=InputOrder()),
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
        Int4Weight,
        "float",
    ),
    "gptq_v2 in the order of activations": (
        Gptq(group_size=32, desc_act=True, order=InputOrder(), version=2, sym=True),
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"},
        Int4Weight,
        "float",
    ),
    "gptq of 8 bits in the order of activations": (
        Gptq(8, group_size=32, desc_act=True, order=InputOrder()),
        {"quant_method": "gptq", "bits": 8, "group_size": 32},
        Int8Weight,
        "float",
    ),
    "packed in the order of activations": (
        Compressed(4, actorder=True, symmetric=False, order=InputOrder()),
        compressed(Compressed(4, actorder=True, symmetric=False)),
        Int4Weight,
        "float",
    ),
    "8 bits packed in the order of activations": (
        Compressed(8, actorder=True, order=InputOrder()),
        compressed(Compressed(8, actorder=True)),
        Int8Weight,
        "float",
    ),
    "packed": (Compressed(4), compressed(Compressed(4)), Int4Weight, "float"),
    "int8": (INT8, compressed(INT8, {"num_bits": 8, "type": "int", **DYNAMIC}), Int8Weight, "dynamic"),
    "int8 weights": (INT8, compressed(INT8), Int8Weight, "float"),
    "int8 of asymmetric activations": (
        INT8,
        compressed(INT8, {"num_bits": 8, "type": "int", "symmetric": False, **DYNAMIC}),
        Int8Weight,
        "float",
    ),
    "fp8": (FLOAT8, compressed(FLOAT8, {"num_bits": 8, "type": "float", **DYNAMIC}), Fp8Weight, "dynamic"),
    "fp8 of Hugging Face": (
        functools.partial(fp8, block=None),
        {"quant_method": "fp8"},
        Fp8Weight,
        "dynamic",
    ),
    "mxfp4": (mxfp4_blocks, {"quant_method": "mxfp4"}, Mxfp4Weight, "float"),
    "mxfp4 with activations in mxfp4": (
        mxfp4_packed,
        {
            "quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized",
            "config_groups": {
                "all": {
                    "targets": ["Linear"],
                    "weights": MXFP4,
                    "input_activations": {**MXFP4, "dynamic": True},
                }
            },
            "ignore": ["lm_head"],
        },
        Mxfp4Weight,
        "float",
    ),
    "fp8 in blocks": (
        functools.partial(fp8, block=(128, 128)),
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        BlockFp8Weight,
        "dynamic",
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_a_checkpoint_is_served_in_its_own_type(case, tmp_path):
    pack, given, wanted, activations = FORMATS[case]
    sizes = SIZES[128] if "blocks" in case else SIZES[32]
    changes = {"num_key_value_heads": 4} if "blocks" in case else {}
    made = write_quantized(tmp_path, pack, given, sizes=sizes, num_hidden_layers=2, **changes)
    params = params_of(tmp_path)

    assert {type(params[path]) for path in KERNELS} == {wanted}
    assert {params[path].activations for path in KERNELS} == {activations}
    assert_same({path: as_floats(x) for path, x in params.items()}, expected(made.weights, 2))


def test_modules_side_by_side_have_the_largest_scale_of_their_activations(tmp_path):
    given = compressed(INT8, {"num_bits": 8, "type": "int", "dynamic": False, "strategy": "tensor"})
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    scales = {
        f"model.layers.0.{name}.input_scale": np.array([i], np.float32) for i, name in enumerate(names, 1)
    }
    write_quantized(tmp_path, INT8, given, sizes=SIZES[32], changes=scales)
    params = params_of(tmp_path)

    assert {params[path].activations for path in KERNELS} == {"static"}
    assert [float(params[path].input_scale[0]) for path in KERNELS] == [3, 4, 6, 7]


@pytest.mark.parametrize("actorder", [False, True])
def test_a_layer_that_is_left_out_makes_floats_of_its_parameter_alone(actorder, tmp_path):
    left = "model.layers.1.self_attn.o_proj"
    pack = Compressed(4, actorder=actorder, order=InputOrder())
    given = compressed(pack) | {"ignore": ["lm_head", left]}
    made = write_quantized(
        tmp_path, pack, given, sizes=SIZES[32], leave=("lm_head", left), num_hidden_layers=2
    )
    params = params_of(tmp_path)

    types = [isinstance(params[path], QuantizedWeight) for path in KERNELS]
    assert types == [True, False, True, True]
    assert_same({path: as_floats(x) for path, x in params.items()}, expected(made.weights, 2))


ORDERED = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
TWO_LAYERS = {"sizes": SIZES[32], "num_hidden_layers": 2}


def test_an_order_of_activations_takes_an_index_for_each_input_beside_the_codes(tmp_path):
    sizes = []
    for name, order in (("ordered", InputOrder()), ("plain", lambda rng, groups: groups)):
        pack = Gptq(group_size=32, desc_act=True, order=order)
        write_quantized(tmp_path / name, pack, ORDERED, **TWO_LAYERS)
        params = params_of(tmp_path / name)
        sizes.append({path: num_bytes(params[path]) for path in KERNELS})
    ordered, plain = sizes
    inputs = (96, 96, 96, 160)
    assert ordered == {path: plain[path] + 2 * 4 * size for path, size in zip(KERNELS, inputs, strict=True)}


def test_each_layer_has_an_order_of_its_own_and_one_may_have_none(tmp_path):
    made = write_quantized(tmp_path, Gptq(desc_act=True, order=InputOrder()), ORDERED, **TWO_LAYERS)
    plain = write_quantized(tmp_path / "plain", Gptq(), ORDERED, **TWO_LAYERS)
    of_second = {name: x for name, x in plain.tensors.items() if "layers.1.mlp" in name}
    write_quantized(
        tmp_path, Gptq(desc_act=True, order=InputOrder()), ORDERED, changes=of_second, **TWO_LAYERS
    )
    params = params_of(tmp_path)

    first, second = np.asarray(params["attention/qkv/kernel"].permutation)
    assert sorted(first) == sorted(second) == list(range(96))
    assert (first != second).any()
    np.testing.assert_array_equal(params["mlp/down/kernel"].permutation[1], np.arange(160))
    weights = {n: plain.weights[n] if "layers.1.mlp" in n else x for n, x in made.weights.items()}
    assert_same({path: as_floats(x) for path, x in params.items()}, expected(weights, 2))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("order", "are_codes"), [(own_order, [False, True, False, True]), (uneven_groups, [False] * 4)]
)
def test_orders_that_no_type_has_become_floats_and_are_named(order, are_codes, bits, tmp_path, caplog):
    """Those of modules that lie side by side and differ, and groups of several sizes."""
    pack = Gptq(bits, 32, desc_act=True, order=order)
    made = write_quantized(tmp_path, pack, ORDERED | {"bits": bits}, **TWO_LAYERS)
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = params_of(tmp_path)

    assert [isinstance(params[path], QuantizedWeight) for path in KERNELS] == are_codes
    assert "served as floats, in as much memory: model.layers.0.self_attn.q_proj.weight" in caplog.text
    assert_same({path: as_floats(x) for path, x in params.items()}, expected(made.weights, 2))


@pytest.fixture(scope="module")
def config():
    return {**CONFIG, **SIZES[128]}


@pytest.fixture(scope="module")
def tensors(config):
    return random_tensors(config)


@pytest.fixture(scope="module")
def directory(config, tensors, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model"), config=config, tensors=tensors)


@pytest.fixture(scope="module")
def orbax(directory, tmp_path_factory):
    out = tmp_path_factory.mktemp("orbax") / "out"
    assert main(["convert", "--model", str(directory), "--to", "orbax", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def quantized(directory):
    return {name: params_of(directory, quantization=name) for name in ("int8", "fp8", "int4")}


TYPES = {"int8": Int8Weight, "fp8": Fp8Weight, "int4": Int4Weight}


@pytest.mark.parametrize("name", TYPES)
def test_weights_are_quantized_while_they_are_loaded(name, quantized, tensors):
    params, plain = quantized[name], expected(tensors)

    for path, x in params.items():
        assert isinstance(x, TYPES[name]) == (path in KERNELS)
        error = np.abs(as_floats(x) - plain[path]).max()
        assert error == 0 if path not in KERNELS else 0 < error < np.abs(plain[path]).max() / 12


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("source", ["orbax", "numpy", "jax"])
def test_every_source_gives_the_same(source, name, quantized, orbax, directory, config):
    if source == "orbax":
        found = params_of(orbax, quantization=name)
    else:
        given = (
            params_of(directory)
            if source == "jax"
            else {p: np.asarray(x) for p, x in params_of(directory).items()}
        )
        found = params_of(config, params=unflatten(given), quantization=name)
    for path, x in quantized[name].items():
        assert type(found[path]) is type(x)
        np.testing.assert_array_equal(as_floats(found[path]), as_floats(x), err_msg=path)


@pytest.mark.parametrize("name", TYPES)
def test_loading_quantizes_as_convert_does(name, directory, quantized, tmp_path):
    assert main(["convert", "--model", str(directory), "--quantize", name, str(tmp_path / "out")]) == 0
    converted = params_of(tmp_path / "out")
    for path, x in quantized[name].items():
        assert type(converted[path]) is type(x)
        np.testing.assert_array_equal(as_floats(converted[path]), as_floats(x), err_msg=path)
        assert getattr(converted[path], "activations", None) == getattr(x, "activations", None)


@pytest.mark.parametrize("name", TYPES)
def test_random_weights_are_quantized_too(name, config, quantized):
    params = params_of(config, dummy_weights=True, quantization=name)
    for path, x in params.items():
        assert type(x) is type(quantized[name][path])
        if path in KERNELS:
            assert as_floats(x).std() == pytest.approx(0.02, rel=0.05)
            assert np.isfinite(as_floats(x)).all()


def test_an_engine_gives_the_tokens_of_the_dequantized_weights(directory, quantized, config):
    with LLM(directory, quantization="int4", **TINY_ENGINE) as llm:
        found = llm.generate(PROMPT, temperature=0, max_tokens=8, ignore_eos=True)[0].outputs[0].token_ids
    floats = unflatten({path: as_floats(x) for path, x in quantized["int4"].items()})
    with LLM(config, params=floats, **TINY_ENGINE) as llm:
        wanted = llm.generate(PROMPT, temperature=0, max_tokens=8, ignore_eos=True)[0].outputs[0].token_ids
    assert list(found) == list(wanted)
    assert len(set(found)) > 1


def test_an_engine_runs_with_activations_in_eight_bits(directory):
    with LLM(directory, quantization="fp8", **TINY_ENGINE) as llm:
        output = llm.generate(PROMPT, temperature=0, max_tokens=4, ignore_eos=True, logprobs=1)[0].outputs[0]
    assert all(np.isfinite(list(entry.values())).all() for entry in output.logprobs)


def test_what_is_quantized_already_is_not_again(tmp_path):
    write_quantized(tmp_path, Compressed(4), compressed(Compressed(4)), sizes=SIZES[32])
    with pytest.raises(
        ConfigError, match=r"quantization is given, and the weights in .* are quantized already"
    ):
        params_of(tmp_path, quantization="int8")


def test_inputs_that_no_group_divides_are_refused(tmp_path):
    write_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="groups of 128 inputs, and the products of this model have 32, 48"):
        params_of(tmp_path, quantization="int4")


def test_bfloat16_has_scales_of_four_bits_in_bfloat16(directory):
    found = params_of(directory, quantization="int4", dtype="bfloat16")
    assert found[KERNELS[0]].scales.dtype == ml_dtypes.bfloat16
