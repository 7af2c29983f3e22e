"""Where an output ends: lengths, stop strings and ids, the end of the sequence."""

import pytest

from jinfer import LLM, FinishReason, RequestError
from tests.checkpoints import (
    CONFIG,
    CONTEXT,
    EOS,
    EOS_ID,
    TINY_ENGINE,
)
from tests.end_to_end.llm.helpers import GREEDY, RANDOM, TEXT, clean_part, first_ids


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

    def test_a_stop_string_that_is_a_special_token_stops_and_is_not_shown(self, llm):
        seeds = (RANDOM | {"seed": seed, "max_tokens": 40} for seed in range(1000))
        options = next(seed for seed in seeds if EOS_ID in first_ids(llm, TEXT, **seed)[3:30])
        whole = first_ids(llm, TEXT, **options)
        (completion,) = llm.generate(TEXT, **options, stop=EOS)[0].outputs
        (shown,) = llm.generate(TEXT, **options, stop=EOS, skip_special_tokens=False)[0].outputs
        (after,) = llm.generate(TEXT, **options, stop=EOS, min_tokens=whole.index(EOS_ID) + 1)[0].outputs
        streamed = "".join(piece.text for piece in llm.stream(TEXT, **options, stop=EOS))

        assert completion.token_ids == whole[: whole.index(EOS_ID) + 1]
        assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, EOS)
        assert completion.text == shown.text == streamed
        assert EOS not in completion.text
        assert len(after.token_ids) > len(completion.token_ids)

    def test_a_stop_string_that_can_never_be_found_is_refused(self, llm):
        with pytest.raises(RequestError, match="would never stop anything"):
            llm.generate(TEXT, **GREEDY, stop="\ud800")

    def test_special_tokens_are_left_out_of_the_text_unless_wanted(self, llm):
        seeds = (RANDOM | {"seed": seed} for seed in range(1000))
        options = next(seed for seed in seeds if EOS_ID in first_ids(llm, TEXT, **seed)) | {
            "ignore_eos": False
        }
        without, shown = (
            llm.generate(TEXT, **options, skip_special_tokens=skip)[0] for skip in (True, False)
        )

        assert without.outputs[0].token_ids[-1] == EOS_ID
        assert without.outputs[0].finish_reason is FinishReason.STOP
        assert shown.text == without.text + EOS
