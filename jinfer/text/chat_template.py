"""Messages to prompt text, with the Jinja template that a model brings.

The template language is that of Hugging Face's chat templates: Jinja with trim_blocks and lstrip_blocks, loop controls,
the functions raise_exception and strftime_now, a tojson filter that does not escape for HTML, and the tag
{% generation %}, whose body is rendered and which has no effect. Templates come from the internet, so they run in
Jinja's immutable sandbox and see plain data only. The sandbox does not bound time or memory.
"""

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jinfer.errors import RequestError, TokenizerError

Message = Mapping[str, Any]

TEMPLATE_FILE_NAME = "<template>"  # Jinja's name, in tracebacks, for a template that has no file


class ChatTemplate:
    """A compiled chat template; immutable."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile a template.

        special_tokens: what the template sees as the variables bos_token, eos_token and so on. A token that the model
            does not have must not be in it: templates test whether the variable is defined.

        Raises TokenizerError where the source is not valid Jinja.
        """
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(
                f"line {error.lineno} of the chat template is not valid Jinja: {error.message}; correct it, or pass a "
                f"prompt instead of messages"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt text of a conversation.

        messages: mappings with "role" and "content". The content is a string, a list of {"type": "text", "text": ...}
            parts, which are joined, or None or absent where there are "tool_calls". Other keys go to the template;
            a key whose value is None is as good as absent.
        add_generation_prompt: end with what opens the assistant's next message.
        tools: JSON schemas of functions, for a template that knows tools.
        variables: further variables of the template, such as enable_thinking; they win over the special tokens.

        Raises RequestError where a message is malformed, or the template refuses it or fails on it.
        """
        if "messages" in variables:
            raise RequestError("'messages' cannot be given as a template variable; choose another name")
        chat = _plain_messages(messages)
        others = {"tools": tools, "documents": None, **variables}
        values = {**self._special_tokens, **{name: _plain(value, name) for name, value in others.items()}}
        try:
            return self._template.render(values, messages=chat, add_generation_prompt=add_generation_prompt)
        except _TemplateRefusalError as error:
            raise RequestError(f"the chat template refuses these messages: {error.message}") from error
        except Exception as error:  # a template can raise anything that Python's operators raise
            raise RequestError(
                f"the chat template failed{_template_line(error)}: {type(error).__name__}: {error}; check that it "
                f"supports the roles and fields of these messages"
            ) from error


class _TemplateRefusalError(jinja2.TemplateError):
    """The template called raise_exception."""


class _GenerationTag(Extension):
    """{% generation %} ... {% endgeneration %} marks the assistant's words for training; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012  Jinja's interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise _TemplateRefusalError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise RequestError(f"messages must be a list of mappings, not {type(messages).__name__}")
    if not messages:
        raise RequestError("messages is empty; give at least one message with 'role' and 'content'")
    return [_plain_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain_message(message: Message, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} is a {type(message).__name__}; it must be a mapping with 'role' and 'content'")
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{where} has the role {message.get('role')!r}; it must be a string such as 'user'")
    # None is dropped because templates test for absence and would print the word None.
    plain = {key: _plain(value, f"{where}.{key}") for key, value in message.items() if value is not None}
    if "content" in plain:
        plain["content"] = _joined_text(plain["content"], f"{where}.content")
    elif "tool_calls" not in plain:
        raise RequestError(f"{where} has no content; give a string, or a list of text parts")
    return plain


def _joined_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} is a {type(content).__name__}; it must be a string or a list of text parts")
    return "".join(_part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part_text(part: Any, where: str) -> str:
    part_type = part.get("type") if isinstance(part, dict) else None
    if part_type != "text":
        raise RequestError(f"{where} has the type {part_type!r}; only parts of type 'text' are supported")
    if not isinstance(part.get("text"), str):
        raise RequestError(f"{where} has the text {part.get('text')!r}; it must be a string")
    return part["text"]


def _plain(value: Any, where: str) -> Any:
    """A copy made of JSON's types alone: the methods of any other object would be the template's to call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise RequestError(f"{where} is a {type(value).__name__}, and a chat template takes only what JSON can hold")


def _template_line(error: Exception) -> str:
    """Where in the template an error arose, as far as its traceback tells: " at line 3", or nothing."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == TEMPLATE_FILE_NAME
    ]
    return f" at line {lines[-1]}" if lines else ""
