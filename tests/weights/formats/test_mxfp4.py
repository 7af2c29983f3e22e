"""mxfp4: every weight bit for bit that of the definition, as gpt-oss and as compressed-tensors store it."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jinfer.errors import CheckpointError, UnsupportedModelError
from jinfer.weights import streaming
from jinfer.weights.formats.checkpoint_format import dequantized
from jinfer.weights.formats.format_choice import read_format
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.safetensors_file import read_header
from tests.weights.formats.checkpoints import HEAD, SIZES, write_quantized
from tests.weights.formats.packers import E2M1, mxfp4_arrays, mxfp4_blocks, mxfp4_packed
from tests.weights.loaded import assert_same, expected, loaded, raised

Q_PROJ = "model.layers.0.self_attn.q_proj"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"
BLOCKS = {"quant_method": "mxfp4"}
ARGS = {
    "num_bits": 4,
    "type": "float",
    "strategy": "group",
    "group_size": 32,
    "symmetric": True,
    "dynamic": False,
    "scale_dtype": "torch.uint8",
}


def compressed(**changes):
    group = {"targets": ["Linear"], "weights": {**ARGS, **changes}, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "mxfp4-pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": [HEAD],
    }


@pytest.fixture
def rng():
    return np.random.default_rng(7)


FORMATS = {"gpt-oss": (mxfp4_blocks, BLOCKS), "compressed-tensors": (mxfp4_packed, compressed())}


@pytest.mark.parametrize("buffer_bytes", [None, 777])
@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_those_of_the_definition(name, buffer_bytes, tmp_path, monkeypatch):
    if buffer_bytes is not None:
        monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    made = write_quantized(tmp_path, *FORMATS[name], sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_inputs_that_no_scale_divides(tmp_path):
    """compressed-tensors alone can store them."""
    made = write_quantized(tmp_path, mxfp4_packed, compressed(), sizes=SIZES[-1])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_codes_do_not_depend_on_the_dtype_of_the_engine(tmp_path):
    made = write_quantized(tmp_path, mxfp4_blocks, BLOCKS, sizes=SIZES[32])

    wanted = {
        path: x if path.split("/")[0] in ("attention", "mlp") else x.astype(ml_dtypes.bfloat16)
        for path, x in expected(made.weights, 1).items()
    }
    assert_same(loaded(tmp_path, dtype="bfloat16"), wanted)


def floats_of(tmp_path, tensors, config=BLOCKS):
    """The tensors of floats that stored ones stand for."""
    save_file(tensors, tmp_path / "x.safetensors")
    stored_as = read_format({"quantization_config": config})
    return dequantized(TensorFiles(tmp_path, read_header(tmp_path / "x.safetensors")), stored_as).tensors


def values_of(tensor):
    out = np.empty(tensor.num_bytes, np.uint8)
    tensor.read_rows(0, out)
    return out.view(np.float32).reshape(tensor.shape)


def test_golden_bytes(tmp_path):
    """The low four bits come first; 129 is a factor of 4."""
    blocks = (np.arange(0, 16, 2) | np.arange(1, 16, 2) << 4).astype(np.uint8)
    assert blocks.tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    tensors = {"w_blocks": np.tile(blocks, 2).reshape(1, 1, 16), "w_scales": np.asarray([[129]], np.uint8)}
    (weight,) = floats_of(tmp_path, tensors).values()
    wanted = np.asarray([*E2M1, *E2M1], np.float32) * 4
    np.testing.assert_array_equal(values_of(weight)[0].view(np.uint32), wanted.view(np.uint32))


def experts(rng, *leading):
    codes, scales, weight = mxfp4_arrays(rng, *leading, 6, 64)
    tensors = {f"{EXPERTS}_blocks": codes.reshape(*scales.shape, 16), f"{EXPERTS}_scales": scales}
    return tensors, weight


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3)])
def test_a_stack_is_the_parameter_that_multiplies_from_the_right(leading, tmp_path, rng):
    """[..., in, out], as gpt-oss has its experts in floats. What is stored plainly stays."""
    tensors, weight = experts(rng, *leading)
    bias = np.ones((*leading, 6), ml_dtypes.bfloat16)
    found = floats_of(tmp_path, {**tensors, f"{EXPERTS}_bias": bias})

    assert sorted(found) == [EXPERTS, f"{EXPERTS}_bias"]
    stack = found[EXPERTS]
    assert stack.shape == stack.checkpoint_shape == (*leading, 64, 6)
    wanted = weight.swapaxes(-1, -2)
    np.testing.assert_array_equal(values_of(stack).view(np.uint32), wanted.view(np.uint32))
    piece = np.empty(1001, np.uint8)
    stack.read_bytes(503, piece)
    np.testing.assert_array_equal(piece, np.frombuffer(wanted.tobytes(), np.uint8)[503 : 503 + 1001])


def test_the_published_configuration_is_read(shared_data):
    config = json.loads((shared_data / "configs" / "gpt-oss-20b" / "config.json").read_text())
    assert read_format(config).title == "mxfp4"


@pytest.mark.parametrize(
    "pattern",
    ["model.layers.*.self_attn", "model.layers.0", "self_attn.q_proj", "model.layers.0.self_attn.q_pro."],
)
def test_a_module_that_is_not_converted_and_stored_so_is_refused(pattern, tmp_path):
    given = {**BLOCKS, "modules_to_not_convert": ["model.layers.*.mlp.router", pattern]}
    write_quantized(tmp_path, mxfp4_blocks, given, sizes=SIZES[32])

    assert f"{Q_PROJ}.weight is stored as mxfp4, and modules_to_not_convert names it" in raised(tmp_path)


@pytest.mark.parametrize("pattern", ["model.layers.*.self_at", "model.layers.*.q_proj.w", "attn.q"])
def test_a_part_of_a_name_is_not_the_module(pattern, tmp_path):
    given = {**BLOCKS, "modules_to_not_convert": [pattern, HEAD]}
    made = write_quantized(tmp_path, mxfp4_blocks, given, sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize(
    ("name", "leaf"), [("gpt-oss", "weight_scales"), ("compressed-tensors", "weight_scale")]
)
def test_a_scale_that_is_no_number_is_refused(name, leaf, tmp_path):
    scales = np.full((96, 3), 120, np.uint8)
    scales[70, 2] = 255
    write_quantized(tmp_path, *FORMATS[name], sizes=SIZES[32], changes={f"{Q_PROJ}.{leaf}": scales})

    message = raised(tmp_path)
    assert (
        f"{Q_PROJ}.{leaf} has the scale 255, which is NaN, in row 70 and column 2; fetch it again" in message
    )


@pytest.mark.parametrize("leading", [(), (3,)])
def test_a_scale_that_is_no_number_is_refused_in_floats(leading, tmp_path, rng):
    tensors, _ = experts(rng, *leading)
    tensors[f"{EXPERTS}_scales"][..., 1, 0] = 255
    (weight,) = floats_of(tmp_path, tensors).values()
    with pytest.raises(CheckpointError, match=f"{EXPERTS}_scales has the scale 255, which is NaN, in row 1 "):
        values_of(weight)


U8 = np.uint8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": None}, "_scales is missing"),
        ({"scales": np.zeros((6, 2), np.int8)}, "_scales has dtype I8, and its format needs U8"),
        ({"scales": np.zeros((6, 3), U8)}, "_scales has shape (6, 3), and its format needs (6, 2)"),
        ({"blocks": np.zeros((6, 2, 8), U8)}, "_blocks has shape (6, 2, 8), and its format needs [..., 16]"),
        ({"blocks": np.zeros((2, 16), U8)}, "_blocks has shape (2, 16), and its format needs [..., 16]"),
        (
            {"blocks": np.zeros((0, 2, 16), U8)},
            "_blocks has shape (0, 2, 16), and its format needs [..., 16]",
        ),
        ({"blocks": np.zeros((6, 2, 16), np.int8)}, "_blocks has dtype I8, and its format needs U8"),
    ],
)
def test_a_fault_is_named(changes, said, tmp_path, rng):
    tensors, _ = experts(rng)
    tensors |= {f"{EXPERTS}_{leaf}": array for leaf, array in changes.items()}
    with pytest.raises(CheckpointError) as caught:
        floats_of(tmp_path, {name: array for name, array in tensors.items() if array is not None})
    assert f"{EXPERTS}{said}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_bits": 8}, "num_bits 8"),
        ({"type": "int"}, "type 'int'"),
        ({"group_size": 16}, "group_size 16"),
        ({"strategy": "tensor_group"}, "strategy 'tensor_group'"),
        ({"symmetric": False}, "symmetric False"),
        ({"scale_dtype": "torch.float8_e4m3fn"}, "scale_dtype 'torch.float8_e4m3fn'"),
        ({"actorder": "group"}, "actorder True"),
    ],
)
def test_other_schemes_are_refused_by_name(changes, said):
    with pytest.raises(UnsupportedModelError) as caught:
        read_format({"quantization_config": compressed(**changes)})
    assert f"has {said}, of which jinfer reads" in str(caught.value)


@pytest.mark.oracle
@pytest.mark.usefixtures("one_torch_thread")
class TestOracles:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_experts_are_those_of_transformers(self, dtype, tmp_path, rng):
        torch = pytest.importorskip("torch", reason="it computes what is right; install jinfer[oracle]")
        mxfp4 = pytest.importorskip("transformers.integrations.mxfp4", reason="install jinfer[oracle]")
        tensors, _ = experts(rng, 3)
        blocks, scales = (torch.from_numpy(array) for array in tensors.values())
        theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=getattr(torch, dtype)).float().numpy()
        ours = values_of(floats_of(tmp_path, tensors)[EXPERTS])
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))

    def test_linears_are_those_of_compressed_tensors(self, tmp_path, rng):
        torch = pytest.importorskip("torch", reason="it computes what is right; install jinfer[oracle]")
        reason = "it reads what is stored; install jinfer[oracle]"
        compressors = pytest.importorskip("compressed_tensors.compressors", reason=reason)
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

        made = mxfp4_packed(rng, 6, 64)
        args = QuantizationArgs(**{**ARGS, "scale_dtype": torch.uint8})
        theirs = compressors.MXFP4PackedCompressor.decompress(
            {name: torch.from_numpy(array) for name, array in made.tensors.items()},
            QuantizationScheme(targets=["Linear"], weights=args),
        )
        tensors = {f"m.{name}": array for name, array in made.tensors.items()}
        ours = values_of(floats_of(tmp_path, tensors, compressed())["m.weight"])
        np.testing.assert_array_equal(ours, theirs["weight"].float().numpy())


def test_a_matrix_of_a_stack_is_read_by_itself(tmp_path, rng):
    tensors, weight = experts(rng, 3)
    stack = floats_of(tmp_path, tensors)[EXPERTS]
    out = np.empty(weight[0].nbytes, np.uint8)
    stack.read_rows(2, out)
    np.testing.assert_array_equal(out.view(np.float32).reshape(64, 6), weight[2].T)
