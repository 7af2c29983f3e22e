"""LLM from the caller's side: everything that comes back, and that whatever happens the LLM stays usable."""

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinfer
from jinfer import LLM, CheckpointError, EngineError, FinishReason, RequestOutput, SamplingParams, StreamPiece
from jinfer.models.checkpoint import load_checkpoint
from jinfer.models.registry import build_model, read_model_config
from jinfer.models.weights import flatten, num_bytes, unflatten
from tests.checkpoints import (
    BOS_ID,
    CONFIG,
    CONTEXT,
    EOS,
    EOS_ID,
    TINY_ENGINE,
    write_checkpoint,
)

TEXT = "the cat sat"
PROMPTS = [TEXT, "once upon a time", [5, 6, 7], "rain", list(range(100, 120))]  # more than rows, one longer than a step
MESSAGES = [{"role": "user", "content": "the cat"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
RANDOM = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True, "seed": 7}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def shared_llm(directory) -> Iterator[LLM]:
    with LLM(directory, **TINY_ENGINE) as llm:
        yield llm


@pytest.fixture
def llm(shared_llm) -> Iterator[LLM]:
    """The LLM that the tests share, which each must leave idle and whole."""
    yield shared_llm
    assert not shared_llm._engine.has_work
    assert not shared_llm._inboxes
    shared_llm.check_integrity()


@pytest.fixture(scope="module")
def params(directory) -> dict[str, Any]:
    """The weights of the shared LLM, as a caller's own."""
    model = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "reference")
    return load_checkpoint(model, directory, progress=False)


def ids_of(outputs: list[RequestOutput]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in output.outputs] for output in outputs]


def first_ids(llm: LLM, prompt: Any, **options: Any) -> tuple[int, ...]:
    return llm.generate(prompt, **options)[0].outputs[0].token_ids


def live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def joined(pieces: list[StreamPiece], prompt_index: int = 0, output_index: int = 0) -> tuple[str, tuple[int, ...]]:
    """The text and the ids of one completion, of whose pieces the last and no other must say why it ended."""
    own = [piece for piece in pieces if (piece.prompt_index, piece.output_index) == (prompt_index, output_index)]
    assert [piece.finish_reason is not None for piece in own] == [False] * (len(own) - 1) + [True]
    return "".join(map(str, own)), tuple(token_id for piece in own for token_id in piece.token_ids)


class TestPrompts:
    def test_text_and_its_ids_in_any_form_are_the_same_prompt(self, llm):
        ids = llm.tokenizer.encode(TEXT)
        forms = [TEXT, ids, tuple(ids), np.array(ids), jnp.array(ids), [TEXT], [ids], [np.array(ids)]]
        outputs = [llm.generate(form, **GREEDY) for form in forms]

        assert all(len(output) == 1 for output in outputs)
        assert len({output[0].outputs[0].token_ids for output in outputs}) == 1
        assert {output[0].prompt_token_ids for output in outputs} == {tuple(ids)}
        assert [output[0].prompt for output in outputs] == [TEXT, *[None] * 4, TEXT, None, None]

    def test_outputs_are_in_the_order_of_the_prompts_and_equal_those_of_each_alone(self, llm):
        together = llm.generate(PROMPTS, **RANDOM)
        alone = [llm.generate([prompt], **RANDOM)[0] for prompt in PROMPTS]

        assert ids_of(together) == ids_of(alone)
        assert [output.text for output in together] == [output.text for output in alone]
        assert [output.prompt for output in together] == [p if isinstance(p, str) else None for p in PROMPTS]
        assert len({tokens for (tokens,) in ids_of(together)}) == len(PROMPTS)

    def test_an_empty_text_is_the_bos_token_alone(self, llm):
        assert llm.generate("", **GREEDY)[0].prompt_token_ids == (BOS_ID,)


class TestParams:
    def test_one_for_all_one_for_each_and_keywords(self, llm):
        prompts = PROMPTS[:2]
        each = [SamplingParams(**RANDOM), SamplingParams(**GREEDY)]
        keywords = [first_ids(llm, prompts[0], **RANDOM), first_ids(llm, prompts[1], **GREEDY)]

        assert ids_of(llm.generate(prompts, each)) == [[tokens] for tokens in keywords]
        assert ids_of(llm.generate(prompts, each[0])) == ids_of(llm.generate(prompts, **RANDOM))

    def test_the_same_seed_gives_the_same_tokens_and_another_gives_others(self, llm):
        first = first_ids(llm, TEXT, **RANDOM)

        assert first_ids(llm, TEXT, **RANDOM) == first
        assert first_ids(llm, TEXT, **RANDOM | {"seed": 8}) != first
        assert first_ids(llm, TEXT, **GREEDY) != first

    def test_without_a_seed_each_call_draws_anew(self, llm):
        unseeded = RANDOM | {"seed": None}

        assert first_ids(llm, TEXT, **unseeded) != first_ids(llm, TEXT, **unseeded)

    def test_n_completions_differ_and_are_those_of_the_seed(self, llm):
        (output,) = llm.generate(TEXT, n=3, **RANDOM)

        assert [completion.index for completion in output.outputs] == [0, 1, 2]
        assert len({completion.token_ids for completion in output.outputs}) == 3
        assert output.text == output.outputs[0].text
        assert ids_of([output]) == ids_of(llm.generate(TEXT, n=3, **RANDOM))
        assert output.outputs[0].token_ids == first_ids(llm, TEXT, **RANDOM)
        assert output.metrics.num_output_tokens == 3 * 12

    def test_filters_narrow_the_choice(self, llm):
        greedy = first_ids(llm, TEXT, **GREEDY)

        assert first_ids(llm, TEXT, **RANDOM, top_k=1) == greedy
        assert first_ids(llm, TEXT, **RANDOM, top_p=1e-6) == greedy
        assert first_ids(llm, TEXT, **RANDOM, min_p=1.0) == greedy


class TestOutputs:
    def test_every_field_of_a_finished_request(self, llm):
        (output,) = llm.generate(TEXT, **GREEDY)
        (completion,) = output.outputs

        assert output.request_id.startswith("request-")
        assert output.prompt == TEXT
        assert output.prompt_token_ids == tuple(llm.tokenizer.encode(TEXT))
        assert output.prompt_token_ids[0] == BOS_ID
        assert output.finished
        assert len(completion.token_ids) == 12
        assert all(type(token_id) is int for token_id in completion.token_ids)
        prefix = llm.tokenizer.decode(output.prompt_token_ids)
        assert prefix + completion.text == llm.tokenizer.decode([*output.prompt_token_ids, *completion.token_ids])
        assert (completion.finish_reason, completion.stop_reason) == (FinishReason.LENGTH, None)
        assert (completion.logprobs, completion.cumulative_logprob, completion.error) == (None, None, None)

    def test_request_ids_are_unique(self, llm):
        assert len({output.request_id for output in llm.generate([TEXT, TEXT, TEXT], **GREEDY)}) == 3

    def test_metrics_count_tokens_and_seconds(self, llm):
        (output,) = llm.generate(TEXT, **GREEDY)
        metrics = output.metrics

        assert 0 < metrics.time_to_first_token_s < metrics.latency_s < 60
        assert metrics.num_prompt_tokens == len(output.prompt_token_ids)
        assert metrics.num_output_tokens == 12
        assert metrics.output_tokens_per_s == 12 / metrics.latency_s

    @pytest.mark.parametrize("count", [0, 1, 5, 20])
    def test_logprobs_have_the_sampled_token_and_the_most_likely(self, llm, count):
        (output,) = llm.generate(TEXT, **RANDOM, logprobs=count)
        (completion,) = output.outputs

        assert completion.token_ids == first_ids(llm, TEXT, **RANDOM)  # asking changes nothing
        assert len(completion.logprobs) == len(completion.token_ids)
        for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
            assert len(entry) in (count, count + 1)
            others = [logprob for other, logprob in entry.items() if other != token_id]
            assert len(entry) == count or all(entry[token_id] <= other for other in others)
            assert all(logprob < 0 for logprob in entry.values())
            assert sum(np.exp(list(entry.values()))) < 1 + 1e-5
        sampled = [entry[token_id] for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
        assert completion.cumulative_logprob == pytest.approx(sum(sampled))

    def test_the_greedy_token_is_the_most_likely(self, llm):
        (output,) = llm.generate(TEXT, **GREEDY, logprobs=3)

        for token_id, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
            assert token_id == max(entry, key=entry.get)
            assert len(entry) == 3

    def test_a_request_gets_logprobs_only_if_it_asked(self, llm):
        with_logprobs, without = llm.generate(
            [TEXT] * 2, [SamplingParams(**GREEDY, logprobs=1), SamplingParams(**GREEDY)]
        )

        assert len(with_logprobs.outputs[0].logprobs) == 12
        assert without.outputs[0].logprobs is None
        assert ids_of([with_logprobs]) == ids_of([without])


def clean_part(text: str) -> str:
    """Two characters in the middle, neither of which is U+FFFD, that occur there for the first time."""
    parts = (text[i : i + 2] for i in range(2, len(text) - 3))
    return next(part for part in parts if "\ufffd" not in part and text.count(part) == 1)


class TestStopping:
    def test_the_length_bounds(self, llm):
        assert len(first_ids(llm, TEXT, **GREEDY | {"max_tokens": 1})) == 1
        (output,) = llm.generate(TEXT, temperature=0, ignore_eos=True)  # by default the rest of the context

        assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == CONTEXT
        assert output.outputs[0].finish_reason is FinishReason.LENGTH

    def test_a_prompt_that_leaves_room_for_one_token_gets_one(self, llm):
        assert len(first_ids(llm, [5] * (CONTEXT - 1), **GREEDY)) == 1

    @pytest.mark.parametrize("include", [False, True])
    def test_a_stop_string_ends_the_text_before_or_after_it(self, llm, include):
        options = RANDOM | {"max_tokens": 40}
        whole = llm.generate(TEXT, **options)[0].text
        stop = clean_part(whole)
        (output,) = llm.generate(TEXT, **options, stop=stop, include_stop_str_in_output=include)
        (completion,) = output.outputs

        assert completion.text == whole[: whole.index(stop) + (len(stop) if include else 0)]
        assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, stop)

    def test_of_several_stop_strings_the_first_in_the_text_counts(self, llm):
        options = RANDOM | {"max_tokens": 40}
        stop = clean_part(llm.generate(TEXT, **options)[0].text)
        completion = llm.generate(TEXT, **options, stop=["no such text", stop])[0].outputs[0]

        assert completion.stop_reason == stop

    def test_a_stop_id_ends_the_output_and_is_its_last_token(self, llm):
        whole = first_ids(llm, TEXT, **RANDOM)
        place = next(i for i in range(3, 12) if whole[i] not in whole[:i])
        completion = llm.generate(TEXT, **RANDOM, stop_token_ids=[whole[place], 299])[0].outputs[0]

        assert completion.token_ids == whole[: place + 1]
        assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, whole[place])

    def test_min_tokens_puts_stop_ids_off(self, llm):
        whole = first_ids(llm, TEXT, **RANDOM)
        at_once = llm.generate(TEXT, **RANDOM, stop_token_ids=[whole[0]])[0].outputs[0]
        later = llm.generate(TEXT, **RANDOM, stop_token_ids=[whole[0]], min_tokens=6)[0].outputs[0]

        assert at_once.token_ids == whole[:1]
        assert len(later.token_ids) >= 6
        assert whole[0] not in later.token_ids[:6]

    def test_min_tokens_puts_stop_strings_off(self, llm):
        options = RANDOM | {"max_tokens": 40}
        stop = clean_part(llm.generate(TEXT, **options)[0].text)
        completion = llm.generate(TEXT, **options, stop=stop, min_tokens=40)[0].outputs[0]

        assert (len(completion.token_ids), completion.finish_reason) == (40, FinishReason.LENGTH)
        assert stop in completion.text

    def test_the_end_of_sequence_stops_unless_ignored_or_put_off(self, params, llm):
        """The model's EOS is made a token that it does choose."""
        prompt = [5, 6, 7]
        whole = first_ids(llm, prompt, **RANDOM)
        place = next(i for i in range(3, 12) if whole[i] not in whole[:i])
        options = {name: value for name, value in RANDOM.items() if name != "ignore_eos"}
        with LLM(dict(CONFIG, eos_token_id=[whole[place]]), params=params, **TINY_ENGINE) as other:
            completion = other.generate(prompt, **options)[0].outputs[0]
            ignoring = first_ids(other, prompt, **options, ignore_eos=True)
            later = first_ids(other, prompt, **options, min_tokens=place + 2)

        assert completion.token_ids == whole[: place + 1]
        assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, None)
        assert ignoring == whole
        assert later[:place] == whole[:place]
        assert whole[place] not in later[: place + 2]
        assert len(later) >= place + 2

    def test_special_tokens_are_left_out_of_the_text_unless_wanted(self, llm):
        seeds = (RANDOM | {"seed": seed} for seed in range(1000))
        options = next(seed for seed in seeds if EOS_ID in first_ids(llm, TEXT, **seed)) | {"ignore_eos": False}
        without, shown = (llm.generate(TEXT, **options, skip_special_tokens=skip)[0] for skip in (True, False))

        assert without.outputs[0].token_ids[-1] == EOS_ID
        assert without.outputs[0].finish_reason is FinishReason.STOP
        assert shown.text == without.text + EOS


class TestStream:
    def test_pieces_joined_are_what_generate_gives(self, llm):
        outputs = llm.generate(PROMPTS, n=2, **RANDOM)
        pieces = list(llm.stream(PROMPTS, n=2, **RANDOM))

        for i, output in enumerate(outputs):
            for completion in output.outputs:
                assert joined(pieces, i, completion.index) == (completion.text, completion.token_ids)

    def test_pieces_of_a_stop_string_are_what_generate_gives(self, llm):
        options = RANDOM | {"max_tokens": 40}
        options |= {"stop": clean_part(llm.generate(TEXT, **options)[0].text)}
        pieces = list(llm.stream(TEXT, **options))

        assert joined(pieces)[0] == llm.generate(TEXT, **options)[0].text
        assert pieces[-1].finish_reason is FinishReason.STOP

    def test_text_comes_while_it_is_generated(self, llm):
        stream = llm.stream(TEXT, **GREEDY)
        next(stream)

        assert llm._engine.has_work
        assert len(list(stream)) == 11

    def test_two_streams_of_one_llm_interleave(self, llm):
        expected = llm.generate(PROMPTS[:2], **RANDOM)
        streams = [llm.stream(prompt, **RANDOM) for prompt in PROMPTS[:2]]
        taken: list[list[StreamPiece]] = [[], []]
        for _ in range(12):
            for stream, pieces in zip(streams, taken, strict=True):
                pieces.append(next(stream))
        for stream, output, pieces in zip(streams, expected, taken, strict=True):
            assert list(stream) == []
            assert joined(pieces) == (output.text, output.outputs[0].token_ids)

    def test_a_stream_that_waits_while_others_run_loses_nothing(self, llm):
        (expected,) = llm.generate(TEXT, **RANDOM)
        stream = llm.stream(TEXT, **RANDOM)
        pieces = [next(stream)]
        llm.generate(PROMPTS, **RANDOM | {"max_tokens": 30})  # its steps bring the stream to its end as well
        pieces += stream

        assert joined(pieces) == (expected.text, expected.outputs[0].token_ids)

    def test_closing_a_stream_early_frees_all_that_it_held(self, llm):
        stream = llm.stream(PROMPTS, n=2, **RANDOM)
        next(stream)
        stream.close()

        assert not llm._engine.has_work
        assert llm._engine._scheduler.page_pool.num_used == 0
        llm.check_integrity()

    def test_a_stream_that_is_dropped_or_never_started_holds_nothing(self, llm):
        llm.stream(PROMPTS, **RANDOM)
        started = llm.stream(PROMPTS, **RANDOM)
        next(started)
        del started
        gc.collect()

        assert not llm._engine.has_work

    def test_others_are_not_touched_by_a_stream_that_is_closed(self, llm):
        (expected,) = llm.generate(TEXT, **RANDOM)
        closed, kept = llm.stream("rain", **RANDOM), llm.stream(TEXT, **RANDOM)
        pieces = [next(kept), next(kept)]
        next(closed)
        closed.close()
        pieces += kept

        assert joined(pieces)[1] == expected.outputs[0].token_ids


class TestChat:
    def test_the_template_gives_the_prompt(self, llm):
        (output,) = llm.chat(MESSAGES, **GREEDY)

        prompt = llm.tokenizer.encode("[user] the cat\n[assistant] ")  # BOS once, from the template alone
        assert output.prompt_token_ids == tuple(prompt)
        assert output.outputs[0].token_ids == first_ids(llm, prompt, **GREEDY)

    def test_several_conversations(self, llm):
        others = [*MESSAGES, {"role": "assistant", "content": "sat"}, {"role": "user", "content": "where"}]
        outputs = llm.chat([MESSAGES, others], **GREEDY)

        assert ids_of(outputs) == ids_of(llm.chat(MESSAGES, **GREEDY)) + ids_of(llm.chat(others, **GREEDY))
        assert "where" in llm.tokenizer.decode(outputs[1].prompt_token_ids)


class TestMemory:
    def test_a_with_block_gives_all_memory_back(self, directory):
        before = live_bytes()
        with LLM(directory, **TINY_ENGINE) as llm:
            llm.generate(PROMPTS, **RANDOM)
            assert live_bytes() > before
        assert live_bytes() == before

    def test_closing_gives_memory_back_also_while_a_request_runs(self, directory):
        before = live_bytes()
        llm = LLM(directory, **TINY_ENGINE)
        stream = llm.stream(TEXT, **RANDOM)
        next(stream)
        llm.close()
        llm.close()  # again is no error

        assert live_bytes() == before
        with pytest.raises(EngineError, match="closed"):
            next(stream)

    def test_params_of_the_caller_stay(self, params):
        before = live_bytes()
        with LLM(CONFIG, params=params, **TINY_ENGINE) as llm:
            llm.generate([1, 2], **GREEDY)
        assert live_bytes() == before
        assert not any(x.is_deleted() for x in jax.tree.leaves(params))

    def test_copies_of_the_callers_params_go(self, params):
        """In another dtype, or from numpy: the copies are the LLM's own."""
        mixed = unflatten({p: np.array(x) if "mlp" in p else x for p, x in flatten(params).items()})
        before = live_bytes()  # after numpy has read the arrays, for which JAX keeps a copy on the host
        for given, dtype in ((params, "bfloat16"), (mixed, "float32")):
            llm = LLM(CONFIG, params=given, **{**TINY_ENGINE, "dtype": dtype})
            assert live_bytes() > before
            llm.close()
            assert live_bytes() == before
        assert not any(x.is_deleted() for x in jax.tree.leaves(params))

    def test_the_plan_of_the_memory_counts_what_was_loaded(self, llm, params):
        given = LLM(CONFIG, params=params, **TINY_ENGINE)
        given.close()

        assert llm.memory.weight_bytes == num_bytes(params)
        assert given.memory.weight_bytes == 0  # the caller's, and there before
        assert llm.memory.limits == llm.limits
        assert llm.memory.num_cached_tokens == (llm.limits.num_pages - 1) * llm.limits.page_size

    def test_a_start_that_fails_gives_back_what_it_had_loaded(self, directory):
        before = live_bytes()
        with pytest.raises(jinfer.InsufficientMemoryError) as kept:  # as a notebook keeps the last traceback
            LLM(directory, **TINY_ENGINE, num_pages=3, max_model_len=CONTEXT)
        assert live_bytes() == before
        assert kept.value.__traceback__ is not None

    def test_a_fault_leaves_no_second_state_behind(self, llm, monkeypatch):
        before = live_bytes()
        fail_once(monkeypatch, llm, RuntimeError("boom"))
        with pytest.raises(EngineError):
            llm.generate(TEXT, **GREEDY)

        assert live_bytes() == before

    def test_use_after_close_is_an_error_that_says_so(self, directory):
        with LLM(directory, **TINY_ENGINE) as llm:
            not_started = llm.stream(TEXT, **GREEDY)
        for use in (llm.generate, llm.stream):
            with pytest.raises(EngineError, match="this LLM is closed; create another"):
                use(TEXT)
        with pytest.raises(EngineError, match="closed"):
            llm.chat([{"role": "user", "content": "x"}])
        with pytest.raises(EngineError, match="closed"):
            next(not_started)
        assert "closed" in repr(llm)

    def test_two_engines_at_the_same_time(self, llm, params):
        (expected,) = llm.generate(TEXT, **RANDOM)
        with LLM(CONFIG, params=params, tokenizer=llm.tokenizer, **TINY_ENGINE) as other:
            pairs = zip(llm.stream(TEXT, **RANDOM), other.stream(TEXT, **RANDOM), strict=True)
            first, second = zip(*pairs, strict=True)
        assert joined(first) == joined(second) == (expected.text, expected.outputs[0].token_ids)
        assert first_ids(llm, TEXT, **RANDOM) == expected.outputs[0].token_ids  # the other one's end changed nothing


class TestConcurrency:
    def test_it_works_inside_a_running_event_loop(self, llm):
        async def cell() -> tuple[int, ...]:
            assert list(map(str, llm.stream(TEXT, **GREEDY)))
            return first_ids(llm, TEXT, **GREEDY)

        assert asyncio.run(cell()) == first_ids(llm, TEXT, **GREEDY)

    def test_threads_share_an_llm_and_each_gets_its_own(self, llm):
        expected = [ids_of(llm.generate(prompt, n=2, **RANDOM)) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            for _ in range(3):
                results = pool.map(lambda prompt: ids_of(llm.generate(prompt, n=2, **RANDOM)), PROMPTS)
                assert list(results) == expected

    def test_threads_stream_side_by_side(self, llm):
        expected = [(output.text, output.outputs[0].token_ids) for output in llm.generate(PROMPTS, **RANDOM)]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            for _ in range(3):
                streams = pool.map(lambda prompt: list(llm.stream(prompt, **RANDOM)), PROMPTS)
                assert [joined(pieces) for pieces in streams] == expected

    def test_a_stream_that_another_threads_step_ends_gets_its_last_piece(self, llm, monkeypatch):
        """The other thread pauses between the end of the stream's request and the delivery of its last piece."""
        (expected,) = llm.generate(TEXT, **RANDOM)
        stream = llm.stream(TEXT, **RANDOM)
        pieces = [next(stream)]
        ended, step = threading.Event(), llm._engine.step

        def slow_step():
            updates = step()
            if any(update.sequence.is_finished for update in updates):
                ended.set()
                ended_is_seen.wait(0.2)
            return updates

        ended_is_seen = threading.Event()  # never set: the pause is as long as its time limit
        monkeypatch.setattr(llm._engine, "step", slow_step)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(llm.generate, "rain", **RANDOM | {"max_tokens": 30})
            assert ended.wait(60)
            pieces += stream
            other.result()
        assert joined(pieces) == (expected.text, expected.outputs[0].token_ids)


def fail_once(monkeypatch: pytest.MonkeyPatch, llm: LLM, error: BaseException, *, at_step: int = 3) -> None:
    """The device fails in the step `at_step` from now, and never again."""
    run, steps = llm._engine._steps, iter(range(1, 10**9))

    def failing(*arguments: Any):
        if next(steps) == at_step:
            raise error
        return run(*arguments)

    monkeypatch.setattr(llm._engine, "_steps", failing)


class TestFaults:
    def test_ctrl_c_stops_generate_and_leaves_the_llm_usable(self, llm, monkeypatch):
        expected = ids_of(llm.generate(PROMPTS, **RANDOM))
        fail_once(monkeypatch, llm, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS, **RANDOM)

        assert not llm._engine.has_work
        assert ids_of(llm.generate(PROMPTS, **RANDOM)) == expected

    def test_ctrl_c_between_two_pieces_of_a_stream(self, llm):
        expected = ids_of(llm.generate(TEXT, **RANDOM))
        stream = llm.stream(TEXT, **RANDOM)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)

        assert not llm._engine.has_work
        assert ids_of(llm.generate(TEXT, **RANDOM)) == expected

    def test_an_exception_in_a_step_is_an_engine_error_with_the_reason(self, llm, monkeypatch):
        expected = ids_of(llm.generate(PROMPTS, **RANDOM))
        fail_once(monkeypatch, llm, RuntimeError("the device fell over"))
        with pytest.raises(EngineError, match="the device fell over") as caught:
            llm.generate(PROMPTS, **RANDOM)

        assert isinstance(caught.value.__cause__, RuntimeError)
        assert ids_of(llm.generate(PROMPTS, **RANDOM)) == expected

    def test_every_request_of_a_step_that_fails_ends_with_an_error_that_names_the_reason(self, llm, monkeypatch):
        """A stream of another caller ends with a piece that says so, not silently."""
        bystander = llm.stream(TEXT, n=2, **RANDOM)
        next(bystander)
        fail_once(monkeypatch, llm, RuntimeError("the device fell over"))
        with pytest.raises(EngineError):
            llm.generate("rain", **RANDOM)
        pieces = list(bystander)

        for output_index in (0, 1):
            last = [piece for piece in pieces if piece.output_index == output_index][-1]
            assert last.finish_reason is FinishReason.ERROR
            assert "the device fell over" in last.error
        assert sum(piece.finish_reason is not None for piece in pieces) == 2

    def test_logits_that_are_not_finite_fail_their_request_alone(self, params, llm):
        """Token 9 has an embedding of NaN. What it touches fails, and the request beside it does not."""
        flat = dict(flatten(params))
        flat["embedding/kernel"] = flat["embedding/kernel"].at[9].set(jnp.nan)
        expected = first_ids(llm, [5, 6, 7], **GREEDY)
        assert 9 not in expected
        with LLM(CONFIG, params=unflatten(flat), **TINY_ENGINE) as broken:
            failed, fine = broken.generate([[5, 9], [5, 6, 7]], **GREEDY)
            broken.check_integrity()

        assert failed.finished
        assert failed.outputs[0].finish_reason is FinishReason.ERROR
        assert "not finite" in failed.outputs[0].error
        assert failed.outputs[0].token_ids == ()
        assert fine.outputs[0].token_ids == expected


class TestSources:
    def test_the_one_liner(self, llm, directory):
        before = live_bytes()
        options = dict(TINY_ENGINE, **GREEDY)
        (output,) = jinfer.generate(TEXT, model=directory, **options)

        assert output.outputs[0].token_ids == first_ids(llm, TEXT, **GREEDY)
        assert live_bytes() == before

    def test_a_directory_may_be_a_string(self, directory, llm):
        with LLM(str(directory), **TINY_ENGINE) as other:
            assert first_ids(other, TEXT, **GREEDY) == first_ids(llm, TEXT, **GREEDY)

    def test_params_in_memory_are_served_as_they_are(self, llm, params):
        expected = first_ids(llm, [5, 6, 7], **GREEDY)
        for config in (CONFIG, read_model_config(CONFIG)):
            with LLM(config, params=params, **TINY_ENGINE) as other:
                assert other._loaded.params["mlp"]["down"]["kernel"] is params["mlp"]["down"]["kernel"]
                (output,) = other.generate([5, 6, 7], **GREEDY)
            assert output.outputs[0].token_ids == expected
            assert output.text == ""  # without a tokenizer

    def test_params_may_be_an_nnx_state_or_nnx_variables(self, llm, params):
        variables = jax.tree.map(nnx.Param, params)
        for given in (nnx.State(variables), variables):
            with LLM(CONFIG, params=given, **TINY_ENGINE) as other:
                assert first_ids(other, [5, 6, 7], **GREEDY) == first_ids(llm, [5, 6, 7], **GREEDY)

    def test_a_change_of_numpy_params_does_not_reach_a_running_llm(self, llm, params):
        aligned = jax.tree.map(aligned_copy, params)
        with LLM(CONFIG, params=aligned, **TINY_ENGINE) as other:
            for x in jax.tree.leaves(aligned):
                x[:] = 0
            assert first_ids(other, [5, 6, 7], **GREEDY) == first_ids(llm, [5, 6, 7], **GREEDY)

    @pytest.mark.parametrize(("given", "served"), [("bfloat16", "float32"), ("float32", "bfloat16")])
    def test_params_are_converted_to_the_dtype_that_is_served(self, params, given, served):
        cast = jax.tree.map(lambda x: x.astype(given), params)
        by_hand = jax.tree.map(lambda x: x.astype(served), cast)
        with LLM(CONFIG, params=cast, **{**TINY_ENGINE, "dtype": served}) as llm:
            assert {x.dtype for x in jax.tree.leaves(llm._loaded.params)} == {jnp.dtype(served)}
            tokens = first_ids(llm, [5, 6, 7], **GREEDY)
        with LLM(CONFIG, params=by_hand, **{**TINY_ENGINE, "dtype": served}) as llm:
            assert first_ids(llm, [5, 6, 7], **GREEDY) == tokens

    def test_params_that_do_not_fit_are_named(self, params):
        flat = dict(flatten(params))
        flat["mlp/extra"] = flat.pop("mlp/down/kernel")
        flat["head/kernel"] = flat["head/kernel"][:-1]
        flat["final_norm/scale"] = None
        with pytest.raises(CheckpointError) as caught:
            LLM(CONFIG, params=unflatten(flat), **TINY_ENGINE)

        for part in (
            "mlp/down/kernel is missing",
            "mlp/extra is not a parameter of the model",
            "head/kernel has shape (299, 32), the model needs (300, 32)",
            "final_norm/scale has shape (), the model needs (1, 32)",
        ):
            assert part in str(caught.value)

    def test_dummy_weights_need_a_config_alone(self):
        with LLM(CONFIG, dummy_weights=True, **TINY_ENGINE) as llm:
            tokens = first_ids(llm, [5, 6, 7], **GREEDY)
        with LLM(CONFIG, dummy_weights=True, dummy_weights_seed=1, **TINY_ENGINE) as llm:
            assert first_ids(llm, [5, 6, 7], **GREEDY) != tokens

    def test_sampling_defaults_of_the_model_are_said_and_taken_for_what_is_not_given(self, llm, tmp_path, caplog):
        directory = write_checkpoint(tmp_path, generation_config={"temperature": 0.8, "top_k": 1, "do_sample": True})
        with caplog.at_level(logging.INFO, logger="jinfer"), LLM(directory, **TINY_ENGINE) as other:
            by_default = first_ids(other, TEXT, max_tokens=12, ignore_eos=True)
            given = first_ids(other, TEXT, **RANDOM, top_k=0)
            partly = first_ids(other, TEXT, **RANDOM)

        assert "sampling defaults from generation_config.json: temperature=0.8, top_k=1" in caplog.text
        assert by_default == partly == first_ids(llm, TEXT, **GREEDY)
        assert given == first_ids(llm, TEXT, **RANDOM)

    def test_a_model_without_defaults_says_nothing_of_them(self, directory, caplog):
        with caplog.at_level(logging.INFO, logger="jinfer"), LLM(directory, **TINY_ENGINE):
            assert "sampling defaults" not in caplog.text
            assert "ready in" in caplog.text

    def test_the_end_of_sequence_is_that_of_generation_config_and_of_the_tokenizer(self, tmp_path):
        directory = write_checkpoint(tmp_path, generation_config={"eos_token_id": [7, 8]})
        with LLM(directory, **TINY_ENGINE) as llm:
            assert llm._loaded.eos_token_ids == {EOS_ID, 7, 8}

    def test_another_tokenizer_may_be_given(self, directory, tmp_path):
        bare = write_checkpoint(tmp_path, tokenizer=False)
        with LLM(bare, tokenizer=directory, **TINY_ENGINE) as llm:
            assert llm.generate(TEXT, **GREEDY)[0].prompt_token_ids == tuple(llm.tokenizer.encode(TEXT))


def aligned_copy(array: jax.Array) -> np.ndarray:
    """In memory that starts at a multiple of 64 bytes, which JAX on a CPU could use without copying it."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy
