"""Every shape is compiled before the first request, and nothing after it."""

from collections.abc import Iterator

import jax
import pytest

from jinfer import LLM, EngineError
from jinfer.batching.buckets import Buckets
from tests.tiny_model import CONTEXT, VOCAB_SIZE, tiny_llm

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with tiny_llm(max_num_seqs=2, page_size=4) as llm:
        yield llm


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """What XLA compiled since the test began, with nothing left from other tests that would hide it."""
    found: list[str] = []

    def record(name: str, seconds: float, **details) -> None:
        if name == COMPILED:
            found.append(f"{details} in {seconds:.2f} s")

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(record)
    yield found
    jax.monitoring.unregister_event_duration_listener(record)


def prompts(*lengths: int) -> list[list[int]]:
    return [[(7 * i + length) % VOCAB_SIZE for i in range(length)] for length in lengths]


def test_the_listener_sees_compilations(compilations):
    jax.jit(lambda x: x + 1)(1.0)
    assert compilations


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "seed": 3},
        {"n": 3},
        {"stop_token_ids": [5], "min_tokens": 2},
        {"logprobs": 0},
        {"logprobs": 7},
    ],
    ids=str,
)
def test_no_request_compiles_anything_not_even_the_first(llm, compilations, params):
    llm.generate(prompts(1), max_tokens=4, **params)
    llm.generate(prompts(3, 40, 17, 5, 16), max_tokens=8, **params)
    assert not compilations


def test_split_steps_compile_nothing_but_for_the_first_that_needs_them(llm, compilations):
    rules = {"presence_penalty": 1.0, "logit_bias": {3: 1.0}, "logprobs": 2, "prompt_logprobs": 2}
    llm.generate(prompts(3), max_tokens=2, logprobs_mode="processed_logprobs", **rules)
    assert compilations
    compilations.clear()
    llm.generate(prompts(3, 40, 17, 5, 16), max_tokens=8, **rules)
    llm.generate(prompts(30, 9), max_tokens=8, logprobs_mode="processed_logprobs", **rules)
    assert not compilations


def test_neither_do_an_aborted_and_a_preempted_request(llm, compilations):
    stream = llm.stream(prompts(3), max_tokens=20)
    next(stream)
    stream.close()
    llm.generate(prompts(20, 21, 22, 23), max_tokens=CONTEXT - 23)
    assert not compilations


def test_neither_does_a_request_that_finds_what_another_computed(llm, compilations):
    """Whole pages, and one in part."""
    first, longer = prompts(18)[0], [*prompts(18)[0], 3, 1, 4]
    llm.generate([first], max_tokens=4, temperature=0)
    (output,) = llm.generate([longer], max_tokens=4)
    assert output.num_cached_tokens == 18
    assert not compilations


def test_neither_does_a_request_after_a_fault(llm, compilations, monkeypatch):
    """The device state that replaces the lost one may cost a compilation; the requests after it may not."""

    def fail(*_):
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.executor, "dispatch", fail)
        with pytest.raises(EngineError, match="the device is gone"):
            llm.generate(prompts(3), max_tokens=4)
    compilations.clear()
    assert len(llm.generate(prompts(3, 9), max_tokens=4)) == 2
    assert not compilations


def test_every_shape_is_compiled(llm):
    assert set(llm.engine.executor.executables) == set(Buckets.for_limits(llm.limits).all)


def test_a_step_takes_over_the_state_that_it_is_given(llm):
    """Donation: the cache is not copied, and the old state is gone."""
    before = llm.engine.executor.state
    llm.generate(prompts(3), max_tokens=2)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    kv_cache = llm.engine.executor.state.kv_cache[0].array
    address = kv_cache.unsafe_buffer_pointer()
    llm.generate(prompts(3), max_tokens=2)
    assert llm.engine.executor.state.kv_cache[0].array.unsafe_buffer_pointer() == address
