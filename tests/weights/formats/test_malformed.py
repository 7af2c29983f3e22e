"""Every entry of a configuration and every tensor of a module, replaced by what does not belong there: it is
read, or refused with an error of jinfer's."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jinfer.errors import CheckpointError, UnsupportedModelError
from jinfer.weights.formats.format_choice import read_format
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.safetensors_file import read_header
from tests.weights.formats.packers import Compressed, Gptq, Module, awq, fp8, mxfp4_blocks, mxfp4_packed

JUNK = (
    None,
    True,
    0,
    -1,
    3,
    3.5,
    "x",
    "re:(",
    [],
    [1],
    ["("],
    [None],
    {},
    {"a": 1},
    {"(": {}},
    10**30,
    float("nan"),
)
WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": False,
    "strategy": "group",
    "group_size": 32,
    "block_structure": None,
    "actorder": "group",
}
MXFP4_WEIGHTS = {
    "num_bits": 4,
    "type": "float",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "scale_dtype": "torch.uint8",
}
GROUPS = {"group_0": {"targets": ["Linear"], "weights": WEIGHTS, "format": "pack-quantized"}}


def blocks(*arguments) -> Module:
    """By the parts of names that the format has."""
    made = mxfp4_blocks(*arguments)
    return Module({name.removeprefix("weight_"): x for name, x in made.tensors.items()}, made.weight)


CASES = {
    "mxfp4": (blocks, {"modules_to_not_convert": ["lm_head"]}),
    "mxfp4 of compressed-tensors": (
        mxfp4_packed,
        {
            "quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": MXFP4_WEIGHTS}},
            "ignore": ["lm_head"],
        },
    ),
    "awq": (
        partial(awq, group_size=32),
        {"bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": None},
    ),
    "gptq": (
        Gptq(desc_act=True),
        {
            "bits": 4,
            "group_size": 32,
            "desc_act": True,
            "sym": False,
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
            "is_marlin_format": False,
            "dynamic": {"-:x": {}},
        },
    ),
    "compressed-tensors": (
        Compressed(4, symmetric=False, actorder=True),
        {
            "format": "pack-quantized",
            "config_groups": GROUPS,
            "ignore": ["lm_head"],
            "sparsity_config": {"format": "dense"},
            "transform_config": {"config_groups": {}},
        },
    ),
    "fp8": (
        partial(fp8, block=(16, 32)),
        {
            "weight_block_size": [16, 32],
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "modules_to_not_convert": [],
            "ignored_layers": [],
        },
    ),
}


def variants(value):
    """The value with each part of it replaced, and the value replaced as a whole."""
    yield from JUNK
    if isinstance(value, dict):
        for name in value:
            yield from ({**value, name: other} for other in variants(value[name]))


@pytest.mark.parametrize("method", CASES)
def test_a_configuration_is_read_or_refused(method):
    config = {"quant_method": method, **CASES[method][1]}
    messages = []
    for changed in variants(config):
        try:
            read_format({"quantization_config": changed})
        except UnsupportedModelError as error:
            messages.append(str(error))
    assert len(messages) > 5 * len(config)
    assert all("quantization_config" in message for message in messages)


def others(tensor):
    """Tensors of other dtypes, sizes and numbers of dimensions."""
    yield from (
        tensor.astype(dtype) for dtype in (np.int8, np.int16, np.float64, np.int64, ml_dtypes.bfloat16)
    )
    yield from (
        np.zeros(shape, tensor.dtype) for shape in ((), (0,), (1,), (0, 0), (1, 1), (64, 64), (2, 2, 2))
    )
    yield from (
        np.concatenate([tensor, tensor]),
        tensor[:1],
        np.expand_dims(tensor, 0),
        np.zeros_like(tensor),
    )


@pytest.mark.parametrize("method", CASES)
def test_a_module_is_read_or_refused(method, tmp_path):
    pack, config = CASES[method]
    stored_as = read_format({"quantization_config": {"quant_method": method, **config}})
    made = pack(np.random.default_rng(0), 64, 64)
    messages = []
    for leaf, tensor in made.tensors.items():
        for number, other in enumerate(others(tensor)):
            file = tmp_path / f"{leaf}-{number}.safetensors"
            save_file({**made.tensors, leaf: np.ascontiguousarray(other).reshape(other.shape)}, file)
            try:
                weight = stored_as.weight(ModuleTensors("m", read_header(file)))
            except CheckpointError as error:
                messages.append(str(error))
            else:
                read_all(weight)
    assert len(messages) > 5 * len(made.tensors)
    assert all(message.startswith("m") for message in messages)


def read_all(weight):
    if weight is not None:
        out = np.empty(weight.num_bytes, np.uint8)
        weight.read_rows(0, out)
        assert weight.checkpoint_shape == weight.shape[:: -1 if weight.is_turned else 1]


@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_a_module_of_no_size_is_refused_where_one_group_is_all_of_it(shape, method, tmp_path):
    stored_as = read_format({"quantization_config": {"quant_method": method, "bits": 4, "group_size": -1}})
    tensors = {leaf: np.zeros(shape, np.int32) for leaf in ("qweight", "qzeros")}
    save_file({**tensors, "scales": np.zeros(shape, np.float16)}, tmp_path / "x.safetensors")

    with pytest.raises(CheckpointError, match="qweight has shape"):
        stored_as.weight(ModuleTensors("m", read_header(tmp_path / "x.safetensors")))
