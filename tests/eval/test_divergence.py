"""Distributions of two models beside each other, against their definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.eval.divergence import TOKENS_AT_A_TIME, OutputHead, compare_hidden, kl_divergence
from jinfer.models.registry import build_model, read_model_config
from jinfer.progress import progress_bar
from tests.tiny_model import CONFIG, VOCAB_SIZE, random_params

NUM_TOKENS = TOKENS_AT_A_TIME + 5  # two pieces, the second with padding
TIED = {**CONFIG, "tie_word_embeddings": True}
WIDER = {**CONFIG, "hidden_size": 48}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_by_definition(logprobs_a: np.ndarray, logprobs_b: np.ndarray) -> np.ndarray:
    return (np.exp(logprobs_a) * (logprobs_a - logprobs_b)).sum(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 60.0])
def test_kl_is_the_sum_of_its_definition(scale):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, scale, (2, 20, 1000)).astype(np.float32)
    found = kl_divergence(*(jax.nn.log_softmax(jnp.asarray(each)) for each in logits))
    np.testing.assert_allclose(found, kl_by_definition(*map(log_softmax, logits)), rtol=2e-5)


def test_kl_of_models_that_are_nearly_the_same_keeps_its_digits():
    """The plain sum would be wrong from its first digit: its terms are ten thousand times as large."""
    rng = np.random.default_rng(1)
    a = rng.normal(0, 3, (8, 5000)).astype(np.float32)
    b = (a + rng.normal(0, 1e-3, a.shape)).astype(np.float32)
    expected = kl_by_definition(log_softmax(a), log_softmax(b))
    assert expected.max() < 1e-6
    found = kl_divergence(jax.nn.log_softmax(jnp.asarray(a)), jax.nn.log_softmax(jnp.asarray(b)))
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_kl_of_a_distribution_with_itself_is_zero():
    logprobs = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(2).normal(0, 9, (4, 300)), jnp.float32))
    np.testing.assert_array_equal(kl_divergence(logprobs, logprobs), np.zeros(4))


def logits_by_hand(params, hidden: np.ndarray, epsilon: float) -> np.ndarray:
    hidden = hidden.astype(np.float64)
    normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + epsilon)
    kernel = params.get("head", params["embedding"])["kernel"]
    return normed * params["final_norm"]["scale"].astype(np.float64) @ kernel.astype(np.float64).T


@pytest.mark.parametrize("config_b", [CONFIG, TIED, WIDER])
def test_figures_of_two_heads_are_those_of_float64(config_b):
    rng = np.random.default_rng(3)
    configs, heads, hidden, logprobs = (CONFIG, config_b), [], [], []
    for seed, config in enumerate(configs):
        params = random_params(config, seed)
        model = build_model(read_model_config(config), jnp.dtype("float32"), "xla")
        heads.append(OutputHead.of(model, jax.tree.map(jnp.asarray, params)))
        hidden.append(rng.normal(0, 1, (NUM_TOKENS, config["hidden_size"])).astype(np.float32))
        logprobs.append(log_softmax(logits_by_hand(params, hidden[-1], model.config.rms_norm_eps)))
    targets = rng.integers(VOCAB_SIZE, size=NUM_TOKENS).astype(np.int32)

    with progress_bar("", total=NUM_TOKENS, enabled=False) as bar:
        found = compare_hidden(heads, hidden, targets, bar)

    rows = np.arange(NUM_TOKENS)
    np.testing.assert_allclose(found.kl, kl_by_definition(*logprobs), rtol=1e-4)
    np.testing.assert_allclose(found.nll_a, -logprobs[0][rows, targets], atol=1e-4)
    np.testing.assert_allclose(found.nll_b, -logprobs[1][rows, targets], atol=1e-4)
    np.testing.assert_array_equal(found.top_a, logprobs[0].argmax(-1))
    np.testing.assert_array_equal(found.top_b, logprobs[1].argmax(-1))
    np.testing.assert_array_equal(found.is_top_equal, logprobs[0].argmax(-1) == logprobs[1].argmax(-1))
