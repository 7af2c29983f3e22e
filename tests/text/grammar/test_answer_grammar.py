"""The grammars of whole answers of chat: where reasoning stands, and what may come behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.answer_grammar import answer_grammar
from jinfer.text.grammar.tool_calls import ToolChoice
from jinfer.text.output_parsing.answer_parsing import AnswerParsing
from jinfer.text.output_parsing.formats import (
    FORMATS,
    HARMONY,
    HERMES,
    LLAMA3_JSON,
    LLAMA_PYTHONIC,
    PLAIN,
    QWEN3_CODER,
)
from jinfer.text.tokenizer import Tokenizer
from tests.server.http.playing_engine import write_byte_tokenizer
from tests.text.grammar.conftest import Model, model

OBJECT = StructuredOutputs(json={"const": {"a": 1}})
CITY = {"type": "object", "properties": {"city": {"const": "Oslo"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
STRICT = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
BEGIN = "<|im_start|>assistant\n"
NO_CHOICE, REQUIRED, WEATHER = ToolChoice(), ToolChoice(is_required=True), ToolChoice(name="weather")


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A token for each byte, and markers that are tokens."""
    directory: Path = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(directory)
    tokenizer = Tokenizer.from_directory(directory)
    made = model(tokenizer, tokenizer.vocab_size, (tokenizer.added_tokens["<|im_end|>"],))
    yield made
    made.compiler.close()


def grammar(of: Model, *, prompt=BEGIN, structure=None, tools=None, choice=NO_CHOICE, response_format=HERMES):
    parsing = AnswerParsing(of.tokenizer, response_format)
    return answer_grammar(parsing, of.ids(prompt), structure=structure, tools=tools, choice=choice)


def whole(of: Model, answer: str, **asked) -> bool:
    """Whether an answer is one that the grammar allows, to its end."""
    masker = of.masker(grammar(of, **asked))
    return of.accepts(masker, answer) and (masker.is_finished or of.allows_end(masker))


@pytest.mark.parametrize("tools", [None, [], TOOLS])
def test_nothing_asked_for_is_no_grammar(bytes_model, tools):
    assert grammar(bytes_model, tools=tools) is None


def test_reasoning_may_come_before_a_structure(bytes_model):
    assert whole(bytes_model, '{"a": 1}', structure=OBJECT)
    assert whole(bytes_model, '<think>a { or so</think>\n\n{"a": 1}', structure=OBJECT)
    assert not whole(bytes_model, "Well", structure=OBJECT)


def test_reasoning_that_the_prompt_began_goes_on(bytes_model):
    asked = {"prompt": f"{BEGIN}<think>\n", "structure": OBJECT}
    assert whole(bytes_model, 'Hm.</think>{"a": 1}', **asked)
    assert not whole(bytes_model, "{", **asked)  # is reasoning, and no end


@pytest.mark.parametrize("begun", ["<think>\n\n</think>\n\n", "The object is "])
def test_a_message_that_has_begun_reasons_no_more(bytes_model, begun):
    assert grammar(bytes_model, prompt=BEGIN + begun, structure=OBJECT) is OBJECT


def test_a_model_without_reasoning_begins_with_its_answer(bytes_model):
    assert grammar(bytes_model, structure=OBJECT, response_format=PLAIN) is OBJECT


def test_markers_that_the_model_does_not_know_are_none(demo):
    """The demo model has neither the tokens nor a template that writes them."""
    assert grammar(demo, structure=OBJECT, response_format=LLAMA3_JSON) is OBJECT


@pytest.mark.parametrize("choice", [REQUIRED, WEATHER])
@pytest.mark.parametrize("thought", ["", "<think>Hm.</think>\n"])
def test_a_call_that_is_required_comes(bytes_model, choice, thought):
    asked = {"tools": TOOLS, "choice": choice, "structure": OBJECT}
    assert whole(bytes_model, thought + CALL, **asked)
    assert whole(bytes_model, thought + OTHER, **asked) == (choice is REQUIRED)
    for answer in (WRONG, '{"a": 1}', "Yes."):
        assert not whole(bytes_model, thought + answer, **asked)


def test_a_strict_tool_is_called_by_its_schema_or_not(bytes_model):
    for answer in (CALL, "Yes.", f"I look.{CALL}"):
        assert whole(bytes_model, answer, tools=STRICT)
    assert not whole(bytes_model, WRONG, tools=STRICT)


NAMED = {
    LLAMA_PYTHONIC: '[weather(city="{city}")]',
    QWEN3_CODER: "<tool_call>\n<function=weather>\n<parameter=city>\n{city}\n</parameter>\n"
    "</function>\n</tool_call>",
}


@pytest.mark.parametrize("response_format", NAMED, ids=lambda one: one.name)
def test_a_call_whose_arguments_are_named_comes(bytes_model, response_format):
    call, asked = NAMED[response_format], {"response_format": response_format}
    for choice, tools in ((WEATHER, TOOLS), (REQUIRED, TOOLS), (NO_CHOICE, STRICT)):
        assert whole(bytes_model, call.format(city="Oslo"), tools=tools, choice=choice, **asked)
        assert whole(
            bytes_model, f"<think>Hm.</think>{call.format(city='Oslo')}", tools=tools, choice=choice, **asked
        )
        assert not whole(bytes_model, call.format(city="Rome"), tools=tools, choice=choice, **asked)
        assert whole(bytes_model, "Yes.", tools=tools, choice=choice, **asked) == (choice is NO_CHOICE)


@pytest.mark.parametrize("tools", [TOOLS, STRICT])
def test_beside_tools_a_structure_is_of_the_text_that_stands_for_calls(bytes_model, tools):
    asked = {"tools": tools, "structure": OBJECT}
    for answer in (CALL, f"{CALL}\n{CALL}", '{"a": 1}', '<think>Hm.</think>{"a": 1}'):
        assert whole(bytes_model, answer, **asked)
    for answer in ("Yes.", f"I look.{CALL}", f'{{"a": 1}}{CALL}'):
        assert not whole(bytes_model, answer, **asked)
    assert whole(bytes_model, WRONG, **asked) == (tools is TOOLS)


def test_a_structure_may_be_grammars_of_its_own(bytes_model):
    listed = '{"grammars": [{"lark_grammar": "start: @a"}, {"name": "a", "json_schema": {"const": 5}}]}'
    assert whole(bytes_model, "5", structure=StructuredOutputs(grammar=listed), tools=TOOLS)


FORCED = {"hermes", "qwen3_coder", "llama3_json", "llama_pythonic", "mistral", "deepseek_v3", "deepseek_v3_1"}


@pytest.mark.parametrize("name", FORMATS)
def test_the_formats_in_which_calls_can_be_forced(bytes_model, name):
    def force():
        return grammar(bytes_model, tools=TOOLS, choice=REQUIRED, response_format=FORMATS[name])

    if name in FORCED:
        assert force() is not None
        return
    with pytest.raises(RequestError, match=f"no grammar is known of the format {name!r}") as caught:
        force()
    assert caught.value.param == "tools"


def test_a_format_that_frames_its_answers_has_no_structures(bytes_model):
    with pytest.raises(RequestError, match="frames the parts of"):
        grammar(bytes_model, structure=OBJECT, response_format=HARMONY)
