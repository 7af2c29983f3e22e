"""GPTQ: every weight bit for bit that of the definition, loaded as an engine loads it."""

import ml_dtypes
import numpy as np
import pytest

from jinfer.weights import streaming
from tests.checkpoints import write_json
from tests.weights.formats.checkpoints import HEAD, SIZES, UNEVEN, write_quantized
from tests.weights.formats.packers import Gptq, InputOrder, own_order, packed
from tests.weights.loaded import assert_same, expected, loaded, raised

Q_PROJ = "model.layers.0.self_attn.q_proj"


def config(pack, **changes):
    version = {} if pack.version == 1 else {"checkpoint_format": "gptq_v2"}
    entries = {"bits": pack.bits, "group_size": pack.group_size, "desc_act": pack.desc_act, "sym": pack.sym}
    return {"quant_method": "gptq", **entries, **version, **changes}


@pytest.mark.parametrize("order", [None, own_order, InputOrder()], ids=["", "own", "common"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_weights_are_those_of_the_definition(group_size, bits, order, tmp_path):
    pack = Gptq(bits, group_size, desc_act=order is not None, order=order or own_order)
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[group_size])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [4, 8])
def test_both_versions_have_their_zero_points(bits, version, sym, tmp_path):
    """Zero points over all of their range: the highest stored one of the first version stands for 0."""
    pack = Gptq(bits, sym=sym, version=version)
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_the_golden_words():
    assert packed(np.arange(8)[None], 4).view(np.uint32).tolist() == [[0x76543210]]
    rng = np.random.default_rng(0)
    for bits, version, word in [(4, 1, 0x77777777), (8, 1, 0x7F7F7F7F), (4, 2, 0x88888888)]:
        zeros = Gptq(bits, sym=True, version=version)(rng, 32, 32).tensors["qzeros"]
        assert set(zeros.view(np.uint32).ravel().tolist()) == {word}


@pytest.mark.parametrize("order", [None, own_order, InputOrder()], ids=["", "own", "common"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_last_group_and_the_last_word_may_be_partly_filled(bits, order, tmp_path):
    pack = Gptq(bits, 32, desc_act=order is not None, order=order or own_order)
    made = write_quantized(tmp_path, pack, config(pack), sizes=UNEVEN)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("buffer_bytes", [777, 5000])
def test_weights_do_not_depend_on_the_chunks(buffer_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    pack = Gptq(desc_act=True, order=InputOrder())
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_scales_may_be_of_any_float(dtype, tmp_path):
    pack = Gptq(scale_dtype=dtype)
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_a_g_idx_may_be_left_out_where_groups_are_in_order(tmp_path):
    pack = Gptq(with_g_idx=False)
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32])

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_head_may_be_quantized(is_tied, tmp_path):
    """Beside the embedding of a tied model as well: its values are others."""
    pack = Gptq()
    made = write_quantized(tmp_path, pack, config(pack, lm_head=True), sizes=SIZES[32], leave=())
    assert f"{HEAD}.qweight" in made.tensors
    write_json(tmp_path / "config.json", {**made.config, "tie_word_embeddings": is_tied})

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_a_bias_of_zeros_that_the_model_does_not_have_is_left_out(tmp_path):
    pack = Gptq()
    bias = {f"{Q_PROJ}.bias": np.zeros(96, np.float16)}
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32], changes=bias)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


def test_dynamic_gives_modules_their_own_scheme_and_the_first_that_matches_counts(tmp_path):
    plain, other = Gptq(4, 64), Gptq(8, 32)
    dynamic = {
        "-:.*o_proj": {},
        r"+:.*\.mlp\.down": {"bits": 8, "group_size": 32},
        r".*\.mlp\.": {},
        ".*": {"bits": 4},
    }
    made = write_quantized(
        tmp_path, plain, config(plain, dynamic=dynamic), leave=(HEAD, "o_proj", "down_proj")
    )
    down = other(np.random.default_rng(3), 64, 192)
    name = "model.layers.0.mlp.down_proj"
    changes = {f"{name}.weight": None, **{f"{name}.{leaf}": x for leaf, x in down.tensors.items()}}
    write_quantized(
        tmp_path, plain, config(plain, dynamic=dynamic), leave=(HEAD, "o_proj", "down_proj"), changes=changes
    )

    assert_same(loaded(tmp_path), expected({**made.weights, f"{name}.weight": down.weight}, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": None}, ".scales is missing"),
        ({"qzeros": None}, ".qzeros is missing"),
        ({"g_idx": None}, ".g_idx is missing"),
        ({"scales": np.ones((1, 96), np.float16)}, ".scales has shape (1, 96), and its format needs (3, 96)"),
        ({"qzeros": np.ones((3, 96), np.int32)}, ".qzeros has shape (3, 96), and its format needs (3, 12)"),
        ({"qweight": np.ones((12, 96), np.int64)}, ".qweight has dtype I64, and its format needs I32"),
        ({"g_idx": np.zeros(95, np.int32)}, ".g_idx has shape (95,), and its format needs (96,)"),
        ({"g_idx": np.full(96, 3, np.int32)}, ".g_idx names groups 3 to 3 of 3"),
        ({"g_idx": np.full(96, -1, np.int32)}, ".g_idx names groups -1 to -1 of 3"),
    ],
)
def test_a_fault_is_named(changes, said, tmp_path):
    pack = Gptq(desc_act=True)
    changes = {f"{Q_PROJ}.{leaf}": tensor for leaf, tensor in changes.items()}
    write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32], changes=changes)

    assert f"{Q_PROJ}{said}" in raised(tmp_path)


def test_an_order_that_the_configuration_denies_is_refused(tmp_path):
    pack = Gptq(desc_act=True)
    write_quantized(tmp_path, pack, config(pack, desc_act=False), sizes=SIZES[32])

    assert f"{Q_PROJ} has a g_idx in another order" in raised(tmp_path)


def test_a_module_that_is_left_out_and_stored_packed_is_refused(tmp_path):
    pack = Gptq()
    write_quantized(tmp_path, pack, config(pack, dynamic={"-:.*q_proj": {}}), sizes=SIZES[32])

    assert f"{Q_PROJ} is stored as GPTQ, and `dynamic` leaves it out" in raised(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 2}, "bits 2"),
        ({"bits": 3}, "bits 3"),
        ({"bits": None}, "no 'bits'"),
        ({"group_size": -2}, "group_size -2"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"checkpoint_format": "bitblas"}, "checkpoint_format 'bitblas'"),
        ({"is_marlin_format": True}, "is_marlin_format True"),
        ({"pack_dtype": "int16"}, "pack_dtype 'int16'"),
        ({"desc_act": "yes"}, "desc_act 'yes'"),
        ({"sym": 1}, "sym 1"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, said, tmp_path):
    pack = Gptq()
    write_quantized(tmp_path, pack, config(pack, **changes), sizes=SIZES[32])

    assert f"quantization_config of config.json has {said}" in raised(tmp_path)


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({".*q_proj": {"bits": 3}}, "of dynamic of quantization_config of config.json has bits 3"),
        (
            {"-:(": {}},
            "dynamic of quantization_config of config.json has '(', which is no regular expression",
        ),
    ],
)
def test_a_rule_of_dynamic_is_checked(dynamic, said, tmp_path):
    pack = Gptq()
    write_quantized(tmp_path, pack, config(pack, dynamic=dynamic), sizes=SIZES[32])

    message = raised(tmp_path)
    assert said.removeprefix("of ") in message
