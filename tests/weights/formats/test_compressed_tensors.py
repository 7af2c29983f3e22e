"""compressed-tensors: every weight bit for bit that of the definition, loaded as an engine loads it."""

import logging

import numpy as np
import pytest

from jinfer.weights import streaming
from tests.weights.formats.checkpoints import HEAD, ODD, SIZES, write_quantized
from tests.weights.formats.packers import Compressed, packed
from tests.weights.loaded import assert_same, expected, loaded, raised

Q_PROJ = "model.layers.0.self_attn.q_proj"


def args(pack, **changes):
    entries = {
        "num_bits": pack.bits,
        "type": pack.kind,
        "symmetric": pack.symmetric,
        "strategy": pack.strategy,
        "group_size": pack.group_size if pack.strategy == "group" else None,
        "block_structure": list(pack.block) if pack.strategy == "block" else None,
        "actorder": "group" if pack.actorder else None,
        "dynamic": False,
        "observer": "minmax",
    }
    return {**entries, **changes}


def name_of(pack):
    return "pack-quantized" if pack.is_packed and pack.kind == "int" else f"{pack.kind}-quantized"


def config(pack, *, ignore=(HEAD,), targets=("Linear",), weights=None, **changes):
    weights = args(pack) if weights is None else weights
    groups = {"group_0": {"targets": list(targets), "weights": weights, "input_activations": None}}
    return {
        "quant_method": "compressed-tensors",
        "format": name_of(pack),
        "config_groups": groups,
        "ignore": list(ignore),
        **changes,
    }


def check(tmp_path, pack, sizes, **changes):
    made = write_quantized(tmp_path, pack, config(pack, **changes), sizes=sizes)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("actorder", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_packed_groups(group_size, symmetric, actorder, tmp_path):
    check(
        tmp_path,
        Compressed(4, group_size=group_size, symmetric=symmetric, actorder=actorder),
        SIZES[group_size],
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["group", "channel", "tensor"])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_integers_whose_sizes_no_word_divides(bits, strategy, symmetric, tmp_path):
    check(tmp_path, Compressed(bits, strategy=strategy, symmetric=symmetric), ODD)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_of_old_releases(bits, tmp_path):
    check(tmp_path, Compressed(bits, symmetric=False, old_zero_points=True), SIZES[32])


def test_the_golden_word():
    assert packed(np.arange(-8, 0)[None] + 8, 4).view(np.uint32).tolist() == [[0x76543210]]


@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["group", "channel", "tensor", "block"])
def test_plain_integers(strategy, symmetric, scale_dtype, tmp_path):
    pack = Compressed(
        8, strategy=strategy, block=(16, 24), symmetric=symmetric, is_packed=False, scale_dtype=scale_dtype
    )
    check(tmp_path, pack, ODD)


@pytest.mark.parametrize("stored_as", ["float-quantized", "naive-quantized"])
@pytest.mark.parametrize("flat_scale", [True, False])
@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_floats(strategy, flat_scale, stored_as, tmp_path):
    pack = Compressed(8, "float", strategy, scale_dtype=np.float32, flat_scale=flat_scale)
    check(tmp_path, pack, ODD, format=stored_as)


@pytest.mark.parametrize("block", [[128, 128], "128x128"])
def test_blocks_of_floats_whose_edges_are_partly_filled(block, tmp_path):
    pack = Compressed(8, "float", "block", scale_dtype=np.float32)
    sizes = {"hidden_size": 136, "head_dim": 34, "intermediate_size": 200}
    check(tmp_path, pack, sizes, weights=args(pack, block_structure=block))


@pytest.mark.parametrize("buffer_bytes", [777])
def test_weights_do_not_depend_on_the_chunks(buffer_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    check(tmp_path, Compressed(4, symmetric=False, actorder=True), SIZES[32])


def test_a_strategy_may_follow_from_the_group_size(tmp_path):
    pack = Compressed(4, group_size=32)
    check(tmp_path, pack, SIZES[32], weights={"num_bits": 4, "type": "int", "group_size": 32})


def test_groups_that_nobody_filled_are_in_order(tmp_path):
    pack = Compressed(4)
    changes = {f"{Q_PROJ}.weight_g_idx": np.full(96, -1, np.int32)}
    made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32], changes=changes)

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("ignore", [["model.layers.0.mlp.gate_proj"], ["re:.*gate_proj$"], ["re:.*mlp.gate"]])
def test_modules_that_are_ignored_are_plain(ignore, tmp_path):
    pack = Compressed(4)
    given = config(pack, ignore=[HEAD, *ignore])
    made = write_quantized(tmp_path, pack, given, sizes=SIZES[32], leave=(HEAD, "gate_proj"))

    assert_same(loaded(tmp_path), expected(made.weights, 1))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj", "re:.*q_proj"])
def test_a_closer_target_goes_before_a_class_wherever_it_stands(name, tmp_path):
    """A name before a pattern, and a pattern before a class: the scheme of the first group is another."""
    packs = {"mlp": Compressed(8), "self_attn": Compressed(4, "int", "channel", is_packed=False)}
    groups = {
        "group_0": {"targets": ["Linear"], "weights": args(packs["mlp"]), "format": "pack-quantized"},
        "group_1": {
            "targets": ["re:.*[kvo]_proj"],
            "weights": args(packs["self_attn"]),
            "format": "int-quantized",
        },
        "group_2": {"targets": [name], "weights": args(packs["self_attn"]), "format": "int-quantized"},
    }
    given = {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "config_groups": groups,
        "ignore": [HEAD],
    }
    made = write_quantized(tmp_path / "mlp", packs["mlp"], given, sizes=SIZES[32])
    other = write_quantized(tmp_path / "attention", packs["self_attn"], given, sizes=SIZES[32])
    gone = {name: None for name in made.tensors if "self_attn" in name}
    attention = {name: x for name, x in other.tensors.items() if "self_attn" in name}
    write_quantized(tmp_path, packs["mlp"], given, sizes=SIZES[32], changes={**gone, **attention})

    weights = {n: other.weights[n] if "self_attn" in n else x for n, x in made.weights.items()}
    assert_same(loaded(tmp_path), expected(weights, 1))


def test_what_belongs_to_activations_and_the_cache_is_not_applied_and_said(tmp_path, caplog):
    pack = Compressed(8, "float", "tensor", scale_dtype=np.float32)
    one = np.ones(1, np.float32)
    names = ("k_scale", "v_scale", "k_proj.output_scale", "q_scale")
    changes = {f"model.layers.0.self_attn.{name}": one for name in names}
    with caplog.at_level(logging.INFO, logger="jinfer"):
        made = write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32], changes=changes)
        params = loaded(tmp_path)

    assert_same(params, expected(made.weights, 1))
    assert all(name in caplog.text for name in names)
    assert "not applied, since what they belong to is not quantized" in caplog.text
    assert "not applied: quantization_config of config.json has no kv_cache_scheme" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight_scale": None}, ".weight_scale is missing"),
        ({"weight_shape": None}, ".weight_shape is missing"),
        ({"weight_shape": np.array([96, 0])}, " has weight_shape [96, 0]"),
        ({"weight_zero_point": None}, ".weight_zero_point is missing"),
        ({"weight_g_idx": None}, ".weight_g_idx is missing"),
        (
            {"weight_scale": np.ones((96, 1), np.float32)},
            ".weight_scale has shape (96, 1), and its format needs (96, 3)",
        ),
        (
            {"weight_shape": np.array([96, 97])},
            ".weight_packed has shape (96, 12), and its format needs (96, 13)",
        ),
        (
            {"weight_zero_point": np.ones((96, 3), np.int32)},
            ".weight_zero_point has shape (96, 3), and its format needs (12, 3)",
        ),
        ({"weight_g_idx": np.full(96, 3, np.int32)}, ".weight_g_idx names groups 3 to 3 of 3"),
    ],
)
def test_a_fault_is_named(changes, said, tmp_path):
    pack = Compressed(4, symmetric=False, actorder=True)
    changes = {f"{Q_PROJ}.{leaf}": tensor for leaf, tensor in changes.items()}
    write_quantized(tmp_path, pack, config(pack), sizes=SIZES[32], changes=changes)

    assert f"{Q_PROJ}{said}" in raised(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ignore": [HEAD, "re:.*q_proj"]}, "is stored quantized, and `ignore` names it"),
        ({"targets": ["re:.*mlp"]}, "is stored quantized, and no `targets` of config_groups name it"),
    ],
)
def test_a_module_that_the_configuration_leaves_out_and_is_stored_packed_is_refused(changes, said, tmp_path):
    pack = Compressed(4)
    write_quantized(tmp_path, pack, config(pack, **changes), sizes=SIZES[32])

    assert f"{Q_PROJ} {said}" in raised(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ({"format": "mxfp8-quantized"}, "format 'mxfp8-quantized'"),
        ({"format": "marlin-24"}, "format 'marlin-24'"),
        ({"config_groups": {}}, "config_groups {}"),
        ({"config_groups": None}, "config_groups None"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "format 'sparse-24-bitmask'"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"weights": {"num_bits": 3}}, "num_bits 3"),
        ({"weights": {"num_bits": 4, "type": "float"}}, "num_bits 4"),
        ({"weights": {"type": "uint"}}, "type 'uint'"),
        ({"weights": {"strategy": "tensor_group"}}, "strategy 'tensor_group'"),
        ({"weights": {"strategy": "group"}}, "no 'group_size'"),
        ({"weights": {"strategy": "block"}}, "no 'block_structure'"),
        ({"weights": {"block_structure": [0, 128]}}, "block_structure [0, 128]"),
        ({"weights": {"actorder": "best"}}, "actorder 'best'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, said, tmp_path):
    pack = Compressed(4)
    write_quantized(tmp_path, pack, config(pack, **changes), sizes=SIZES[32])

    message = raised(tmp_path)
    assert f"has {said}" in message
    assert "quantization_config of config.json" in message
