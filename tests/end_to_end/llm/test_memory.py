"""What a start takes, and that all of it is given back."""

import contextlib
import gc

import jax
import numpy as np
import pytest

import jinfer
from jinfer import LLM, EngineError
from jinfer.weights.params import flatten, num_bytes, unflatten
from tests.checkpoints import (
    CONFIG,
    CONTEXT,
    TINY_ENGINE,
)
from tests.end_to_end.llm.helpers import (
    GREEDY,
    PROMPTS,
    RANDOM,
    TEXT,
    fail_once,
    first_ids,
    joined,
    live_bytes,
)


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

    @pytest.mark.parametrize("after", ["generate", "closed stream", "dropped stream", "fault", "interrupt"])
    def test_memory_goes_with_the_last_reference(self, directory, monkeypatch, after):
        """Without the garbage collector: nothing that an LLM made refers back to it."""
        before = live_bytes()
        llm = LLM(directory, **TINY_ENGINE)
        stream = llm.stream(TEXT, **GREEDY)
        if after == "generate":
            llm.generate(PROMPTS, **RANDOM)
        elif after == "closed stream":
            next(stream)
            stream.close()
        elif after == "dropped stream":
            next(stream)
        else:
            error = RuntimeError("boom") if after == "fault" else KeyboardInterrupt()
            with monkeypatch.context() as patch:
                fail_once(patch, llm, error)
                with contextlib.suppress(EngineError, KeyboardInterrupt):
                    llm.generate(TEXT, **GREEDY)
        assert live_bytes() > before
        gc.disable()
        try:
            del stream, llm
            with contextlib.suppress(NameError):
                error.__traceback__ = None  # whose frames are the caller's to keep
            assert sum(array.nbytes for array in jax.live_arrays()) == before
        finally:
            gc.enable()

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
        # The other one's end changed nothing.
        assert first_ids(llm, TEXT, **RANDOM) == expected.outputs[0].token_ids
