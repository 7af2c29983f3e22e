"""Free text with tagged JSON in it."""

import pytest

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import StructuredOutputs

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def tag(*begins, triggers, end="</f>", schema=NUMBER):
    structures = [{"begin": begin, "schema": schema, "end": end} for begin in begins]
    return StructuredOutputs(
        structural_tag={"type": "structural_tag", "structures": structures, "triggers": list(triggers)}
    )


FUNCTIONS = tag("<f=one>", "<f=two>", triggers=["<f="])


def test_text_is_free_and_tags_are_not(demo):
    masker = demo.masker(FUNCTIONS)
    assert demo.accepts(masker, "Once < two, a ")
    assert demo.allows_end(masker)
    assert demo.accepts(masker, "<f=")
    assert not demo.allows_end(masker)
    assert not demo.accepts(masker.copy(), "three")
    assert demo.accepts(masker, 'two>{"n": 12}</f>')
    assert demo.accepts(masker, " and then ", '<f=one>{"n":3}</f>', " the end")
    assert demo.allows_end(masker)
    assert not masker.is_finished


def test_the_schema_holds_within_a_tag(demo):
    masker = demo.masker(FUNCTIONS)
    assert demo.accepts(masker, '<f=one>{"n": ')
    assert not demo.accepts(masker, '"')


def test_markers_that_are_tokens_are_those_tokens(qwen3_model):
    masker = qwen3_model.masker(tag("<tool_call>\n", triggers=["<tool_call>"], end="\n</tool_call>"))
    assert qwen3_model.accepts(
        masker, "Sure: ", "<tool_call>", "\n", '{"n": 1}', "\n", "</tool_call>", " done"
    )
    assert qwen3_model.allows_end(masker)
    (close,) = qwen3_model.ids("</tool_call>")
    assert close not in qwen3_model.allows(masker)


def test_several_triggers(demo):
    masker = demo.masker(tag("<f=one>", "[g]", triggers=["<f=", "["]))
    assert demo.accepts(masker, 'a [g]{"n": 1}</f> b <f=one>{"n": 2}</f>')
    assert demo.accepts(masker, "[")
    assert not demo.allows_end(masker)


MALFORMED = [
    ({"type": "structural_tag", "format": {"type": "any_text"}}, "triggers"),
    ({"type": "other", "structures": [{}], "triggers": ["<"]}, "structural_tag"),
    ({"type": "structural_tag", "structures": ["x"], "triggers": ["<"]}, "structures"),
    ({"type": "structural_tag", "structures": [{"end": ""}], "triggers": ["<"]}, r"structures\[0\].begin"),
    (
        {
            "type": "structural_tag",
            "structures": [{"begin": "[", "end": "", "schema": {}}],
            "triggers": ["<", ""],
        },
        "none of the triggers",
    ),
    (
        {"type": "structural_tag", "structures": [{"begin": "<", "end": "", "schema": 3}], "triggers": ["<"]},
        r"structures\[0\].schema=3",
    ),
]


@pytest.mark.parametrize(("value", "word"), MALFORMED)
def test_what_is_malformed_is_refused(demo, value, word):
    with pytest.raises(RequestError, match=word):
        demo.compiler.masker(StructuredOutputs(structural_tag=value))
