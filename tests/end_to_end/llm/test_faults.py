"""Whatever happens, the LLM stays usable, and nobody pays for another's fault."""

import jax.numpy as jnp
import pytest

from jinfer import LLM, EngineError, FinishReason
from jinfer.weights.params import flatten, unflatten
from tests.checkpoints import (
    CONFIG,
    TINY_ENGINE,
)
from tests.end_to_end.llm.helpers import (
    GREEDY,
    PROMPTS,
    RANDOM,
    TEXT,
    fail_once,
    first_ids,
    ids_of,
    is_idle,
    joined,
)


class TestFaults:
    def test_ctrl_c_stops_generate_and_leaves_the_llm_usable(self, llm, monkeypatch):
        expected = ids_of(llm.generate(PROMPTS, **RANDOM))
        fail_once(monkeypatch, llm, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS, **RANDOM)

        assert is_idle(llm)
        assert ids_of(llm.generate(PROMPTS, **RANDOM)) == expected

    def test_ctrl_c_between_two_pieces_of_a_stream(self, llm):
        expected = ids_of(llm.generate(TEXT, **RANDOM))
        stream = llm.stream(TEXT, **RANDOM)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)

        assert is_idle(llm)
        assert ids_of(llm.generate(TEXT, **RANDOM)) == expected

    def test_an_exception_in_a_step_is_an_engine_error_with_the_reason(self, llm, monkeypatch):
        expected = ids_of(llm.generate(PROMPTS, **RANDOM))
        fail_once(monkeypatch, llm, RuntimeError("the device fell over"))
        with pytest.raises(EngineError, match="the device fell over") as caught:
            llm.generate(PROMPTS, **RANDOM)

        assert isinstance(caught.value.__cause__, RuntimeError)
        assert ids_of(llm.generate(PROMPTS, **RANDOM)) == expected

    def test_every_caller_whose_request_a_fault_ended_gets_an_engine_error(self, llm, monkeypatch):
        """A stream of another caller gives what it has, and then does not end as if that were the whole."""
        whole = [piece.text for piece in llm.stream(TEXT, **RANDOM)]
        bystander = llm.stream(TEXT, **RANDOM)
        pieces = [next(bystander).text]
        fail_once(monkeypatch, llm, RuntimeError("the device fell over"))
        with pytest.raises(EngineError, match="the device fell over"):
            llm.generate("rain", **RANDOM)
        with pytest.raises(EngineError, match="the device fell over"):
            pieces += (piece.text for piece in bystander)

        assert 0 < len(pieces) < len(whole)
        assert pieces == whole[: len(pieces)]

    def test_a_request_that_ended_before_a_fault_is_whole(self, llm, monkeypatch):
        (expected,) = llm.generate(TEXT, **RANDOM)
        stream = llm.stream(TEXT, **RANDOM)
        pieces = [next(stream)]
        llm.generate("rain", **RANDOM | {"max_tokens": 30})  # its steps bring the stream to its end as well
        fail_once(monkeypatch, llm, RuntimeError("the device fell over"), at_step=1)
        with pytest.raises(EngineError):
            llm.generate("rain", **RANDOM)
        pieces += stream

        assert joined(pieces) == (expected.text, expected.outputs[0].token_ids)

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
