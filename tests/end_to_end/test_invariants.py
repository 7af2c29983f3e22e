"""The tokens of a request depend on the request and the weights alone: the promises of the whole engine, in
float32.

Requests run together in small engines of all kinds, joining and leaving at random, and each must give the
tokens that it gives alone in a plain engine. Pages that nobody may read hold NaN.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from jinfer import LLM, FinishReason, RequestError, SamplingParams
from tests.end_to_end.together import (
    CROWD,
    ENGINES,
    LONG_CROWD,
    NUM_EXAMPLES,
    NUM_INTERPRETED_EXAMPLES,
    OPEN,
    ORIGINAL,
    RULED,
    SHARING,
    Job,
    agrees,
    alone,
    check_idle,
    jobs,
    model_of,
    no_rules,
    plain_llm,
    poisoned_llm,
    rounding_decides,
    rules,
    run_staggered,
)
from tests.tiny_model import CONTEXT, shared_llm


@pytest.fixture(autouse=True, scope="module")
def engines_are_closed() -> Iterator[None]:
    """Else their programs would be mapped until the process ends (see MANY_MAPPINGS in conftest.py)."""
    yield
    while OPEN:
        OPEN.popitem()[1].close()


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_depend_on_the_request_alone(engine):
    llm, has_few_pages = poisoned_llm(engine), "num_pages" in ENGINES[engine]
    model = model_of(engine)
    before_all = llm.engine.stats()
    is_interpreted = ENGINES[engine].get("kernels") == "pallas" and jax.default_backend() != "gpu"
    num_examples = NUM_INTERPRETED_EXAMPLES if is_interpreted else NUM_EXAMPLES
    # Steps of two halves have programs of their own, which would take as long to interpret once more.
    extra = no_rules if is_interpreted else no_rules | no_rules | rules

    @settings(
        max_examples=num_examples, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(jobs(extra), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=40))
    @example(CROWD, [0, 1, 2, 3, 4, 5])
    @example(LONG_CROWD, [])
    @example(SHARING, [0, 1, 2, 3, 4])
    @example(CROWD if is_interpreted else RULED, [0, 1, 2, 3, 4, 5, 5, 4, 3])
    @example([CROWD[0], *(dataclasses.replace(job, leaves_after=2) for job in CROWD[1:4]), *CROWD[4:]], [])
    def check(some_jobs: list[Job], turns: list[int]) -> None:
        before = llm.engine.stats()
        together = run_staggered(llm, some_jobs, turns)
        check_idle(llm)
        after = llm.engine.stats()
        event(f"preempted: {after.num_preemptions > before.num_preemptions}")
        event(f"prefix found: {after.num_prefix_hit_tokens > before.num_prefix_hit_tokens}")
        for job, found in zip(some_jobs, together, strict=True):
            expected = alone(job.prompt, job.params, model)
            if not all(map(functools.partial(agrees, job), found, expected)):
                assert rounding_decides(job, model), f"{job}\ntogether {found}\nalone {expected}"
                event("rounding decides")

    check()
    after_all = llm.engine.stats()
    assert (after_all.num_preemptions > before_all.num_preemptions) == has_few_pages, (
        "few pages are there to run out"
    )
    finds_prefixes = after_all.num_prefix_hit_tokens > before_all.num_prefix_hit_tokens
    assert finds_prefixes == llm.config.cache.prefix_caching, (
        "what requests have in common is there to be found"
    )


@pytest.fixture
def small_llm() -> LLM:
    """With few pages, and idle: for the examples below."""
    return poisoned_llm("few pages of 4")


def expected_tokens(job: Job) -> tuple[int, ...]:
    return alone(job.prompt, job.params)[0].token_ids


def test_order_and_company_change_nothing(small_llm):
    """The same requests in one call, forwards and backwards, with the text's other outputs beside them."""
    for order in (CROWD, CROWD[::-1], CROWD[3:] + CROWD[:3]):
        outputs = small_llm.generate([job.prompt for job in order], [job.params for job in order])
        assert [out.outputs[0].token_ids for out in outputs] == [expected_tokens(job) for job in order]
        check_idle(small_llm)


def test_log_probabilities_depend_on_the_request_alone(small_llm):
    params = [dataclasses.replace(job.params, logprobs=3) for job in CROWD]
    together = small_llm.generate([job.prompt for job in CROWD], params)
    for job, one, found in zip(CROWD, params, together, strict=True):
        expected = plain_llm().generate([job.prompt], one)[0].outputs[0]
        for mine, theirs, token_id in zip(
            found.outputs[0].logprobs, expected.logprobs, expected.token_ids, strict=True
        ):
            assert mine.keys() == theirs.keys()
            assert token_id in mine
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=0, atol=1e-4)
        assert found.outputs[0].cumulative_logprob == pytest.approx(expected.cumulative_logprob, abs=1e-3)


@pytest.mark.parametrize(
    "llm_of",
    [
        functools.partial(poisoned_llm, "int8 cache, short steps, few pages of 4"),
        functools.partial(plain_llm, "fp8 cache"),
        functools.partial(poisoned_llm, "calibrated cache, short steps, few pages of 4"),
    ],
    ids=["int8", "fp8", "calibrated"],
)
def test_a_token_has_the_log_probability_that_it_has_in_a_prompt(llm_of):
    """Decoded, in company and after a preemption, or computed with the prompt that it is a part of: every
    token attends to its own key and value as the cache holds them.

    Products of one row and of many differ in the last bits of float32. That is all that most tokens show; an
    element that lies between two steps of the cache is now and then rounded to the other one."""
    llm, crowd = llm_of(), [job for job in CROWD if len(job.prompt) > 1]
    params = [dataclasses.replace(job.params, n=1, logprobs=0) for job in crowd]
    decoded = llm.generate([job.prompt for job in crowd], params)
    texts = [(*output.prompt_token_ids, *output.outputs[0].token_ids)[: CONTEXT - 1] for output in decoded]
    scored = llm.generate(texts, SamplingParams(max_tokens=1, prompt_logprobs=0, cache_salt="scored"))
    differences = []
    for output, text, score in zip(decoded, texts, scored, strict=True):
        for i, mine in enumerate(output.outputs[0].logprobs, len(output.prompt_token_ids)):
            if i < len(text):
                differences.append(abs(mine[text[i]] - score.prompt_logprobs[i][text[i]]))
    assert np.median(differences) < 1e-5
    assert max(differences) < 2e-3


@pytest.fixture
def with_nan_embedding(small_llm, monkeypatch):
    """An id whose embedding is NaN, so that logits are NaN from the position on at which it stands. Requests
    that have it should have a salt that no request before had, for the prefix cache keeps what was computed
    without NaN."""

    def poison_id(token_id: int) -> None:
        params = small_llm.engine.executor.params
        kernel = params["embedding"]["kernel"].at[token_id].set(np.nan)
        monkeypatch.setattr(small_llm.engine.executor, "params", {**params, "embedding": {"kernel": kernel}})

    return poison_id


def jobs_without(token_id: int) -> list[Job]:
    candidates = [
        Job((i, i + 1, i + 2), SamplingParams(temperature=1.0, seed=i, max_tokens=12)) for i in range(30)
    ]
    return [job for job in candidates if token_id not in (*job.prompt, *expected_tokens(job))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_whose_logits_are_nan_fails_alone(small_llm, with_nan_embedding, temperature):
    bad_id = 50
    good = jobs_without(bad_id)[:3]
    with_nan_embedding(bad_id)
    bad = SamplingParams(temperature=temperature, max_tokens=12, cache_salt="NaN")
    outputs = small_llm.generate(
        [good[0].prompt, (1, 2, bad_id, 4), good[1].prompt, (bad_id,), good[2].prompt],
        [good[0].params, bad, good[1].params, bad, good[2].params],
    )
    for failed in (outputs[1], outputs[3]):
        assert failed.finished
        assert failed.outputs[0].finish_reason is FinishReason.ERROR
        assert failed.outputs[0].token_ids == ()
        assert "not finite (NaN or infinity)" in (failed.outputs[0].error or "")
    for job, output in zip(good, (outputs[0], outputs[2], outputs[4]), strict=True):
        assert output.outputs[0].token_ids == expected_tokens(job)
        assert output.outputs[0].error is None
    check_idle(small_llm)


def test_a_request_that_becomes_nan_keeps_the_tokens_before(small_llm, with_nan_embedding):
    job = CROWD[1]
    tokens = expected_tokens(job)
    bad_id = next(token_id for token_id in tokens[3:-1] if token_id not in job.prompt)
    with_nan_embedding(bad_id)
    pieces = list(small_llm.stream([job.prompt], job.params))
    assert (
        tuple(token_id for piece in pieces for token_id in piece.token_ids)
        == tokens[: tokens.index(bad_id) + 1]
    )
    assert [piece.finish_reason for piece in pieces[-2:]] == [None, FinishReason.ERROR]
    check_idle(small_llm)


@pytest.mark.parametrize("min_tokens", [CONTEXT, 2**31 - 1])
def test_a_min_tokens_that_no_context_holds_harms_nobody(small_llm, min_tokens):
    """It is refused before it runs; and a neighbour that runs already gets its tokens."""
    neighbour = CROWD[1]
    stream = small_llm.stream([neighbour.prompt], neighbour.params)
    pieces = [next(stream)]
    with pytest.raises(RequestError, match="min_tokens"):
        small_llm.generate([(1, 2)], temperature=0, min_tokens=min_tokens)
    pieces += stream
    assert tuple(token_id for piece in pieces for token_id in piece.token_ids) == expected_tokens(neighbour)


def test_what_a_failed_request_computed_is_not_found_by_others(small_llm, with_nan_embedding, monkeypatch):
    """The same prompt, once with a fault of the weights, and then without."""
    job = Job(tuple(range(40, 50)), SamplingParams(temperature=0, max_tokens=5, cache_salt="once"))
    expected = expected_tokens(job)
    with monkeypatch.context() as patch:
        params = small_llm.engine.executor.params
        broken = {**params, "embedding": {"kernel": params["embedding"]["kernel"].at[41].set(np.nan)}}
        patch.setattr(small_llm.engine.executor, "params", broken)
        (failed,) = small_llm.generate([job.prompt], job.params)[0].outputs
    assert failed.finish_reason is FinishReason.ERROR
    assert small_llm.generate([job.prompt], job.params)[0].outputs[0].token_ids == expected


@pytest.mark.parametrize("overlap", [True, False])
def test_a_prompt_that_is_found_gives_the_same_tokens_from_fewer_that_are_computed(overlap):
    llm = shared_llm(page_size=4, overlap=overlap)
    prompt, params = tuple(range(20, 40)), SamplingParams(temperature=0, max_tokens=6)
    first = llm.generate([prompt], params)[0]
    llm.generate([(5,) * 30], params)  # puts other pages into the row's page table
    again = llm.generate([prompt], params)[0]
    longer = llm.generate([(*prompt, *first.outputs[0].token_ids, 3)], params)[0]
    salted = llm.generate([prompt], dataclasses.replace(params, cache_salt="another"))[0]

    assert first.outputs[0].token_ids == again.outputs[0].token_ids == salted.outputs[0].token_ids
    assert [out.num_cached_tokens for out in (first, again, longer, salted)] == [0, 19, 24, 0]
    assert longer.outputs[0].token_ids == alone(longer.prompt_token_ids, params)[0].token_ids


def test_a_stream_that_is_left_frees_its_pages_at_once(small_llm):
    streams = [small_llm.stream([job.prompt], job.params) for job in CROWD[:3]]
    for stream in streams:
        next(stream)
    assert small_llm.engine.scheduler.num_running == 3
    for stream in streams:
        stream.close()
    check_idle(small_llm)


SHORT_PROMPT = tuple(range(8))


@pytest.mark.parametrize("engine", [name for name in ENGINES if "longrope" in name or "dynamic" in name])
def test_what_follows_a_prompt_across_the_original_context_is_turned_as_when_it_is_alone(engine):
    """A short prompt whose output crosses it leaves keys that a longer prompt with the same tokens must not
    see, and a short one may."""
    llm = poisoned_llm(engine)
    model = "longrope" if "longrope" in engine else "dynamic"
    params = SamplingParams(temperature=0.0, max_tokens=24, cache_salt=f"across {engine}")

    def tokens_of(prompt: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        (output,) = llm.generate([prompt], params)
        assert output.outputs[0].token_ids == alone(prompt, params, model)[0].token_ids
        return output.num_cached_tokens, output.outputs[0].token_ids

    _, output = tokens_of(SHORT_PROMPT)
    follow_up = (*SHORT_PROMPT, *output[:12])
    assert len(SHORT_PROMPT) < ORIGINAL < len(follow_up)
    assert tokens_of(follow_up)[0] == 0, "its keys are turned otherwise from the first on"
    num_cached, again = tokens_of(SHORT_PROMPT)
    assert (num_cached > 0, again) == (True, output)
    assert tokens_of(follow_up)[0] > 0, "the same length is turned alike"
    longer = (*follow_up, 7)
    assert (tokens_of(longer)[0] > 0) == (model == "longrope"), "dynamic frequencies are each length's own"
    check_idle(llm)
