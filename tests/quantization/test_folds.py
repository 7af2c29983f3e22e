"""Scales that are folded change what a product reads, and nothing of what a layer computes."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jinfer.models.decoder_layers import Layers
from jinfer.models.registry import build_model, read_model_config
from jinfer.quantization import layer_inputs
from jinfer.quantization.folds import folds_of
from jinfer.quantization.layer_inputs import run_layer
from jinfer.weights.params import flatten, unflatten
from tests.tiny_model import CONFIG, random_params

MODEL = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "xla")
CONFIGS = MODEL.config.layers[0]
FOLDS = {fold.target: fold for fold in folds_of(CONFIGS)}
FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(3)
    layer = {
        path: np.asarray(x[0]) for path, x in flatten(random_params()).items() if "/" in path and x.ndim > 1
    }
    layer = {path: x for path, x in layer.items() if path.split("/")[0] not in ("embedding", "final_norm")}
    for path in ("attention/qkv", "attention/output", "mlp/gate_up", "mlp/down"):
        layer[f"{path}/bias"] = rng.normal(0, 1, layer[f"{path}/kernel"].shape[1]).astype(np.float32)
    return layer


def computed(weights):
    config = dataclasses.replace(MODEL.config, rms_norm_eps=1e-6)
    layers = Layers.of(unflatten({path: jnp.asarray(x[None]) for path, x in weights.items()}), config, "xla")
    rng = np.random.default_rng(5)
    windows = [jnp.asarray(rng.normal(0, 1, (size, 32)), jnp.float32) for size in (9, 20)]
    return run_layer(layers, CONFIGS, windows)


def normed(hidden, weights):
    rms = np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-6)
    return hidden / rms * weights["attention_norm/scale"]


def some_scales(fold, size):
    return fold.mean(np.random.default_rng(1).uniform(0.25, 4, size).astype(np.float32))


@pytest.mark.parametrize("target", FOLDS)
def test_the_layer_computes_the_same(target, weights):
    fold = FOLDS[target]
    scales = some_scales(fold, weights[f"{target}/kernel"].shape[0])
    changed, applied = fold.apply(weights, scales, FLOAT32)
    before, inputs_before = computed(weights)
    after, inputs_after = computed(changed)

    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(applied, scales, rtol=1e-6)
    ratio = inputs_before[target].rows / inputs_after[target].rows
    np.testing.assert_allclose(np.median(ratio, axis=0), scales, rtol=1e-3)
    assert not np.array_equal(changed[f"{target}/kernel"], weights[f"{target}/kernel"])


def test_a_norm_is_folded_as_it_is_rounded(weights):
    fold = FOLDS["mlp/gate_up"]
    norm = weights["mlp_norm/scale"].astype(BFLOAT16).astype(np.float32)
    given = {**weights, "mlp_norm/scale": norm}
    changed, applied = fold.apply(given, some_scales(fold, 32), BFLOAT16)

    stored = changed["mlp_norm/scale"]
    np.testing.assert_array_equal(stored, stored.astype(BFLOAT16).astype(np.float32))
    np.testing.assert_allclose(stored * applied, norm, rtol=1e-6)


def test_a_norm_that_adds_one_to_its_weight_is_folded_with_it(weights):
    (fold,) = (each for each in folds_of(CONFIGS, norm_offset=1.0) if each.target == "mlp/gate_up")
    norm = weights["mlp_norm/scale"].astype(BFLOAT16).astype(np.float32)
    changed, applied = fold.apply({**weights, "mlp_norm/scale": norm}, some_scales(fold, 32), BFLOAT16)

    stored = changed["mlp_norm/scale"]
    np.testing.assert_array_equal(stored, stored.astype(BFLOAT16).astype(np.float32))
    np.testing.assert_allclose((1 + stored) * applied, 1 + norm, rtol=1e-6)


def test_a_feature_that_the_norm_leaves_out_stays_so(weights):
    fold = FOLDS["attention/qkv"]
    norm = weights["attention_norm/scale"].copy()
    norm[3] = 0
    changed, applied = fold.apply(
        {**weights, "attention_norm/scale": norm}, np.full(32, 2, np.float32), FLOAT32
    )

    assert changed["attention_norm/scale"][3] == 0
    assert applied[3] == 1
    assert np.isfinite(changed["attention/qkv/kernel"]).all()


def test_without_norms_before_them_products_take_no_scales_of_their_inputs():
    behind = dataclasses.replace(CONFIGS, has_pre_norms=False, has_post_norms=True)
    assert {fold.target for fold in folds_of(behind)} == {"attention/output", "mlp/down"}


def test_heads_that_share_values_share_scales():
    fold = FOLDS["attention/output"]
    assert (fold.num_groups, fold.repeats) == (2, 2)
    scales = fold.max(np.arange(32, dtype=np.float32)).reshape(4, 8)
    assert scales[0].tolist() == scales[1].tolist() == list(range(8, 16))
    assert scales[2].tolist() == scales[3].tolist() == list(range(24, 32))


def test_the_inputs_are_those_of_the_product(weights):
    """Of the first product they are easily told: the norm of the hidden states."""
    _, seen = computed(weights)
    rng = np.random.default_rng(5)
    hidden = np.concatenate([rng.normal(0, 1, (size, 32)) for size in (9, 20)])
    read, inputs = normed(hidden, weights), seen["attention/qkv"]
    np.testing.assert_allclose(inputs.mean, np.abs(read).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(inputs.max, np.abs(read).max(axis=0), rtol=1e-4)
    np.testing.assert_allclose(inputs.rows, read, rtol=1e-3, atol=1e-4)
    assert dataclasses.asdict(CONFIGS)["attention"]["num_heads"] == 4


def test_the_rows_that_are_kept_are_the_middles_of_equal_parts(weights, monkeypatch):
    """The first token of a window is read unlike all others, and would be in each sample."""
    monkeypatch.setattr(layer_inputs, "MAX_SAMPLES", 8)
    _, seen = computed(weights)
    rng = np.random.default_rng(5)
    hidden = np.concatenate([rng.normal(0, 1, (size, 32)) for size in (9, 20)])
    rows = [1, 3, 5, 7, 9 + 2, 9 + 7, 9 + 12, 9 + 17]
    np.testing.assert_allclose(
        seen["attention/qkv"].rows, normed(hidden, weights)[rows], rtol=1e-3, atol=1e-4
    )
