"""A decoder with several kinds of layers, beside the same decoder layer by layer, without pages, stacks or
kernels."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import ArrayLike

from jinfer import LLM
from jinfer.execution.kv_cache import KVHeads, KVLayout
from jinfer.models.attention import TokenBatch
from jinfer.models.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig
from jinfer.models.params import layer_stacks
from jinfer.models.registry import build_model
from jinfer.models.rope_config import LongRopeScaling, RopeConfig
from jinfer.placement import default_placement
from jinfer.weights.params import Params, flatten, num_bytes
from tests.models.paged_run import PagedRun

FLOAT32 = jnp.dtype("float32")
LOCAL = LayerConfig(
    AttentionConfig(
        4, 2, 8, RopeConfig(1e4), has_head_norms=True, sliding_window=5, soft_cap=2.0, rotary_dim=6
    ),
    MLPConfig(48),
)
WIDE = LayerConfig(
    AttentionConfig(
        *(2, 1, 16, RopeConfig(1e6)),
        qkv_bias=True,
        output_bias=True,
        has_sinks=True,
        has_interleaved_rope=True,
    ),
    MLPConfig(24, bias=True),
    has_post_norms=True,
)
UNTURNED = replace(LOCAL, attention=replace(LOCAL.attention, rope=None))
BEHIND = LayerConfig(
    AttentionConfig(4, 2, 8, RopeConfig(1e4), has_projection_norms=True),
    MLPConfig(40),
    has_post_norms=True,
    has_pre_norms=False,
)
CONFIG = ModelConfig(
    architecture="of four kinds",
    vocab_size=64,
    hidden_size=32,
    layers=(LOCAL, WIDE, UNTURNED, LOCAL, WIDE, BEHIND),
    rms_norm_eps=1e-6,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)
STACK_AND_INDEX = [
    *(("layers_0", 0), ("layers_1", 0), ("layers_0", 1), ("layers_0", 2), ("layers_1", 1)),
    ("layers_2", 0),
]
"""Of each layer: its stack, and its index there."""
MAX_LOGIT_ERROR = 1e-4
SEQUENCES = [list(range(3, 25)), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11]]
PROMPT_LENGTHS = [15, 4]


@pytest.fixture(scope="module")
def params() -> Params:
    """Random in every parameter, so that none is without effect."""
    abstract = build_model(CONFIG, FLOAT32, "xla").abstract_params
    leaves, structure = jax.tree.flatten(abstract)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype) for x in leaves])


@jax.default_matmul_precision("highest")
def plain_logits(params: Params, token_ids: ArrayLike) -> np.ndarray:
    """[tokens, vocab] of one sequence."""
    x = params["embedding"]["kernel"][jnp.asarray(token_ids)]
    for layer, (stack, index) in zip(CONFIG.layers, STACK_AND_INDEX, strict=True):
        x = plain_layer(layer, jax.tree.map(lambda stacked, i=index: stacked[i], params[stack]), x)
    return np.asarray(normed(x, params["final_norm"]["scale"][0]) @ params["embedding"]["kernel"].T)


def plain_layer(layer: LayerConfig, weights: Params, x: jax.Array) -> jax.Array:
    read = normed(x, weights["attention_norm"]["scale"]) if layer.has_pre_norms else x
    attended = plain_attention(layer.attention, weights["attention"], read)
    if layer.has_post_norms:
        attended = normed(attended, weights["attention_post_norm"]["scale"])
    x = x + attended
    read = normed(x, weights["mlp_norm"]["scale"]) if layer.has_pre_norms else x
    gate, up = jnp.split(linear(weights["mlp"]["gate_up"], read), 2, axis=-1)
    out = linear(weights["mlp"]["down"], jax.nn.silu(gate) * up)
    return x + (normed(out, weights["mlp_post_norm"]["scale"]) if layer.has_post_norms else out)


def plain_attention(config: AttentionConfig, weights: Params, x: jax.Array) -> jax.Array:
    num_tokens, position = len(x), jnp.arange(len(x))
    heads = linear(weights["qkv"], x).reshape(num_tokens, -1, config.head_dim)
    q, k, v = jnp.split(heads, [config.num_heads, config.num_heads + config.num_kv_heads], axis=1)
    if config.has_head_norms:
        q, k = normed(q, weights["q_norm"]["scale"]), normed(k, weights["k_norm"]["scale"])
    if config.has_projection_norms:
        q, k = (
            normed(each.reshape(num_tokens, -1), weights[name]["scale"]).reshape(each.shape)
            for name, each in (("q_projection_norm", q), ("k_projection_norm", k))
        )
    if config.rope is not None:
        q, k = turned(q, config), turned(k, config)
    k, v = (jnp.repeat(each, config.num_heads // config.num_kv_heads, axis=1) for each in (k, v))
    scores = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(config.head_dim)
    if config.soft_cap is not None:
        scores = config.soft_cap * jnp.tanh(scores / config.soft_cap)
    distance = position[:, None] - position
    seen = (distance >= 0) & (distance < (config.sliding_window or num_tokens))
    scores = jnp.where(seen, scores, -jnp.inf)
    sinks = weights["sinks"] if config.has_sinks else jnp.full(config.num_heads, -jnp.inf)
    sinks = jnp.broadcast_to(sinks[:, None, None], (config.num_heads, num_tokens, 1))
    probabilities = jax.nn.softmax(jnp.concatenate([scores, sinks], axis=-1), axis=-1)[..., :-1]
    return linear(weights["output"], jnp.einsum("hqk,khd->qhd", probabilities, v).reshape(num_tokens, -1))


def turned(heads: jax.Array, config: AttentionConfig) -> jax.Array:
    """Pairs of dimensions as complex numbers, turned by position * theta ** (-2i / rotary_dim)."""
    half = (config.rotary_dim or config.head_dim) // 2
    angles = jnp.arange(len(heads))[:, None] * config.rope.theta ** (-jnp.arange(half) / half)
    first, second = slice(0, half), slice(half, 2 * half)
    if config.has_interleaved_rope:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    pairs = (heads[..., first] + 1j * heads[..., second]) * jnp.exp(1j * angles)[:, None]
    return heads.at[..., first].set(pairs.real).at[..., second].set(pairs.imag)


def linear(weights: Params, x: jax.Array) -> jax.Array:
    return x @ weights["kernel"] + weights.get("bias", 0)


def normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + CONFIG.rms_norm_eps) * scale


@pytest.mark.parametrize("chunk_size", [100, 4])
def test_logits_are_those_of_the_plain_decoder(params, chunk_size):
    run = PagedRun(build_model(CONFIG, FLOAT32, "xla"), params)
    for sequence, logits in zip(SEQUENCES, run.logits(SEQUENCES, PROMPT_LENGTHS, chunk_size), strict=True):
        np.testing.assert_allclose(logits, plain_logits(params, sequence), rtol=0, atol=MAX_LOGIT_ERROR)


def test_an_engine_gives_its_greedy_tokens(params):
    prompts = [sequence[:length] for sequence, length in zip(SEQUENCES, PROMPT_LENGTHS, strict=True)]
    options = {"page_size": 4, "num_pages": 60, "max_num_seqs": 2, "max_num_batched_tokens": 8}
    with LLM(CONFIG, params=params, dtype="float32", progress=False, **options) as llm:
        outputs = llm.generate(prompts, temperature=0, max_tokens=8, ignore_eos=True)
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = list(output.outputs[0].token_ids)
        assert plain_logits(params, prompt + ids).argmax(-1)[len(prompt) - 1 : -1].tolist() == ids


def test_layers_of_a_kind_share_a_trace(params):
    model = build_model(CONFIG, FLOAT32, "xla")
    cache = default_placement().zeros(KVLayout.of(CONFIG, page_size=4, dtype=FLOAT32).abstract(3))
    one_token = jnp.ones(1, jnp.int32)
    tokens = TokenBatch(
        one_token, one_token, one_token, one_token, jnp.ones((1, 2), jnp.int32), one_token + 1
    )
    equations = jax.make_jaxpr(model.forward)(params, cache, tokens).jaxpr.eqns
    traces = [id(each.params["jaxpr"]) for each in equations if each.params.get("name") == "_layer"]
    assert len(traces) == len(CONFIG.layers)
    assert len(set(traces)) == len(set(CONFIG.layers)) == 4


def test_each_kind_has_a_stack_of_its_own():
    specs = build_model(CONFIG, FLOAT32, "xla").param_specs.by_path
    assert {path.split("/")[0] for path in specs} == {
        *("embedding", "final_norm"),
        *("layers_0", "layers_1", "layers_2"),
    }
    assert specs["layers_0/attention/qkv/kernel"].shape == (3, 32, (4 + 2 * 2) * 8)
    assert specs["layers_1/attention/qkv/kernel"].shape == (2, 32, (2 + 2 * 1) * 16)
    assert list(specs["layers_1/mlp/down/kernel"].tensor_names()) == [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.4.mlp.down_proj.weight",
    ]


def test_layers_that_differ_in_no_weight_share_a_stack_without_a_name(params):
    narrow = LayerConfig(
        AttentionConfig(4, 2, 8, RopeConfig(1e6), has_head_norms=True, sliding_window=3), MLPConfig(48)
    )
    config = ModelConfig("alike", 64, 32, (LOCAL, narrow, LOCAL), 1e-6, 64, tie_word_embeddings=True)
    (stack,) = layer_stacks(config)
    assert (stack.name, stack.layers) == (None, (0, 1, 2))
    assert "attention/qkv/kernel" in flatten(build_model(config, FLOAT32, "xla").abstract_params)


def test_each_layer_has_pages_of_its_own_shape():
    layout = KVLayout.of(CONFIG, page_size=4, dtype=FLOAT32)
    assert layout.layers == tuple(
        KVHeads(1, 16) if layer is WIDE else KVHeads(2, 8) for layer in CONFIG.layers
    )
    assert layout.page_bytes == num_bytes(layout.abstract(3)) / 3


def test_a_cache_in_8_bits_has_a_scale_for_each_position_and_head():
    layout = KVLayout.of(CONFIG, page_size=4, dtype=FLOAT32, kv_cache_dtype="int8")
    assert list(layout.position_bytes()) == [
        2 * (16 + 4 if layer is WIDE else 2 * (8 + 4)) for layer in CONFIG.layers
    ]
    for kv_cache_dtype, values in (("int8", jnp.int8), ("fp8_e4m3", jnp.float8_e4m3fn)):
        layout = KVLayout.of(CONFIG, page_size=4, dtype=FLOAT32, kv_cache_dtype=kv_cache_dtype)
        assert layout.page_bytes == num_bytes(layout.abstract(3)) / 3
        assert {pages.values.dtype for pages in layout.abstract(3)} == {jnp.dtype(values)}
        assert {pages.dtype for pages in layout.abstract(3)} == {FLOAT32}


def test_prompts_share_keys_where_every_layer_turns_them_alike():
    scaling = [LongRopeScaling(2.0, original, 1.0, (1.0,) * 4, (2.0,) * 4) for original in (10, 20)]
    attentions = [AttentionConfig(4, 2, 8, RopeConfig(1e4, each)) for each in scaling]
    layers = tuple(LayerConfig(attention, MLPConfig(48)) for attention in attentions)
    config = ModelConfig("of two ropes", 64, 32, layers, 1e-6, 64, tie_word_embeddings=True)
    assert [config.rotation_class(length) for length in (1, 10, 11, 20, 21, 30)] == [
        None,
        None,
        10,
        10,
        20,
        20,
    ]
    assert config.depends_on_length
    assert not CONFIG.depends_on_length


def test_layers_without_rope_leave_context_and_prefixes_to_the_others():
    scaled = RopeConfig(1e4, LongRopeScaling(2.0, 40, 1.0, (1.0,) * 4, (2.0,) * 4))
    turned = LayerConfig(AttentionConfig(4, 2, 8, scaled), MLPConfig(48))
    config = replace(CONFIG, layers=(turned, UNTURNED))
    assert (config.context_length, config.rotation_class(41), config.depends_on_length) == (80, 40, True)
    config = replace(CONFIG, layers=(UNTURNED, UNTURNED))
    assert (config.context_length, config.rotation_class(41), config.depends_on_length) == (64, None, False)
