"""Reasoning, then the structure."""

import pytest

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.reasoning import after_reasoning

LISTED = '{"grammars": [{"lark_grammar": "start: @a"}, {"name": "a", "json_schema": {"const": 5}}]}'
ANSWERS = [
    (
        StructuredOutputs(json={"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}),
        '{"a": 1}',
    ),
    (StructuredOutputs(regex="[0-9]{2}"), "42"),
    (StructuredOutputs(choice=["yes", "no"]), "no"),
    (StructuredOutputs(grammar='start: "x" start | "y"'), "xxy"),
    (StructuredOutputs(grammar=LISTED), "5"),
]


@pytest.mark.parametrize(("outputs", "answer"), ANSWERS)
def test_the_structure_follows_the_end_of_reasoning(qwen3_model, outputs, answer):
    wrapped = after_reasoning(outputs, qwen3_model.tokenizer.added_tokens, is_open=True)
    masker = qwen3_model.masker(wrapped)
    assert qwen3_model.accepts(masker, 'Is it {"a": 2}?\n')
    assert not set(qwen3_model.eos_token_ids) & qwen3_model.allows(masker)
    assert qwen3_model.accepts(masker, "</think>", "\n\n")
    assert qwen3_model.ids("So")[0] not in qwen3_model.allows(masker)
    assert qwen3_model.accepts(masker, answer)
    assert masker.is_finished


def test_reasoning_that_the_prompt_does_not_begin_may_be_left_out(qwen3_model):
    wrapped = after_reasoning(ANSWERS[2][0], qwen3_model.tokenizer.added_tokens, is_open=False)
    assert qwen3_model.accepts(qwen3_model.masker(wrapped), "yes")
    assert not qwen3_model.accepts(qwen3_model.masker(wrapped), "I think")
    assert qwen3_model.accepts(qwen3_model.masker(wrapped), "<think>", "\nI think", "</think>", "\n\n", "yes")


def test_reasoning_that_the_prompt_began_is_not_begun_again(qwen3_model):
    masker = qwen3_model.masker(
        after_reasoning(ANSWERS[2][0], qwen3_model.tokenizer.added_tokens, is_open=True)
    )
    (opening,) = qwen3_model.ids("<think>")
    assert opening not in qwen3_model.allows(masker)


@pytest.mark.parametrize("is_open", [True, False])
def test_markers_may_be_text(demo, is_open):
    """The first end that is written ends the reasoning."""
    masker = demo.masker(after_reasoning(StructuredOutputs(choice=["yes"]), {}, is_open=is_open))
    assert demo.accepts(masker, "" if is_open else "<think>", "Once upon a time < 3</think>")
    assert not demo.allows_end(masker)
    assert demo.accepts(masker, "yes")
    assert masker.is_finished
