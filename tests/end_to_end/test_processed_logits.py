"""Penalties, biases, masks and log probabilities of prompts, as requests get them from an engine."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from jinfer import LLM, FinishReason, SamplingParams
from jinfer.requests.prompts import Prompt
from tests.tiny_model import CONFIG, tiny_llm

VOCAB_SIZE = 20  # log probabilities of all tokens can be asked for
SMALL_VOCABULARY = {**CONFIG, "vocab_size": VOCAB_SIZE}
GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 16}
PROMPT = (3, 1, 4, 1, 5)


@pytest.fixture(scope="module")
def llm():
    with tiny_llm(SMALL_VOCABULARY, max_num_seqs=2) as llm:
        yield llm


def completion(llm: LLM, prompt: tuple[int, ...] = PROMPT, **options):
    (output,) = llm.generate([prompt], **{**GREEDY, **options})
    return output.outputs[0]


def distribution(entry: dict[int, float]) -> np.ndarray:
    return np.array([entry[token_id] for token_id in range(VOCAB_SIZE)])


class TestRules:
    def test_greedy_tokens_are_the_largest_of_the_changed_log_probabilities(self, llm):
        """Of all rules but the repetition penalty, which a constant in the logits changes."""
        bias, allowed = {2: 3.0, 7: -4.0, 11: 1.5}, set(range(1, VOCAB_SIZE))
        found = completion(
            llm,
            presence_penalty=1.2,
            frequency_penalty=0.7,
            logit_bias=bias,
            allowed_token_ids=sorted(allowed),
            logprobs=VOCAB_SIZE,
        )
        assert found.token_ids != completion(llm).token_ids, "the rules change something"
        counts = np.zeros(VOCAB_SIZE)
        for token_id, entry in zip(found.token_ids, found.logprobs, strict=True):
            changed = distribution(entry) - 1.2 * (counts > 0) - 0.7 * counts
            for biased, by in bias.items():
                changed[biased] += by
            changed[0] = -np.inf
            assert changed[token_id] == pytest.approx(changed.max(), abs=1e-4)
            counts[token_id] += 1

    def test_a_repetition_penalty_makes_tokens_of_the_prompt_and_the_output_rarer(self, llm):
        repeated = completion(llm, repetition_penalty=100.0).token_ids
        assert len(set(repeated[:10])) == 10
        assert not set(repeated[:10]) & set(PROMPT)

    def test_rules_that_change_nothing_give_the_tokens_of_a_fused_step(self, llm):
        for options in ({}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.8, "seed": 6, "top_k": 3}):
            plain = completion(llm, **options)
            split = completion(llm, **options, logit_bias={1: 0.0})
            assert split.token_ids == plain.token_ids

    def test_a_row_forgets_the_rules_of_the_sequence_before(self, llm):
        plain = completion(llm).token_ids
        completion(llm, logit_bias={2: 100.0}, presence_penalty=2.0)
        assert completion(llm, frequency_penalty=1e-6).token_ids == plain

    def test_min_tokens_blocks_ends_among_the_allowed(self, llm):
        found = completion(
            llm, allowed_token_ids=[4, 9], stop_token_ids=[9], min_tokens=5, logit_bias={9: 100.0}
        )
        assert found.token_ids == (4, 4, 4, 4, 4, 9)
        assert found.finish_reason is FinishReason.STOP

    def test_a_model_with_nan_is_found_out_behind_a_mask(self, llm, monkeypatch):
        params = llm.engine.executor.params
        kernel = params["head"]["kernel"].at[6].set(np.nan)
        monkeypatch.setattr(llm.engine.executor, "params", {**params, "head": {"kernel": kernel}})
        found = completion(llm, allowed_token_ids=[1, 2], cache_salt="NaN")
        assert found.finish_reason is FinishReason.ERROR
        assert "not finite" in found.error


class TestLogprobsMode:
    def test_processed_ones_are_of_the_distribution_that_is_sampled_from(self, llm):
        options = {"temperature": 0.7, "seed": 3, "logit_bias": {2: 2.0}, "allowed_token_ids": [1, 2, 3, 4]}
        raw, processed = (
            completion(llm, **options, logprobs=VOCAB_SIZE, logprobs_mode=mode)
            for mode in ("raw_logprobs", "processed_logprobs")
        )
        assert raw.token_ids == processed.token_ids
        for of_model, found in zip(raw.logprobs, processed.logprobs, strict=True):
            logits = distribution(of_model)[[1, 2, 3, 4]] + [0, 2, 0, 0]
            weights = np.exp(logits / 0.7)
            assert set(found) == {1, 2, 3, 4}, "what is excluded has no probability"
            expected = np.log(weights / weights.sum())
            np.testing.assert_allclose([found[i] for i in (1, 2, 3, 4)], expected, atol=1e-4)

    def test_filters_exclude(self, llm):
        found = completion(
            llm, temperature=1.0, seed=1, top_k=2, logprobs=5, logprobs_mode="processed_logprobs"
        )
        for entry in found.logprobs:
            assert len(entry) == 2
            assert np.exp(list(entry.values())).sum() == pytest.approx(1, abs=1e-4)


class TestPromptLogprobs:
    def test_they_are_those_of_the_same_tokens_as_an_output(self, llm):
        """In one chunk, in several, beside others, and where the prefix cache has the prompt."""
        output = completion(llm, logprobs=3)
        prompt = (*PROMPT, *output.token_ids)  # longer than a step of 16 tokens
        for _ in range(2):
            beside = {"prompts": [prompt, PROMPT], "params": SamplingParams(**GREEDY, prompt_logprobs=3)}
            scored, other = llm.generate(**beside)
            assert scored.prompt_logprobs[0] is None
            assert len(scored.prompt_logprobs) == len(prompt)
            expected = [*other.prompt_logprobs[1:], *output.logprobs]
            for entry, same in zip(scored.prompt_logprobs[1:], expected, strict=True):
                assert entry == pytest.approx(same, abs=1e-4)

    def test_a_request_that_scores_gets_its_usual_tokens(self, llm):
        assert completion(llm, prompt_logprobs=0).token_ids == completion(llm).token_ids
        found = completion(llm, temperature=1.0, seed=2, presence_penalty=1.0, prompt_logprobs=0)
        assert found.token_ids == completion(llm, temperature=1.0, seed=2, presence_penalty=1.0).token_ids

    def test_a_prompt_of_one_token_has_none(self, llm):
        (output,) = llm.generate([(3,)], **GREEDY, prompt_logprobs=1)
        assert output.prompt_logprobs == (None,)

    def test_they_are_there_once_for_several_completions(self, llm):
        (output,) = llm.generate([PROMPT], temperature=1.0, seed=1, n=3, max_tokens=3, prompt_logprobs=0)
        assert [set(entry) for entry in output.prompt_logprobs[1:]] == [{i} for i in PROMPT[1:]]
        assert len(output.outputs) == 3


class TestPreparation:
    """The programs of split steps are compiled when the first request needs them."""

    @pytest.fixture
    def fresh(self):
        with tiny_llm(SMALL_VOCABULARY, max_num_seqs=2) as llm:
            yield llm

    def test_others_go_on_while_a_request_waits_and_it_can_be_aborted(self, fresh, monkeypatch):
        never: Future[None] = Future()
        monkeypatch.setattr(fresh.engine.executor, "prepare", lambda kind: never)
        params = SamplingParams(**GREEDY, presence_penalty=1.0)
        request = fresh.parts.requests.create(Prompt(token_ids=PROMPT), params)
        fresh.engine.add(request)
        assert completion(fresh).finish_reason is FinishReason.LENGTH
        assert fresh.stats().num_waiting == 1
        fresh.engine.abort(request.sequences)
        fresh.check_integrity()
        assert fresh.stats().num_waiting == 0

    def test_a_program_that_cannot_be_compiled_fails_the_request_alone_and_is_tried_again(
        self, fresh, monkeypatch
    ):
        split_steps = fresh.engine.executor.split_steps
        with monkeypatch.context() as patch:
            patch.setattr(type(split_steps._compilation), "compile_all", lambda *_, **__: 1 / 0)
            failed, plain = fresh.generate(
                [PROMPT, PROMPT], [SamplingParams(**GREEDY, presence_penalty=1.0), SamplingParams(**GREEDY)]
            )
        assert failed.outputs[0].finish_reason is FinishReason.ERROR
        assert "division by zero" in failed.outputs[0].error
        assert plain.outputs[0].finish_reason is FinishReason.LENGTH
        assert completion(fresh, presence_penalty=1.0).finish_reason is FinishReason.LENGTH

    def test_closing_in_the_middle_does_not_hang(self, fresh):
        params = SamplingParams(**GREEDY, presence_penalty=1.0)
        fresh.engine.add(fresh.parts.requests.create(Prompt(token_ids=PROMPT), params))
        closer = threading.Thread(target=fresh.close)
        closer.start()
        closer.join(timeout=120)
        assert not closer.is_alive()


def test_what_is_compiled_at_the_start_is_all_that_processed_logits_need():
    with tiny_llm(SMALL_VOCABULARY, max_num_seqs=2, compile_split_steps="at_start") as llm:
        assert llm.engine.executor.prepare("processed").done()
        plain = completion(llm).token_ids
        assert completion(llm, logit_bias={1: 0.0}).token_ids == plain
