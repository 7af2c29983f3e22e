"""Calibrated scales of the KV cache: where they are stored, which are used, and what is refused."""

import logging

import ml_dtypes
import numpy as np
import pytest

from jinfer import LLM
from tests.calibrated_cache import K_SCALES, SCHEME, V_SCALES, scale_tensors, write_calibrated
from tests.checkpoints import TINY_ENGINE
from tests.weights.loaded import assert_same, expected, loaded

HEADS = np.concatenate([K_SCALES, V_SCALES], axis=1)
FIRST = np.repeat(np.stack([K_SCALES[:, 0], V_SCALES[:, 0]], axis=1), 2, axis=1)
K_SCALE = "model.layers.1.self_attn.k_scale"
PATH = "attention/kv_scales"
FP8, INT8 = {"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "int8"}


@pytest.mark.parametrize("scheme", [SCHEME, None], ids=["compressed-tensors", "fp8"])
@pytest.mark.parametrize(
    ("shape", "wanted"), [((), FIRST), ((1,), FIRST), ((1, 1, 1), FIRST), ((2,), HEADS), ((2, 1, 1), HEADS)]
)
def test_scales_are_of_a_tensor_or_of_each_head(shape, wanted, scheme, tmp_path):
    weights = write_calibrated(tmp_path, scheme=scheme, scales=scale_tensors(shape))

    assert_same(loaded(tmp_path, **FP8), {**expected(weights), PATH: wanted})


def test_scales_of_int8(tmp_path):
    weights = write_calibrated(tmp_path, scheme={**SCHEME, "type": "int", "strategy": "attn_head"})

    assert_same(loaded(tmp_path, **INT8), {**expected(weights), PATH: HEADS})
    assert_same(loaded(tmp_path, **FP8), expected(weights))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_scales_are_of_any_float(dtype, tmp_path):
    stored = {name: scale.astype(dtype) for name, scale in scale_tensors().items()}
    write_calibrated(tmp_path, scales=stored)

    np.testing.assert_array_equal(loaded(tmp_path, **FP8)[PATH], HEADS.astype(dtype).astype(np.float32))


def test_older_names(tmp_path):
    """`kv_scale` is of both, and an output of k_proj is of the keys."""
    gone = dict.fromkeys(scale_tensors())
    old = {"model.layers.0.self_attn.kv_scale": np.array([0.25], np.float32)}
    for name, scale in (("k", 0.5), ("v", 0.75)):
        old[f"model.layers.1.self_attn.{name}_proj.output_scale"] = np.array(scale, np.float32)
    weights = write_calibrated(tmp_path, scales={**gone, **old})

    wanted = np.array([[0.25] * 4, [0.5, 0.5, 0.75, 0.75]], np.float32)
    assert_same(loaded(tmp_path, **FP8), {**expected(weights), PATH: wanted})


def test_scales_of_no_layer_of_the_model_are_named(tmp_path, caplog):
    other = {"model.layers.2.self_attn.k_scale": np.ones(1, np.float32)}
    weights = write_calibrated(tmp_path, scales=other)
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(tmp_path, **FP8)

    assert_same(params, {**expected(weights), PATH: HEADS})
    assert "the model has no use for them: model.layers.2.self_attn.k_scale" in caplog.text


@pytest.mark.parametrize("options", [{}, INT8], ids=str)
def test_a_cache_of_another_type_has_none_and_the_start_says_which_would(options, tmp_path, caplog):
    weights = write_calibrated(tmp_path)
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(tmp_path, **options)

    assert_same(params, expected(weights))
    given = options.get("kv_cache_dtype", "auto")
    assert f"not applied: kv_cache_dtype is {given!r}, and 'fp8_e4m3' would apply them: " in caplog.text
    assert K_SCALE in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"dynamic": True}, {"symmetric": False}, {"strategy": "group"}, {"num_bits": 4}, {"dynamic": "local"}],
    ids=str,
)
def test_another_scheme_is_named_and_its_scales_are_left_out(changes, tmp_path, caplog):
    weights = write_calibrated(tmp_path, scheme={**SCHEME, **changes})
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = loaded(tmp_path, **FP8)

    assert_same(params, expected(weights))
    (name, value), *_ = changes.items()
    assert f"{name!r}: {value!r}" in caplog.text
    assert K_SCALE in caplog.text


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (None, f"{K_SCALE} is missing, and other scales of the KV cache are there; leave kv_cache_dtype out"),
        (
            np.ones(3, np.float32),
            "has dtype F32 and shape (3,), and must be a number in BF16, F16, F32, or one",
        ),
        (np.ones(2, np.int8), "has dtype I8 and shape (2,)"),
        (
            np.array([0.1, 0], np.float32),
            "has [0.10000000149011612, 0.0], and scales must be finite and above",
        ),
        (np.array(np.nan, np.float32), "has [nan], and scales must be finite and above 0"),
    ],
    ids=str,
)
def test_a_fault_is_named(scale, said, tmp_path):
    write_calibrated(tmp_path, scales={K_SCALE: scale})
    with pytest.raises(Exception, match="do not fit the model") as caught:
        loaded(tmp_path, **FP8)

    assert K_SCALE in str(caught.value)
    assert said in str(caught.value)
    assert "layers.0" not in str(caught.value)


@pytest.mark.parametrize("kernels", ["xla", "pallas"])
def test_the_cache_has_the_scales_of_its_layers_and_heads(kernels, tmp_path):
    """Of a prompt's positions and of a decoded one: the values times these are keys and values that saturate,
    as many as tokens were written."""
    write_calibrated(tmp_path, tokenizer=True)
    with LLM(tmp_path, **TINY_ENGINE, **FP8, kernels=kernels) as llm:
        llm.generate([[5, 17, 3, 41, 7]], temperature=0, max_tokens=4, ignore_eos=True)
        cache = llm.engine.executor.state.kv_cache
        for layer, pages in enumerate(cache):
            scales = np.asarray(pages.scales)[:, 1:]  # the null page has padding's
            wanted = np.stack([K_SCALES[layer], V_SCALES[layer]])[:, None, :, None]
            is_written = scales != 0
            np.testing.assert_array_equal(scales, np.where(is_written, wanted, 0))
            assert is_written.sum() == 2 * 2 * (5 + 3)
            assert np.asarray(pages.values[:, 1:].astype(np.float32)).any()
