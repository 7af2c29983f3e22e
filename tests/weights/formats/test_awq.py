"""AWQ: every weight bit for bit that of the definition, loaded as an engine loads it."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest

from jinfer.weights import streaming
from tests.weights.formats.checkpoints import SIZES, write_quantized
from tests.weights.formats.packers import awq, awq_packed
from tests.weights.loaded import assert_same, expected, loaded, raised

Q_PROJ = "model.layers.0.self_attn.q_proj"


def config(group_size=64, **changes):
    return {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm", **changes}


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_weights_are_those_of_the_definition(group_size, zero_point, tmp_path):
    pack = partial(awq, group_size=group_size, zero_point=zero_point)
    given = config(group_size, zero_point=zero_point)
    made = write_quantized(tmp_path, pack, given, sizes=SIZES[group_size])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_the_golden_word():
    assert awq_packed(np.arange(8)[None]).view(np.uint32).tolist() == [[0x75316420]]


@pytest.mark.parametrize("buffer_bytes", [1, 5000])
def test_weights_do_not_depend_on_the_chunks(buffer_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    made = write_quantized(tmp_path, partial(awq, group_size=32), config(32), sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_codes_and_scales_do_not_depend_on_the_dtype_of_the_engine(tmp_path):
    made = write_quantized(tmp_path, partial(awq, group_size=64), config())

    wanted = {
        path: x if path.split("/")[0] in ("attention", "mlp") else x.astype(ml_dtypes.bfloat16)
        for path, x in expected(made.weights, 1).items()
    }
    assert_same(loaded(tmp_path, dtype="bfloat16"), wanted)


def test_older_names_mean_the_same(tmp_path):
    given = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM", "backend": "autoawq"}
    made = write_quantized(tmp_path, partial(awq, group_size=64), given)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("names", [["self_attn"], ["mlp.gate", "q_proj", "k_proj", "v_proj", "o_proj"]])
def test_modules_that_are_not_converted_are_plain(names, tmp_path):
    given = config(modules_to_not_convert=names)
    made = write_quantized(tmp_path, partial(awq, group_size=64), given, leave=("self_attn", "lm_head"))

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_a_bias_stays_as_it_is(tmp_path):
    bias = {
        f"model.layers.0.self_attn.{name}.bias": np.arange(n, dtype=np.float16)
        for name, n in {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}.items()
    }
    made = write_quantized(tmp_path, partial(awq, group_size=64), config(), changes=bias, attention_bias=True)

    params = loaded(tmp_path)
    joined = np.concatenate(
        [bias[f"model.layers.0.self_attn.{name}.bias"] for name in ("q_proj", "k_proj", "v_proj")]
    )
    np.testing.assert_array_equal(params["attention/qkv/bias"], joined[None].astype(np.float32))
    np.testing.assert_array_equal(
        params["attention/qkv/kernel"], expected(made.weights, 1)["attention/qkv/kernel"]
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": None}, "scales is missing"),
        ({"qzeros": None}, "qzeros is missing"),
        ({"scales": np.ones((2, 64), np.float16)}, "scales has shape (2, 64), and its format needs (1, 64)"),
        (
            {"scales": np.ones((1, 64), np.int32)},
            "scales has dtype I32, and its format needs BF16 or F16 or F32",
        ),
        ({"qweight": np.ones((64, 8), np.int8)}, "qweight has dtype I8, and its format needs I32"),
        ({"qweight": np.ones(64, np.int32)}, "qweight has shape (64,), and its format needs two dimensions"),
        ({"qzeros": np.ones((1, 4), np.int32)}, "qzeros has shape (1, 4), and its format needs (1, 8)"),
    ],
)
def test_a_fault_is_named(changes, said, tmp_path):
    changes = {f"{Q_PROJ}.{leaf}": tensor for leaf, tensor in changes.items()}
    write_quantized(tmp_path, partial(awq, group_size=64), config(), changes=changes)

    assert f"{Q_PROJ}.{said}" in raised(tmp_path)


def test_all_faults_are_in_one_message(tmp_path):
    gone = [f"model.layers.0.mlp.{name}.scales" for name in ("up_proj", "down_proj")]
    write_quantized(tmp_path, partial(awq, group_size=64), config(), changes=dict.fromkeys(gone))

    message = raised(tmp_path)
    assert all(f"{name} is missing" in message for name in gone)


def test_a_weight_of_another_shape_than_the_models_is_named(tmp_path):
    other = awq(np.random.default_rng(0), 32, 64, 64).tensors
    changes = {f"{Q_PROJ}.{leaf}": tensor for leaf, tensor in other.items()}
    write_quantized(tmp_path, partial(awq, group_size=64), config(), changes=changes)

    assert "have shapes (32, 64), (32, 64), (32, 64), but must have 128 rows" in raised(tmp_path)


def test_groups_that_do_not_divide_the_inputs_are_refused(tmp_path):
    write_quantized(tmp_path, partial(awq, group_size=64), config(48))

    assert "has 64 input features, no multiple of group_size 48" in raised(tmp_path)


def test_a_module_that_is_listed_as_plain_and_is_not_is_refused(tmp_path):
    given = config(modules_to_not_convert=["q_proj"])
    write_quantized(tmp_path, partial(awq, group_size=64), given)

    assert f"{Q_PROJ} is stored as AWQ, and modules_to_not_convert names it" in raised(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 3}, "bits 3"),
        ({"bits": 8}, "bits 8"),
        ({"version": "gemv"}, "version 'gemv'"),
        ({"version": "gemv_fast"}, "version 'gemv_fast'"),
        ({"version": "marlin"}, "version 'marlin'"),
        ({"group_size": 0}, "group_size 0"),
        ({"group_size": "128"}, "group_size '128'"),
        ({"zero_point": 1}, "zero_point 1"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert 'lm_head'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, said, tmp_path):
    write_quantized(tmp_path, partial(awq, group_size=64), config(**changes))

    assert f"quantization_config of config.json has {said}" in raised(tmp_path)
