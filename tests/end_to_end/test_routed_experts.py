"""The experts of every token, where an engine brings them to the host: in outputs, and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer import ConfigError, RequestError, SamplingParams
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.quantization.layer_inputs import PAGE_SIZE, window_tokens
from jinfer.server.metrics import ServerMetrics
from tests.end_to_end.together import EXPERTS
from tests.tiny_model import CONFIG, random_params, tiny_llm

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [3, 1, 4, 1, 5, 9, 2, 7, 8], [2]]
GREEDY = SamplingParams(temperature=0, max_tokens=7)
NUM_EXPERTS, TOP_K = EXPERTS["num_experts"], EXPERTS["num_experts_per_tok"]
OPTIONS = {"routed_experts": True, "max_num_batched_tokens": 5, "page_size": 4, "overlap": False}


@pytest.fixture(scope="module")
def llm():
    with tiny_llm(EXPERTS, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def routed(llm):
    """Outputs of prompts together, each of several chunks, the counts of their experts, and the outputs of
    the same prompts again."""
    first = llm.generate(PROMPTS, GREEDY)
    return first, llm.stats().expert_tokens, llm.generate(PROMPTS, GREEDY)


@pytest.fixture(scope="module")
def whole():
    """The experts of the tokens of a sequence, computed at once: [tokens, layers, k]."""
    model = build_model(read_model_config(EXPERTS), jnp.dtype("float32"), "xla")
    cache = default_placement().zeros(KVLayout.of(model.config, PAGE_SIZE, jnp.dtype("float32")).abstract(4))
    params = jax.tree.map(jnp.asarray, random_params(EXPERTS))

    def experts(token_ids):
        tokens = window_tokens(len(token_ids))._replace(token_ids=jnp.asarray(token_ids))
        found = model.routed_forward(params, cache, tokens)[2]
        return np.stack(found, axis=1)

    return experts


def test_they_are_those_of_the_whole_sequence_at_once(routed, whole):
    for output in routed[0][:1] + routed[0][2:]:
        completion = output.outputs[0]
        token_ids, found = [*output.prompt_token_ids, *completion.token_ids], completion.routed_experts
        assert found.shape == (len(token_ids), 1, TOP_K)
        np.testing.assert_array_equal(found[:-1], whole(token_ids[:-1]))
        assert (found[-1] == -1).all(), "no step computes the last token"


def test_tokens_that_were_found_in_the_cache_have_none(routed, whole):
    first, _, again = routed
    for output in again[:2]:
        completion, num_cached = output.outputs[0], output.num_cached_tokens
        assert num_cached > 0
        assert (completion.routed_experts[:num_cached] == -1).all()
        wanted = whole([*output.prompt_token_ids, *completion.token_ids[:-1]])
        np.testing.assert_array_equal(completion.routed_experts[num_cached:-1], wanted[num_cached:])
    assert [each.outputs[0].token_ids for each in again] == [each.outputs[0].token_ids for each in first]


def test_the_tokens_of_each_expert_are_counted(routed):
    outputs, counts, _ = routed
    ids = np.concatenate([output.outputs[0].routed_experts for output in outputs])
    assert counts == [np.bincount(ids[ids >= 0], minlength=NUM_EXPERTS).tolist()]


def test_tokens_are_those_of_an_engine_without_the_option(routed):
    with tiny_llm(EXPERTS) as plain:
        outputs = plain.generate(PROMPTS, GREEDY)
        assert plain.stats().expert_tokens is None
    assert [each.outputs[0].token_ids for each in outputs] == [
        each.outputs[0].token_ids for each in routed[0]
    ]
    assert outputs[0].outputs[0].routed_experts is None


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"presence_penalty": 1.0}, "what changes its logits"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"logprobs": 1, "logprobs_mode": "processed_logprobs"}, "of processed logits"),
    ],
)
def test_requests_whose_steps_do_not_tell_them_are_refused(llm, asked, what):
    with pytest.raises(RequestError, match=what):
        llm.generate(PROMPTS, SamplingParams(**asked))


def test_a_model_without_experts_is_refused():
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM has no layer with experts"):
        tiny_llm(CONFIG, routed_experts=True)


def test_the_counts_are_metrics(llm, routed):
    text = ServerMetrics("m", llm.stats).render().decode()
    for expert, count in enumerate(llm.stats().expert_tokens[0]):
        labels = f'expert="{expert}",layer="0",model_name="m"'
        assert f"jinfer:expert_tokens_total{{{labels}}} {float(count)}" in text
