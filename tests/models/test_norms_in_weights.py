"""Scales of norms in the weights of the products behind them. test_goldens.py compares logits with transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.errors import ConfigError
from jinfer.models.decoder import with_norms_in_weights
from jinfer.models.weights import flatten, unflatten
from tests.models.goldens import GOLDENS, read_goldens
from tests.models.paged_run import PagedRun
from tests.tiny_model import random_params, tiny_llm

CHUNK_SIZE = 64


def test_products_get_the_scales_and_the_scales_become_ones() -> None:
    before = flatten(random_params())
    after = flatten(with_norms_in_weights(unflatten({path: jnp.asarray(x) for path, x in before.items()})))
    changed = {"attention_norm/scale", "attention/qkv/kernel", "mlp_norm/scale", "mlp/gate_up/kernel"}
    for path, weights in after.items():
        assert (path in changed) != np.array_equal(weights, before[path]), path
    for norm, product in (("attention_norm", "attention/qkv"), ("mlp_norm", "mlp/gate_up")):
        scale, kernel = before[f"{norm}/scale"], before[f"{product}/kernel"]
        np.testing.assert_array_equal(after[f"{norm}/scale"], np.ones_like(scale))
        np.testing.assert_array_equal(after[f"{product}/kernel"], kernel * scale[:, :, None])


def rms_error(name: str, *, norms_in_weights: bool) -> float:
    """Of bfloat16 logits, from those of transformers in float32."""
    run = PagedRun(GOLDENS / name, norms_in_weights=norms_in_weights, dtype=jnp.dtype("bfloat16"))
    goldens = read_goldens(name)
    sequences = [golden.prompt_ids + golden.greedy_ids[:-1] for golden in goldens]
    computed = run.logits(sequences, [len(golden.prompt_ids) for golden in goldens], CHUNK_SIZE)
    pairs = zip(goldens, computed, strict=True)
    errors = [(logits[golden.positions] - golden.logits).astype(np.float64).ravel() for golden, logits in pairs]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


@pytest.mark.parametrize("name", ["qwen3_head_dim_80", "mistral_window"])
def test_bfloat16_is_nearly_as_exact_as_with_norms_of_their_own(name: str) -> None:
    """1.11 and 1.06 times the error: weights are rounded once more."""
    assert rms_error(name, norms_in_weights=True) < 1.2 * rms_error(name, norms_in_weights=False)


def test_weights_of_the_caller_stay_as_they_are() -> None:
    params = random_params()
    before = {path: x.copy() for path, x in flatten(params).items()}
    with tiny_llm(params=params, norms_in_weights=True) as llm:
        assert not np.array_equal(llm.parts.loaded.params["mlp"]["gate_up"]["kernel"], before["mlp/gate_up/kernel"])
    for path, x in flatten(params).items():
        np.testing.assert_array_equal(x, before[path])


def test_weights_that_are_used_in_place_are_an_error() -> None:
    params = unflatten({path: jnp.asarray(x) for path, x in flatten(random_params()).items()})
    with pytest.raises(ConfigError, match=r"on the device and used in place \(.* and \d+ more\); give NumPy arrays"):
        tiny_llm(params=params, norms_in_weights=True)
