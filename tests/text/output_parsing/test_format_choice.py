"""Which format a model gets."""

import logging

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from jinfer.errors import ConfigError
from jinfer.text.output_parsing.format_choice import choose_format
from jinfer.text.output_parsing.formats import FORMATS, HERMES, LLAMA3_JSON, MISTRAL, PLAIN
from jinfer.text.output_parsing.response_format import TextKind
from jinfer.text.tokenizer import Tokenizer
from tests.text.output_parsing.test_response_template import CHATML


def tokenizer(
    chat_template: str = "", added: str | None = None, response_template: object = None
) -> Tokenizer:
    backend = Backend(models.WordLevel({"x": 0}, unk_token="x"))
    if added is not None:
        backend.add_tokens([AddedToken(added)])
    return Tokenizer(backend, chat_template=chat_template or None, response_template=response_template)


FILES = {
    "chat_templates/Qwen-Qwen2.5-7B-Instruct.jinja": "hermes",
    "tokenizers/qwen3/chat_template.jinja": "hermes",
    "chat_templates/llama-cpp-deepseek-r1.jinja": "deepseek_v3",
    "chat_templates/meta-llama-Llama-3.1-8B-Instruct.jinja": "llama3_json",
    "chat_templates/mistralai-Mistral-Nemo-Instruct-2407.jinja": "mistral",
    "chat_templates/google-gemma-2-2b-it.jinja": "plain",
    "chat_templates/microsoft-Phi-3.5-mini-instruct.jinja": "plain",
}


@pytest.mark.parametrize(("path", "name"), FILES.items())
def test_a_chat_template_tells_the_format(shared_data, path, name):
    assert choose_format(tokenizer(shared_data(path).read_text(encoding="utf-8"))).name == name


def test_an_added_token_tells_it_where_the_template_does_not():
    assert choose_format(tokenizer()) is PLAIN
    assert choose_format(tokenizer(added="[TOOL_CALLS]")) is MISTRAL
    assert choose_format(tokenizer(added="</think>")).name == "think"


def test_a_models_own_template_wins():
    assert choose_format(tokenizer("<tool_call>", response_template=CHATML)).name == "response_template"


def test_a_template_that_cannot_be_used_is_said_and_replaced(caplog):
    own = tokenizer("<tool_call>", response_template={"version": 2})
    with caplog.at_level(logging.WARNING):
        assert choose_format(own) is HERMES
    assert "version 2" in caplog.text
    with pytest.raises(ConfigError, match="version 2"):
        choose_format(own, tool_call_parser="response_template")


@pytest.mark.parametrize("option", ["tool_call_parser", "reasoning_parser"])
@pytest.mark.parametrize("name", ["hermess", "response_template"])
def test_an_unknown_name_is_refused(option, name):
    with pytest.raises(ConfigError, match=f"{option}.*{name}.*hermes"):
        choose_format(tokenizer(), **{option: name})


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_wins_over_all_that_the_model_says(name, caplog):
    own = tokenizer("<tool_call>", response_template={"version": 2})
    assert choose_format(own, tool_call_parser=name, reasoning_parser=name) is FORMATS[name]
    assert caplog.text == ""


def test_calls_and_reasoning_may_be_of_two_formats():
    mixed = choose_format(tokenizer(), tool_call_parser="llama3_json", reasoning_parser="mistral")
    opened = [region.open.texts for region in mixed.regions if region.kind is TextKind.REASONING]
    assert opened == [("[THINK]",), ("<think>",)]
    assert mixed.regions[2:] == LLAMA3_JSON.regions[1:]
