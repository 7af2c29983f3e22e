"""The tokens of a request depend on the request and the weights alone: the promises of the whole engine, in
float32.

Requests run together in small engines of all kinds, joining and leaving at random, and each must give the
tokens that it gives alone in a plain engine. Pages that nobody may read hold NaN.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from jinfer import LLM, FinishReason, RequestError, SamplingParams
from jinfer.requests.new_request import SEED_MODULUS, SEED_STEP
from jinfer.requests.structured_outputs import StructuredOutputs
from tests.poison import poisoned
from tests.tiny_model import CONFIG, CONTEXT, VOCAB_SIZE, letters_tokenizer, shared_llm, tiny_llm

NUM_EXAMPLES, NUM_INTERPRETED_EXAMPLES = 20, 5  # besides those that are written out
MAX_PROMPT = 40
ROUNDING = 3e-6  # relative; twenty times the spacing of float32

FEW_PAGES = {
    size: {"page_size": size, "num_pages": 1 + -(-CONTEXT // size) + extra}
    for size, extra in ((1, 2), (4, 1), (16, 1))
}
SHORT_STEPS = {"max_num_batched_tokens": 4}
# The context before it was extended, of models whose keys are turned by the sequence's length as well.
ORIGINAL = 12
MODELS: dict[str, dict[str, Any]] = {
    "static": dict(CONFIG),
    "longrope": {
        **CONFIG,
        "rope_scaling": {
            "rope_type": "longrope",
            "original_max_position_embeddings": ORIGINAL,
            "short_factor": [1.0, 1.5, 2.0, 3.0],
            "long_factor": [2.0, 4.0, 8.0, 16.0],
        },
    },
    "dynamic": {
        **CONFIG,
        "max_position_embeddings": ORIGINAL,
        "rope_scaling": {"rope_type": "dynamic", "factor": CONTEXT / ORIGINAL},
    },
}
# Every switch is on in several and off in several, with pages of every size, and where they are few. Two
# engines have kernels, a shape of which takes ten seconds to compile where they are interpreted: they have
# two rows, and so one shape less.
ENGINES: dict[str, dict[str, Any]] = {
    "short steps, pages of 1, two in flight": {"page_size": 1, **SHORT_STEPS},
    "few pages of 1, no prefix cache, decode first": {
        **FEW_PAGES[1],
        "prefix_caching": False,
        "scheduling_policy": "decode_first",
    },
    "few pages of 4": FEW_PAGES[4],
    "short steps, few pages of 16, no overlap, prefill first": {
        **FEW_PAGES[16],
        **SHORT_STEPS,
        "overlap": False,
        "scheduling_policy": "prefill_first",
    },
    "pallas, few pages of 1, prefill first, two in flight": {
        **FEW_PAGES[1],
        "max_num_seqs": 2,
        "kernels": "pallas",
        "scheduling_policy": "prefill_first",
    },
    "longrope, short steps, few pages of 4": {**FEW_PAGES[4], **SHORT_STEPS, "config": MODELS["longrope"]},
    "dynamic, few pages of 1, decode first": {
        **FEW_PAGES[1],
        "scheduling_policy": "decode_first",
        "config": MODELS["dynamic"],
    },
    "pallas, dynamic, short steps, pages of 4, no overlap, decode first": {
        "page_size": 4,
        **SHORT_STEPS,
        "max_num_seqs": 2,
        "kernels": "pallas",
        "overlap": False,
        "scheduling_policy": "decode_first",
        "config": MODELS["dynamic"],
    },
}


@dataclass(frozen=True)
class Job:
    """A request, and after how many pieces its caller leaves (None: never)."""

    prompt: tuple[int, ...]
    params: SamplingParams
    leaves_after: int | None = None


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None


OPEN: dict[str, LLM] = {}


@pytest.fixture(autouse=True, scope="module")
def engines_are_closed() -> Iterator[None]:
    """Else their programs would be mapped until the process ends (see MANY_MAPPINGS in conftest.py)."""
    yield
    while OPEN:
        OPEN.popitem()[1].close()


def poisoned_llm(name: str) -> LLM:
    """Compiled once for the tests of this file."""
    if name not in OPEN:
        OPEN[name] = poisoned(tiny_llm(**ENGINES[name], tokenizer=letters_tokenizer()))
        if "two in flight" in name:  # always, and not only while the host hardly waits for the device
            OPEN[name].engine.in_flight.depth = lambda last_wait_s: 2
    return OPEN[name]


@functools.cache
def plain_llm(model: str = "static") -> LLM:
    """One request at a time, its prompt in one chunk, plenty of pages, and nothing is kept of it."""
    options = {"max_num_seqs": 1, "max_num_batched_tokens": CONTEXT, "prefix_caching": False}
    return tiny_llm(MODELS[model], **options, tokenizer=letters_tokenizer())


ALONE: dict[tuple[Any, ...], tuple[Completion, ...]] = {}


def alone(prompt: tuple[int, ...], params: SamplingParams, model: str = "static") -> tuple[Completion, ...]:
    """What each completion of a request is when it is the only one that there is. Found once."""
    key = prompt, repr(params), model
    if key not in ALONE:
        ALONE[key] = tuple(alone_with(plain_llm(model), prompt, params))
    return ALONE[key]


def alone_with(llm: LLM, prompt: tuple[int, ...], params: SamplingParams) -> Iterator[Completion]:
    for index in range(params.n):
        seed = None if params.seed is None else (params.seed + index * SEED_STEP) % SEED_MODULUS
        (output,) = llm.generate([prompt], dataclasses.replace(params, n=1, seed=seed))[0].outputs
        yield Completion(output.token_ids, output.finish_reason)


def rounding_decides(job: Job, model: str) -> bool:
    """Whether weights that differ in their last bits give other tokens: two logits, or what a filter
    compares, are as good as equal, and steps of another shape, which add in another order, may choose
    either."""
    executor = plain_llm(model).engine.executor
    params, rng = executor.params, np.random.default_rng(0)
    try:
        for _ in range(16):
            executor.params = jax.tree.map(
                lambda x: x * (1 + ROUNDING * rng.normal(size=x.shape).astype(x.dtype)), params
            )
            if tuple(alone_with(plain_llm(model), job.prompt, job.params)) != alone(
                job.prompt, job.params, model
            ):
                return True
    finally:
        executor.params = params
    return False


# --- what hypothesis chooses

greedy = st.just({"temperature": 0.0})
sampled = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 2, 20]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5]),
        "min_p": st.sampled_from([0.0, 0.05, 0.3]),
        "seed": st.integers(0, SEED_MODULUS - 1),
        "n": st.sampled_from([1, 1, 2]),
    }
)
token_ids = st.integers(0, VOCAB_SIZE - 1)
STRUCTURES = [StructuredOutputs(regex="[a-m ]{4,12}"), StructuredOutputs(regex="([A-Z][a-z]+ )*")]
# What makes steps of two halves, in one request of three.
no_rules: st.SearchStrategy[dict[str, Any]] = st.just({})
rules = st.fixed_dictionaries(
    {},
    optional={
        "presence_penalty": st.sampled_from([-2.0, 0.5, 2.0]),
        "frequency_penalty": st.sampled_from([-1.0, 0.3, 2.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.3]),
        "logit_bias": st.dictionaries(token_ids, st.floats(-100, 100), max_size=4),
        "allowed_token_ids": st.just(tuple(range(0, VOCAB_SIZE, 3))),
        "logprobs": st.just(2),
        "logprobs_mode": st.just("processed_logprobs"),
        "prompt_logprobs": st.integers(0, 2),
        "bad_words": st.lists(st.text("abcdefg", min_size=1, max_size=3), min_size=1, max_size=3),
        "structured_outputs": st.sampled_from(STRUCTURES),
    },
)
# Which prompts may have in common, for a while.
BEGINNINGS = (
    (),
    tuple(range(MAX_PROMPT)),
    (7,) * MAX_PROMPT,
)


@st.composite
def jobs(draw: st.DrawFn, extra: st.SearchStrategy[dict[str, Any]]) -> Job:
    beginning = draw(st.sampled_from(BEGINNINGS))[: draw(st.integers(0, MAX_PROMPT - 1))]
    own = draw(st.lists(token_ids, min_size=1, max_size=MAX_PROMPT - len(beginning)))
    prompt = (*beginning, *own)
    max_tokens = draw(st.integers(1, CONTEXT - len(prompt)))
    params = SamplingParams(
        **draw(greedy | sampled),
        **draw(extra),
        max_tokens=max_tokens,
        min_tokens=draw(st.sampled_from([0, 0, min(3, max_tokens)])),
        stop_token_ids=draw(st.sampled_from([None, (5, 18, 33, 47, 60)])),
        cache_salt=draw(st.sampled_from([None, None, None, "salt"])),
    )
    return Job(prompt, params, draw(st.none() | st.none() | st.integers(1, 8)))


def crowd_job(i: int, max_tokens: int) -> Job:
    params = SamplingParams(temperature=0.0 if i % 2 else 1.0, seed=i, max_tokens=max_tokens)
    return Job((i, 2 * i + 1, 40 - i), params)


# The few pages of 1 and 4 hold two of these when they end.
CROWD = [crowd_job(i, max_tokens=18) for i in range(6)]
RULED = [  # beside requests without rules, whose prompts they share
    dataclasses.replace(job, params=dataclasses.replace(job.params, **rules))
    for job, rules in zip(
        CROWD,
        [
            {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
            {},
            {"logit_bias": {5: 100.0}, "logprobs": 2, "logprobs_mode": "processed_logprobs"},
            {"prompt_logprobs": 2, "structured_outputs": STRUCTURES[0]},
            {"allowed_token_ids": tuple(range(0, VOCAB_SIZE, 3)), "min_tokens": 2, "stop_token_ids": (5, 18)},
            {},
        ],
        strict=True,
    )
]
SHARING = [  # two by two the same, with 17 tokens in common, and one of another salt
    Job(
        (*BEGINNINGS[1][:17], i // 2),
        SamplingParams(temperature=1.0, seed=i, max_tokens=6, n=1 + i % 2, cache_salt=salt),
    )
    for i, salt in enumerate([None, None, None, None, "salt"])
]
LONG_CROWD = [crowd_job(i, max_tokens=40) for i in range(4)]  # and the few pages of 16 one of these


# --- running them together


def run_staggered(llm: LLM, some_jobs: list[Job], turns: Iterable[int]) -> list[list[Completion]]:
    """Each job is a stream of its own, which begins at its first turn and gets a piece at every turn; in the
    end they take turns in order."""
    streams = [llm.stream([job.prompt], job.params) for job in some_jobs]
    pieces: list[list] = [[] for _ in some_jobs]
    open_places = set(range(len(some_jobs)))
    for turn in itertools.chain(turns, itertools.count()):
        place = turn % len(some_jobs)
        if place in open_places:
            piece = next(streams[place], None)
            pieces[place] += [] if piece is None else [piece]
            if piece is None or len(pieces[place]) == some_jobs[place].leaves_after:
                streams[place].close()
                open_places.remove(place)
        if not open_places:
            return [completions(job, parts) for job, parts in zip(some_jobs, pieces, strict=True)]
    raise AssertionError("unreachable")


def completions(job: Job, pieces: list) -> list[Completion]:
    found = []
    for index in range(job.params.n):
        of_one = [piece for piece in pieces if piece.output_index == index]
        tokens = tuple(token_id for piece in of_one for token_id in piece.token_ids)
        found.append(Completion(tokens, of_one[-1].finish_reason if of_one else None))
    return found


def agrees(job: Job, completion: Completion, expected: Completion) -> bool:
    if job.leaves_after is None or completion.finish_reason is not None:
        return completion == expected
    return completion.token_ids == expected.token_ids[: len(completion.token_ids)]


def check_idle(llm: LLM) -> None:
    llm.check_integrity()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.page_pool.num_used == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_depend_on_the_request_alone(engine):
    llm, has_few_pages = poisoned_llm(engine), "num_pages" in ENGINES[engine]
    model = next(name for name, config in MODELS.items() if config == ENGINES[engine].get("config", CONFIG))
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
