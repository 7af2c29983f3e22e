"""Prompts in every form, parameters, and everything that comes back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer import FinishReason, SamplingParams
from tests.checkpoints import (
    BOS_ID,
)
from tests.end_to_end.llm.helpers import GREEDY, MESSAGES, PROMPTS, RANDOM, TEXT, first_ids, ids_of


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
        assert prefix + completion.text == llm.tokenizer.decode(
            [*output.prompt_token_ids, *completion.token_ids]
        )
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
        sampled = [
            entry[token_id] for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)
        ]
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
