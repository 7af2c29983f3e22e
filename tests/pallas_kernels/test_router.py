"""Routing against its definition in float64, and against the routers of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.router import RouterOptions, route
from tests.pallas_kernels.compiled import compiled

V3 = {"scores": "sigmoid", "renormalize": True, "scaling": 2.5}
METHODS = {  # by published models; experts, and options
    "mixtral": (8, RouterOptions(2, renormalize=True)),
    "qwen3-30b-a3b": (128, RouterOptions(8, renormalize=True)),
    "qwen2-moe": (60, RouterOptions(4)),
    "gpt-oss-20b": (32, RouterOptions(4, "softmax_of_chosen")),
    "deepseek-v2-lite": (64, RouterOptions(6)),
    "deepseek-v2": (160, RouterOptions(6, scaling=16.0, num_groups=8, top_groups=3)),
    "glm-4.7-flash": (64, RouterOptions(4, **{**V3, "scaling": 1.8})),
    "deepseek-v3": (
        256,
        RouterOptions(8, **V3, num_groups=8, top_groups=4, group_score="two_best"),
    ),
}
IMPLEMENTATIONS = ["reference", "pallas"]
TOKENS = 37  # in all tests, so that they share their programs

methods = pytest.mark.parametrize("method", METHODS)
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def definition(logits, options, bias):
    """The weights and ids of one token after another, in float64. Sorting is stable: the first of equals
    stays first."""
    results = [_of_token(row, options, bias) for row in np.asarray(logits, np.float64)]
    return tuple(np.stack(part) for part in zip(*results, strict=True))


def _of_token(logits, options, bias):
    exponentials = np.exp(logits - logits.max())
    scores = {
        "softmax": exponentials / exponentials.sum(),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "softmax_of_chosen": logits,
    }[options.scores]
    by = scores if bias is None else scores + np.asarray(bias, np.float64)
    groups = by.reshape(options.num_groups, -1)
    best = np.sort(groups, axis=-1)[:, ::-1][:, : 2 if options.group_score == "two_best" else 1].sum(-1)
    kept = np.argsort(-best, kind="stable")[: options.top_groups]
    outside = ~np.isin(np.arange(len(by)) // groups.shape[1], kept)
    ids = np.argsort(np.where(outside, np.inf, -by), kind="stable")[: options.top_k]
    weights = scores[ids]
    if options.scores == "softmax_of_chosen":
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
    if options.renormalize:
        weights = weights / weights.sum()
    return weights * options.scaling, ids


def bias_of(rng, method, num_experts):
    has_bias = METHODS[method][1].scores == "sigmoid"
    return jnp.asarray(rng.standard_normal(num_experts) * 0.1, jnp.float32) if has_bias else None


def routed(logits, options, bias, implementation):
    routing = compiled(route, options=options, implementation=implementation)(logits, correction_bias=bias)
    assert (routing.weights.dtype, routing.expert_ids.dtype) == (jnp.float32, jnp.int32)
    return np.asarray(routing.weights), np.asarray(routing.expert_ids)


@implementations
@methods
def test_is_the_definition(rng, method, implementation):
    num_experts, options = METHODS[method]
    logits = jnp.asarray(rng.standard_normal((TOKENS, num_experts)) * 3, jnp.float32)
    bias = bias_of(rng, method, num_experts)
    weights, ids = routed(logits, options, bias, implementation)
    wanted_weights, wanted_ids = definition(logits, options, bias)
    np.testing.assert_array_equal(ids, wanted_ids)
    np.testing.assert_allclose(weights, wanted_weights, rtol=1e-5)


@implementations
@methods
def test_of_equals_the_first_is_taken(rng, method, implementation):
    num_experts, options = METHODS[method]
    logits = jnp.asarray(rng.integers(-2, 3, (TOKENS, num_experts)), jnp.float32)
    bias = bias_of(rng, method, num_experts)
    bias = None if bias is None else jnp.zeros_like(bias)
    _, ids = routed(logits, options, bias, implementation)
    np.testing.assert_array_equal(ids, definition(logits, options, bias)[1])


@implementations
def test_logits_whose_scores_are_equal_keep_their_order(implementation):
    """Of softmax and sigmoid: the scores are 0, 0 and 1, and 1, 1 and 1."""
    for options, logits in (
        (RouterOptions(2), [[-300.0, -200.0, 0.0]]),
        (RouterOptions(2, "sigmoid"), [[30.0, 31.0, 32.0]]),
    ):
        assert routed(jnp.asarray(logits), options, None, implementation)[1].tolist() == [[2, 1]]


@implementations
@methods
def test_a_row_that_is_not_finite_harms_no_other(rng, method, implementation):
    num_experts, options = METHODS[method]
    logits = rng.standard_normal((TOKENS, num_experts)).astype(np.float32)
    bias = bias_of(rng, method, num_experts)
    clean = routed(jnp.asarray(logits), options, bias, implementation)
    for row, value in ((1, np.nan), (3, np.inf), (4, -np.inf)):
        logits[row] = value
    weights, ids = routed(jnp.asarray(logits), options, bias, implementation)
    for got, wanted in ((weights, clean[0]), (ids, clean[1])):
        np.testing.assert_array_equal(np.delete(got, [1, 3, 4], 0), np.delete(wanted, [1, 3, 4], 0))
    assert 0 <= ids.min() <= ids.max() < num_experts
    assert all(len(set(row)) == options.top_k for row in ids.tolist())


TINY = {
    "num_attention_heads": 2,
    **dict.fromkeys(["hidden_size", "num_experts", "num_local_experts", "n_routed_experts"], 24),
    "num_experts_per_tok": 4,
}
THEIRS = [  # module, its router and configuration, their options, and ours
    ("mixtral", "MixtralTopKRouter", "MixtralConfig", {}, RouterOptions(4, renormalize=True)),
    *(
        (
            "qwen3_moe",
            "Qwen3MoeTopKRouter",
            "Qwen3MoeConfig",
            {"norm_topk_prob": norm},
            RouterOptions(4, renormalize=norm),
        )
        for norm in (False, True)
    ),
    (
        "deepseek_v2",
        "DeepseekV2TopkRouter",
        "DeepseekV2Config",
        {"topk_method": "greedy", "routed_scaling_factor": 1.7},
        RouterOptions(4, scaling=1.7),
    ),
    (
        "deepseek_v2",
        "DeepseekV2TopkRouter",
        "DeepseekV2Config",
        {
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 1.7,
            "n_group": 4,
            "topk_group": 2,
        },
        RouterOptions(4, scaling=1.7, num_groups=4, top_groups=2),
    ),
    (
        "deepseek_v3",
        "DeepseekV3TopkRouter",
        "DeepseekV3Config",
        {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
        RouterOptions(4, **V3, num_groups=4, top_groups=2, group_score="two_best"),
    ),
    ("gpt_oss", "GptOssTopKRouter", "GptOssConfig", {}, RouterOptions(4, "softmax_of_chosen")),
]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("module", "router", "config", "theirs", "options"), THEIRS, ids=lambda part: str(part)[:24]
)
def test_is_what_transformers_computes(rng, module, router, config, theirs, options):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    gate = getattr(modeling, router)(getattr(transformers, config)(**{**TINY, **theirs})).float()
    gate.weight.data = torch.eye(24)  # so that logits are what it is given
    bias = None
    if router == "DeepseekV3TopkRouter":
        bias = rng.standard_normal(24).astype(np.float32)
        gate.e_score_correction_bias = torch.tensor(bias)
    elif module == "gpt_oss":
        gate.bias.data.zero_()
    logits = rng.standard_normal((50, 24)).astype(np.float32)
    with torch.no_grad():
        _, wanted, wanted_ids = (part.numpy() for part in gate(torch.tensor(logits)))
    weights, ids = routed(jnp.asarray(logits), options, bias, "reference")
    order, wanted_order = np.argsort(ids), np.argsort(wanted_ids)
    np.testing.assert_array_equal(np.sort(ids), np.sort(wanted_ids))
    np.testing.assert_allclose(
        np.take_along_axis(weights, order, 1),
        np.take_along_axis(wanted, wanted_order, 1),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 0}, "top_k=0: a token needs"),
        ({"top_k": 2, "scores": "relu"}, "scores='relu' is unknown"),
        ({"top_k": 2, "num_groups": 2, "top_groups": 3}, "top_groups=3 of num_groups=2"),
        ({"top_k": 2, "scores": "softmax_of_chosen", "renormalize": True}, "whose sum is 1"),
    ],
)
def test_options_that_contradict_themselves_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        RouterOptions(**options)


@pytest.mark.parametrize(
    ("options", "bias", "words"),
    [
        (RouterOptions(9), None, "top_k=9 of 1 groups of 8 experts"),
        (RouterOptions(2, num_groups=3), None, "8 experts in num_groups=3"),
        (RouterOptions(3, num_groups=4, top_groups=1), None, "top_k=3 of 1 groups of 2"),
        (
            RouterOptions(2, num_groups=8, top_groups=4, group_score="two_best"),
            None,
            "groups of 1: it needs two",
        ),
        (RouterOptions(2, "softmax_of_chosen"), jnp.zeros(8), "no method has both"),
        (RouterOptions(2), jnp.zeros(7), r"shape \(7,\); it must be \(8,\)"),
    ],
)
def test_sizes_that_contradict_the_options_are_errors(options, bias, words):
    with pytest.raises(ValueError, match=words):
        route(jnp.zeros((2, 8)), options, correction_bias=bias)
