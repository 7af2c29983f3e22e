"""Streams and threads: several at a time, left early, and in any order."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

from jinfer import FinishReason, StreamPiece
from tests.end_to_end.llm.helpers import (
    GREEDY,
    MESSAGES,
    PROMPTS,
    RANDOM,
    TEXT,
    clean_part,
    first_ids,
    ids_of,
    is_idle,
    joined,
)


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

    def test_pieces_of_conversations_are_what_chat_gives(self, llm):
        conversations = [MESSAGES, [{"role": "user", "content": "rain"}]]
        outputs = llm.chat(conversations, **RANDOM)
        pieces = list(llm.chat_stream(conversations, **RANDOM))

        expected = [(output.text, output.outputs[0].token_ids) for output in outputs]
        assert [joined(pieces, index) for index in range(2)] == expected
        assert joined(list(llm.chat_stream(MESSAGES, **RANDOM))) == expected[0]

    def test_text_comes_while_it_is_generated(self, llm):
        stream = llm.stream(TEXT, **GREEDY)
        next(stream)

        assert not is_idle(llm)
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

        assert is_idle(llm)
        llm.check_integrity()

    def test_a_stream_that_is_dropped_or_never_started_holds_nothing(self, llm):
        llm.stream(PROMPTS, **RANDOM)
        started = llm.stream(PROMPTS, **RANDOM)
        next(started)
        del started
        gc.collect()

        assert is_idle(llm)

    def test_others_are_not_touched_by_a_stream_that_is_closed(self, llm):
        (expected,) = llm.generate(TEXT, **RANDOM)
        closed, kept = llm.stream("rain", **RANDOM), llm.stream(TEXT, **RANDOM)
        pieces = [next(kept), next(kept)]
        next(closed)
        closed.close()
        pieces += kept

        assert joined(pieces)[1] == expected.outputs[0].token_ids


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
        """The other thread pauses between the end of the stream's request and the delivery of its last
        piece."""
        (expected,) = llm.generate(TEXT, **RANDOM)
        stream = llm.stream(TEXT, **RANDOM)
        pieces = [next(stream)]
        ended, step = threading.Event(), llm.engine.step

        def slow_step():
            updates = step()
            if any(update.sequence.is_finished for update in updates):
                ended.set()
                ended_is_seen.wait(0.2)
            return updates

        ended_is_seen = threading.Event()  # never set: the pause is as long as its time limit
        monkeypatch.setattr(llm.engine, "step", slow_step)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(llm.generate, "rain", **RANDOM | {"max_tokens": 30})
            assert ended.wait(60)
            pieces += stream
            other.result()
        assert joined(pieces) == (expected.text, expected.outputs[0].token_ids)
