"""Every implementation of experts against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int8Weight, Mxfp4Weight
from pallas_kernels.experts import ClampedSwiglu, experts
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import diagonal_pairs

LAYERS, LAYER = 2, 1
BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 6e-3}
ACTIVATIONS = ["silu", "gelu_tanh", ClampedSwiglu()]
QUANTIZED = {"fp8": Fp8Weight.of, "block-fp8": BlockFp8Weight.of, "mxfp4": Mxfp4Weight.of}

implementations = pytest.mark.parametrize("implementation", ["reference", "xla", "triton"])


def gated(gate, up, activation):
    if isinstance(activation, ClampedSwiglu):
        gate, up = np.minimum(gate, activation.limit), np.clip(up, -activation.limit, activation.limit)
        return gate / (1 + np.exp(-activation.alpha * gate)) * (up + 1)
    if activation == "silu":
        return gate / (1 + np.exp(-gate)) * up
    return gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up


def definition(x, weights, expert_ids, gate_up, down, *, activation, **others):
    """Token by token and expert by expert, in float64."""
    x, weights, gate_up, down = (np.asarray(a, np.float64) for a in (x, weights, gate_up, down))
    biases = {name: np.asarray(array, np.float64) for name, array in others.items() if array is not None}
    result = biases.get("residual", np.zeros_like(x)).copy()
    for token, slot in np.ndindex(*expert_ids.shape):
        expert = int(expert_ids[token, slot])
        if not 0 <= expert < gate_up.shape[1]:
            continue
        y = x[token] @ gate_up[LAYER, expert]
        if "gate_up_bias" in biases:
            y = y + biases["gate_up_bias"][LAYER, expert]
        y = gated(*np.split(y, 2), activation) @ down[LAYER, expert]
        if "down_bias" in biases:
            y = y + biases["down_bias"][LAYER, expert]
        result[token] += weights[token, slot] * y
    return result


def random_case(rng, num_tokens, num_experts, top_k, features, inner, dtype, *, biases=False):
    """Arguments by name, of which NaN is all that is not of the layer."""

    def array(*shape, scale=1.0):
        return jnp.asarray(rng.standard_normal(shape) * scale, dtype)

    def stack(*shape, scale=1.0):
        return jnp.full((LAYERS, *shape), jnp.nan, dtype).at[LAYER].set(array(*shape, scale=scale))

    ids = np.argsort(rng.random((num_tokens, num_experts)), axis=1)[:, :top_k]
    case = {
        "x": array(num_tokens, features),
        "weights": jnp.asarray(rng.random((num_tokens, top_k)), jnp.float32),
        "expert_ids": jnp.asarray(ids, jnp.int32),
        "gate_up": stack(num_experts, features, 2 * inner, scale=2 * features**-0.5),
        "down": stack(num_experts, inner, features, scale=inner**-0.5),
    }
    if biases:
        case["gate_up_bias"] = stack(num_experts, 2 * inner)
        case["down_bias"] = stack(num_experts, features)
        case["residual"] = array(num_tokens, features)
    return case


def call(case, implementation, activation="silu"):
    function = compiled(experts, layer=LAYER, activation=activation, implementation=implementation)
    return function(**case)


def check(case, implementation, activation="silu"):
    dtype = case["x"].dtype
    got = call(case, implementation, activation)
    assert (got.shape, got.dtype) == (case["x"].shape, dtype)
    wanted = definition(**case, activation=activation)
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[jnp.dtype(dtype).type]


@implementations
@pytest.mark.parametrize(("activation", "dtype"), diagonal_pairs(ACTIVATIONS, list(BOUNDS)))
def test_is_the_definition(rng, activation, dtype, implementation):
    check(random_case(rng, 9, 6, 2, 40, 24, dtype, biases=True), implementation, activation)


@implementations
@pytest.mark.parametrize("num_tokens", [1, 3, 70])
def test_of_few_and_many_tokens(rng, num_tokens, implementation):
    check(random_case(rng, num_tokens, 8, 3, 64, 32, jnp.float32), implementation)


@implementations
def test_one_expert_may_take_all_and_others_nothing(rng, implementation):
    case = random_case(rng, 40, 5, 2, 32, 16, jnp.float32)
    ids = np.full((40, 2), 3)
    ids[:, 1] = 1
    check({**case, "expert_ids": jnp.asarray(ids, jnp.int32)}, implementation)


@implementations
def test_an_id_outside_is_no_expert(rng, implementation):
    case = random_case(rng, 7, 4, 2, 32, 16, jnp.float32, biases=True)
    ids = np.asarray(case["expert_ids"]).copy()
    ids[0], ids[1, 0], ids[2, 1] = 4, -1, 1000
    case["expert_ids"] = jnp.asarray(ids)
    check(case, implementation)
    np.testing.assert_array_equal(call(case, implementation)[0], case["residual"][0])


@implementations
def test_rows_that_are_not_finite_harm_no_other(rng, implementation):
    case = random_case(rng, 6, 4, 2, 32, 16, jnp.float32)
    clean = call(case, implementation)
    case["x"] = case["x"].at[1].set(jnp.nan).at[2].set(jnp.inf)
    case["weights"] = case["weights"].at[4].set(jnp.nan)
    got = call(case, implementation)
    np.testing.assert_array_equal(got[np.array([0, 3, 5])], clean[np.array([0, 3, 5])])
    assert np.isnan(np.asarray(got)[[1, 4]]).all()


@implementations
def test_experts_that_a_token_has_not_may_be_anything(rng, implementation):
    case = random_case(rng, 6, 4, 2, 32, 16, jnp.float32)
    case["expert_ids"] = jnp.asarray(rng.integers(0, 2, (6, 2)), jnp.int32)
    wanted = call(case, implementation)
    if implementation != "xla":  # the sum over experts is one product
        case["down"] = case["down"].at[LAYER, 3].set(jnp.nan)
    case["gate_up"] = case["gate_up"].at[LAYER, 2].set(jnp.nan)
    np.testing.assert_array_equal(call(case, implementation), wanted)


def floats_of(w):
    return w.dequantized(jnp.float32)


@implementations
@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_weights_are_what_they_stand_for(rng, kind, implementation):
    case = random_case(rng, 5, 3, 2, 160, 96, jnp.bfloat16)
    of = compiled(QUANTIZED[kind])
    quantized = {name: of(jnp.nan_to_num(case[name])) for name in ("gate_up", "down")}
    got = call({**case, **quantized}, implementation)
    floats = {name: compiled(floats_of)(w) for name, w in quantized.items()}
    wanted = definition(**{**case, **floats}, activation="silu")
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[jnp.bfloat16]


def test_what_the_kernel_leaves_out_is_xlas(rng):
    case = random_case(rng, 4, 3, 2, 160, 96, jnp.float32)
    quantized = {name: compiled(Mxfp4Weight.of)(jnp.nan_to_num(case[name])) for name in ("gate_up", "down")}
    np.testing.assert_array_equal(call(case | quantized, "pallas"), call(case | quantized, "xla"))
    with pytest.raises(UnsupportedError, match="x in float32 and w of Mxfp4Weight"):
        call(case | quantized, "triton")


@implementations
def test_the_layer_may_be_data(rng, implementation):
    case = random_case(rng, 4, 4, 2, 32, 16, jnp.float32)
    wanted = call(case, implementation)
    function = jax.jit(functools.partial(experts, implementation=implementation))
    np.testing.assert_array_equal(function(**case, layer=jnp.int32(LAYER)), wanted)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layer": 2}, "layer=2 is outside of a stack of 2 layers"),
        ({"activation": "relu"}, "activation='relu' is none"),
        ({"x": jnp.zeros((3, 9))}, r"x has shape \(3, 9\)"),
        ({"weights": jnp.zeros((3, 1))}, r"weights have shape \(3, 1\)"),
        ({"expert_ids": jnp.zeros((3, 2))}, "expert_ids are float32"),
        ({"down": jnp.zeros((2, 4, 9, 8))}, r"down \(2, 4, 9, 8\)"),
        ({"gate_up_bias": jnp.zeros((2, 4, 8))}, r"gate_up_bias has shape \(2, 4, 8\)"),
        ({"residual": jnp.zeros((3, 9))}, r"residual has shape \(3, 9\)"),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_errors(changed, words):
    case = {
        "x": jnp.zeros((3, 8)),
        "weights": jnp.zeros((3, 2)),
        "layer": 0,
        "expert_ids": jnp.zeros((3, 2), jnp.int32),
        "gate_up": jnp.zeros((2, 4, 8, 12)),
        "down": jnp.zeros((2, 4, 6, 8)),
    }
    with pytest.raises(ValueError, match=words):
        experts(**{**case, **changed})


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (Int8Weight.of, "gate_up is of Int8Weight: matrices of groups are served in Fp8Weight"),
        (functools.partial(BlockFp8Weight.of, activations="dynamic"), "activations='dynamic'"),
        (functools.partial(jnp.asarray, dtype=jnp.bfloat16), "x in float32 and gate_up in bfloat16"),
    ],
)
def test_other_weights_are_unsupported(rng, of, words):
    case = random_case(rng, 3, 4, 2, 32, 16, jnp.float32)
    with pytest.raises(UnsupportedError, match=words):
        experts(**{**case, "gate_up": of(case["gate_up"])}, layer=LAYER)
