"""Prompts that are cut from a text, and how far continuations agree."""

import pytest

from jinfer.errors import ConfigError
from jinfer.eval.continuations import Agreement, ContinuationSizes
from jinfer.eval.tokenized_text import TokenizedText

TEXT = TokenizedText(prefix=(7,), token_ids=tuple(range(100, 120)), num_bytes=(1,) * 20)


@pytest.mark.parametrize(
    ("num_prompts", "prompt_tokens", "begins"),
    [(3, 4, [0, 8, 16]), (1, 4, [0]), (9, 10, [0, 10]), (2, 99, [0]), (4, 5, [0, 5, 10, 15])],
)
def test_prompts_are_spread_over_the_text_and_do_not_overlap(num_prompts, prompt_tokens, begins):
    prompts = ContinuationSizes(num_prompts, prompt_tokens, 1).prompts(TEXT)
    length = min(prompt_tokens, 20)
    assert prompts == [(7, *range(100 + begin, 100 + begin + length)) for begin in begins]


def test_tokens_count_up_to_the_first_that_differs():
    agreement = Agreement.of([(1, 2, 3, 4), (1, 2, 3, 4)], [(1, 2, 9, 4), (1, 2, 3, 4)])
    assert agreement == Agreement(num_continuations=2, token_share=6 / 8, whole_share=1 / 2)
    assert Agreement.of([(1, 2)], [(3, 2)]) == Agreement(1, 0.0, 0.0)


def test_prompts_that_the_context_does_not_hold():
    sizes = ContinuationSizes(1, prompt_tokens=40, output_tokens=24)
    sizes.check(max_model_len=64, num_prefix=0)
    with pytest.raises(ConfigError, match="prompts of 40 tokens, 1 before them and 24 after them are 65"):
        sizes.check(max_model_len=64, num_prefix=1)
