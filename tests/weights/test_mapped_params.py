"""Parameters by a map from the trees of training code: modules of Flax, and layers that lie stacked along any
axis."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx

from jinfer import LLM
from jinfer.errors import CheckpointError, ConfigError
from jinfer.modeling import StoredParam, load_mapped_orbax, map_params
from jinfer.weights.axes import rearranged
from jinfer.weights.params import flatten, unflatten
from tests.checkpoints import CONFIG, TINY_ENGINE, random_tensors
from tests.weights.loaded import assert_same, expected, loaded

TENSORS = random_tensors()
NUM_LAYERS, HEADS, HEAD_DIM = 2, 4, 8
DECODER = "params/decoder"
SELF_ATTENTION, MLP = f"{DECODER}/layers/self_attention", f"{DECODER}/layers/mlp"
TO_HEADS = "embed layer head dim -> layer embed (head dim)"
MAXTEXT = {  # a Llama that was trained with scanned layers
    "embedding/kernel": "params/token_embedder/embedding",
    "head/kernel": StoredParam(f"{DECODER}/logits_dense/kernel", "embed vocab -> vocab embed"),
    "final_norm/scale": StoredParam(f"{DECODER}/decoder_norm/scale", "embed -> 1 embed"),
    "attention_norm/scale": StoredParam(
        f"{DECODER}/layers/pre_self_attention_layer_norm/scale", "embed layer -> layer embed"
    ),
    "mlp_norm/scale": StoredParam(
        f"{DECODER}/layers/post_self_attention_layer_norm/scale", "embed layer -> layer embed"
    ),
    "attention/qkv/kernel": [
        StoredParam(f"{SELF_ATTENTION}/query/kernel", TO_HEADS, factor=HEAD_DIM**0.5),
        StoredParam(f"{SELF_ATTENTION}/key/kernel", TO_HEADS),
        StoredParam(f"{SELF_ATTENTION}/value/kernel", TO_HEADS),
    ],
    "attention/output/kernel": StoredParam(
        f"{SELF_ATTENTION}/out/kernel", "head layer dim embed -> layer (head dim) embed"
    ),
    "mlp/gate_up/kernel": [
        StoredParam(f"{MLP}/{name}/kernel", "embed layer mlp -> layer embed mlp") for name in ("wi_0", "wi_1")
    ],
    "mlp/down/kernel": StoredParam(f"{MLP}/wo/kernel", "mlp layer embed -> layer mlp embed"),
}


def layers_of(name: str, axis: int = 1) -> np.ndarray:
    """A tensor of all layers, [in, out], stacked along an axis."""
    each = [TENSORS[f"model.layers.{layer}.{name}.weight"].T for layer in range(NUM_LAYERS)]
    return np.stack(each, axis=axis)


def maxtext_tree() -> dict[str, Any]:
    """The tree that MaxText makes of the tensors: layers along axis 1, heads apart, and queries divided
    by the root of head_dim."""

    def to_heads(name: str) -> np.ndarray:
        stacked = layers_of(f"self_attn.{name}")
        return stacked.reshape(*stacked.shape[:2], -1, HEAD_DIM)

    out = layers_of("self_attn.o_proj", axis=0).reshape(NUM_LAYERS, HEADS, HEAD_DIM, -1)
    layers = {
        "self_attention/query/kernel": (to_heads("q_proj") / np.float32(HEAD_DIM**0.5)).astype(np.float32),
        "self_attention/key/kernel": to_heads("k_proj"),
        "self_attention/value/kernel": to_heads("v_proj"),
        "self_attention/out/kernel": out.transpose(1, 0, 2, 3),
        "pre_self_attention_layer_norm/scale": layers_of("input_layernorm", axis=-1),
        "post_self_attention_layer_norm/scale": layers_of("post_attention_layernorm", axis=-1),
        "mlp/wi_0/kernel": layers_of("mlp.gate_proj"),
        "mlp/wi_1/kernel": layers_of("mlp.up_proj"),
        "mlp/wo/kernel": layers_of("mlp.down_proj"),
    }
    flat = {f"{DECODER}/layers/{path}": x for path, x in layers.items()}
    flat[f"{DECODER}/decoder_norm/scale"] = TENSORS["model.norm.weight"]
    flat[f"{DECODER}/logits_dense/kernel"] = TENSORS["lm_head.weight"].T
    flat["params/token_embedder/embedding"] = TENSORS["model.embed_tokens.weight"]
    return unflatten({path: np.ascontiguousarray(x) for path, x in flat.items()})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of a training run, with the state of its optimizer."""
    directory = tmp_path_factory.mktemp("maxtext")
    state = {**maxtext_tree(), "opt_state": {"mu": np.zeros(3, np.float32)}, "step": np.int32(7)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((directory / "7" / "items").resolve(), state)
    return directory


def test_a_scanned_checkpoint_is_loaded_by_a_map(checkpoint: Path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="jinfer"):
        params = load_mapped_orbax(checkpoint, MAXTEXT)
    given, wanted = loaded(CONFIG, params), expected(TENSORS)
    qkv = "attention/qkv/kernel"
    np.testing.assert_allclose(
        given.pop(qkv), wanted.pop(qkv), rtol=1e-6
    )  # queries are divided and multiplied
    assert_same(given, wanted)
    assert "left out of" in caplog.text
    assert "opt_state/mu" in caplog.text


def test_its_greedy_tokens_are_those_of_the_plain_params(checkpoint: Path) -> None:
    plain = unflatten(expected(TENSORS))
    options = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    tokens = []
    for params in (plain, load_mapped_orbax(checkpoint, MAXTEXT)):
        with LLM(CONFIG, params=params, **TINY_ENGINE) as llm:
            tokens.append(
                [each.outputs[0].token_ids for each in llm.generate([[5, 6, 7], [9] * 20], **options)]
            )
    assert tokens[0] == tokens[1]


def test_params_of_a_linen_module_are_found_layer_by_layer() -> None:
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(6, name="up", use_bias=False)(x)

    class Stack(linen.Module):
        @linen.compact
        def __call__(self, x):
            return Block(name="layers_0")(x)[..., :4] + Block(name="layers_1")(x)[..., :4]

    tree = Stack().init(jax.random.key(0), jnp.ones((1, 4)))
    params = map_params(tree, {"up/kernel": "params/layers_{layer}/up/kernel"})
    each = [tree["params"][f"layers_{layer}"]["up"]["kernel"] for layer in range(2)]
    np.testing.assert_array_equal(params["up"]["kernel"], np.stack(each))


def test_an_nnx_state_is_a_tree_of_variables() -> None:
    module = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    turned = StoredParam("kernel", "in out -> out in", factor=2.0)
    params = map_params(nnx.state(module), {"a/kernel": turned, "a/bias": "bias"})
    np.testing.assert_array_equal(params["a"]["kernel"], 2 * module.kernel.get_value().T)
    assert params["a"]["bias"] is module.bias.get_value()


def test_some_layers_and_parts_side_by_side() -> None:
    tree = {
        f"l{layer}": {name: np.full((2, 3), 10 * layer + n) for n, name in enumerate("ab")}
        for layer in range(4)
    }
    places = [StoredParam(f"l{{layer}}/{name}", layers=(1, 3)) for name in "ab"]
    found = flatten(map_params(tree, {"x/kernel": places}))["x/kernel"]
    assert found.shape == (2, 2, 6)
    np.testing.assert_array_equal(found[:, 0], [[10] * 3 + [11] * 3, [30] * 3 + [31] * 3])


@pytest.mark.parametrize(
    ("param_map", "message"),
    [
        ({"a": "x", "b": "no"}, "no, of which b is made, is missing"),
        ({"a": "l{layer}/x"}, "l0/x, of which a is made, is missing"),
        ({"a": StoredParam("x", "i j k -> i j k")}, r"x has shape \(2, 3\), and 'i j k -> i j k' names 3"),
        ({"a": ["x", "y"]}, r"the parts of a have shapes \(2, 3\), \(4, 3\)"),
    ],
)
def test_what_does_not_fit_a_map_is_named(param_map: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        map_params({"x": np.zeros((2, 3)), "y": np.zeros((4, 3))}, param_map)


@pytest.mark.parametrize("axes", ["a b", "a b -> a", "a a -> a", "a b -> a b c", "-> a"])
def test_axes_that_cannot_be_read_are_refused(axes: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        rearranged(np.zeros((2, 3)), axes, "x")


def test_a_folder_without_a_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tree"):
        load_mapped_orbax(tmp_path, MAXTEXT)
