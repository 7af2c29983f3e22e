"""Experts of every kind, beside the same token by token; and that no token moves another's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.config import ExpertsConfig, LayerConfig, MLPConfig, ModelConfig
from jinfer.models.experts import Experts
from jinfer.models.layers import RMSNorm
from jinfer.models.params import decoder_params
from jinfer.weights.params import Params
from pallas_kernels.experts import ClampedSwiglu
from pallas_kernels.router import RouterOptions
from tests.models.test_kinds_of_layers import LOCAL

FEATURES, NUM_TOKENS, LAYER = 16, 7, 1
EPSILON = 1e-6
CONFIGS = {
    "softmax": ExpertsConfig(6, 8, RouterOptions(2)),
    "normalized, shared": ExpertsConfig(6, 8, RouterOptions(3, renormalize=True), shared=MLPConfig(12)),
    "gated shared": ExpertsConfig(4, 8, RouterOptions(2), shared=MLPConfig(12), has_shared_gate=True),
    "biases, clamped": ExpertsConfig(
        5, 8, RouterOptions(2, scores="softmax_of_chosen"), bias=True, activation=ClampedSwiglu(1.5, 1.0)
    ),
    "groups, correction": ExpertsConfig(
        8,
        8,
        RouterOptions(
            3,
            scores="sigmoid",
            renormalize=True,
            scaling=2.5,
            num_groups=4,
            top_groups=2,
            group_score="two_best",
        ),
        has_correction_bias=True,
        shared=MLPConfig(12),
    ),
}


def random_mlp(config: ExpertsConfig, seed: int = 0) -> Params:
    """The params of experts in a stack of two layers."""
    layer = LayerConfig(LOCAL.attention, config)
    model = ModelConfig("with experts", 32, FEATURES, (layer, layer), EPSILON, 64, True)
    abstract = decoder_params(model, jnp.dtype("float32")).abstract["mlp"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.7, x.shape), jnp.float32), abstract)


def random_tokens(seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, (NUM_TOKENS, FEATURES)), jnp.float32)


def computed(
    config: ExpertsConfig, params: Params, x: jax.Array, padding: int = 0, **around
) -> tuple[np.ndarray, np.ndarray]:
    is_padding = jnp.arange(len(x)) >= len(x) - padding
    given = {"norm": None, "post_norm": None, "residual": x, **around}
    y, expert_ids = Experts.of(params, "xla")(x, LAYER, config=config, is_padding=is_padding, **given)
    return np.asarray(y), np.asarray(expert_ids)


def plain(config: ExpertsConfig, params: Params, x: np.ndarray, expert_ids: np.ndarray) -> np.ndarray:
    """Each token by itself, with the experts that are given."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf[LAYER], np.float64), params)
    outputs = []
    for token, ids in zip(x.astype(np.float64), expert_ids, strict=True):
        y = sum(
            weight * expert(config, weights["experts"], index, token)
            for weight, index in zip(weights_of(config, weights["router"], token, ids), ids, strict=True)
        )
        if config.shared is not None:
            gate, up = np.split(token @ weights["shared"]["gate_up"]["kernel"], 2)
            shared = (gate * sigmoid(gate) * up) @ weights["shared"]["down"]["kernel"]
            share = sigmoid(token @ weights["shared_gate"]["kernel"]) if config.has_shared_gate else 1
            y = y + share * shared
        outputs.append(y)
    return np.array(outputs)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expert(config: ExpertsConfig, weights: Params, index: int, token: np.ndarray) -> np.ndarray:
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        y = x @ weights[name]["kernel"][index]
        return y + weights[name]["bias"][index] if config.bias else y

    gate, up = np.split(linear("gate_up", token), 2)
    if isinstance(config.activation, ClampedSwiglu):
        limit = config.activation.limit
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        return linear("down", gate * sigmoid(config.activation.alpha * gate) * (up + 1))
    return linear("down", gate * sigmoid(gate) * up)


def weights_of(config: ExpertsConfig, router: Params, token: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The weights of a token's experts, having checked that they are its best."""
    options = config.routing
    logits = token @ router["kernel"] + (router["bias"] if config.bias else 0)
    softmax = np.exp(logits) / np.exp(logits).sum()
    scores = {"softmax": softmax, "sigmoid": sigmoid(logits), "softmax_of_chosen": logits}[options.scores]
    by = scores + router["correction_bias"] if config.has_correction_bias else scores
    if options.top_groups < options.num_groups:
        groups = by.reshape(options.num_groups, -1)
        best = np.sort(groups, axis=1)[:, -2:].sum(1)
        groups[np.argsort(best)[: -options.top_groups]] = -np.inf
    assert set(ids) == set(np.argsort(by)[-options.top_k :])
    weights = scores[ids]
    if options.scores == "softmax_of_chosen":
        weights = np.exp(weights) / np.exp(weights).sum()
    return options.scaling * (weights / weights.sum() if options.renormalize else weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_experts_give_is_what_each_token_gives_by_itself(name):
    config, params, x = CONFIGS[name], random_mlp(CONFIGS[name]), random_tokens()
    y, expert_ids = computed(config, params, x)
    wanted = plain(config, params, np.asarray(x), expert_ids)
    np.testing.assert_allclose(y, np.asarray(x) + wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_norms_and_the_scale_of_what_is_added():
    config = CONFIGS["gated shared"]
    params, x = random_mlp(config), random_tokens()
    scales = np.random.default_rng(2).uniform(0.5, 1.5, (2, 2, FEATURES)).astype(np.float32)
    before, behind = (RMSNorm(jnp.asarray(scale), EPSILON) for scale in scales)
    y, expert_ids = computed(
        config, params, x, norm=before, post_norm=behind, residual=2 * x, residual_scale=0.5
    )

    def normed(values, scale):
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + EPSILON) * scale[LAYER]

    wanted = plain(config, params, normed(np.asarray(x), scales[0]), expert_ids)
    wanted = 2 * np.asarray(x) + 0.5 * normed(wanted, scales[1])
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("others", ["random", "alike", "not finite"])
def test_the_choice_of_one_token_moves_no_other(name, others):
    """Whatever the others are, and whichever experts they have: not a bit."""
    config, params, x = CONFIGS[name], random_mlp(CONFIGS[name]), random_tokens()
    changed = {
        "random": random_tokens(9) * 3,
        "alike": jnp.broadcast_to(x[0], x.shape),
        "not finite": jnp.full_like(x, jnp.nan),
    }[others]
    (y, ids), (other_y, other_ids) = (
        computed(config, params, x),
        computed(config, params, changed.at[0].set(x[0])),
    )
    np.testing.assert_array_equal(other_y[0], y[0])
    np.testing.assert_array_equal(other_ids[0], ids[0])


@pytest.mark.parametrize("name", ["softmax", "gated shared"])
def test_padding_has_no_experts(name):
    config, params, x = CONFIGS[name], random_mlp(CONFIGS[name]), random_tokens()
    (y, ids), (padded, padded_ids) = computed(config, params, x), computed(config, params, x, padding=2)
    np.testing.assert_array_equal(padded[:-2], y[:-2])
    np.testing.assert_array_equal(padded_ids[:-2], ids[:-2])
    assert (padded_ids[-2:] == config.num_experts).all()
    if config.shared is None:
        np.testing.assert_array_equal(padded[-2:], np.asarray(x)[-2:])
