"""Messages to prompt text, with the Jinja template that a model brings.

The template language is that of Hugging Face's chat templates: Jinja with trim_blocks and lstrip_blocks, loop
controls, the functions raise_exception and strftime_now, a tojson filter that does not escape for HTML, and
the tag {% generation %}, whose body is rendered and which has no effect. Templates come from the internet, so
they run in Jinja's immutable sandbox and see plain data only. The sandbox does not bound time or memory: a
server renders in a process that does (template_renderer).
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
from jinfer.text.content import PlainMessage, fit_content
from jinfer.text.content_format import content_use
from jinfer.text.plain_data import plain

Message = Mapping[str, Any]

# transformers' mark; the space shows whether the template strips.
CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG "

# Options of transformers' function of the same name that are no variables of the template: the value that
# asks for what happens here anyway, and what to do where another one is given.
TRANSFORMERS_OPTIONS = {
    "tokenize": (True, "decode the ids with skip_special_tokens=False for the text"),
    "return_dict": (False, "the ids are returned"),
    "return_tensors": (None, "make an array of the ids"),
    "return_assistant_tokens_mask": (False, "use transformers for training data"),
    "padding": (False, "pad the ids; jinfer needs no padding"),
    "truncation": (False, "leave messages out; a prompt is never cut"),
    "max_length": (None, "leave messages out; a prompt is never cut"),
    "tokenizer_kwargs": (None, "encode the text with Tokenizer.encode"),
    "sanitize_control_tokens": (False, "remove special tokens from what users write"),
}

TEMPLATE_FILE_NAME = "<template>"  # Jinja's name, in tracebacks, for a template that has no file


class ChatTemplate:
    """A compiled chat template; immutable."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile a template.

        special_tokens: what the template sees as the variables bos_token, eos_token and so on. A token that
        the model
            does not have must not be in it: templates test whether the variable is defined.

        Raises TokenizerError where the source is not valid Jinja.
        """
        self._source = source
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self._content_use = content_use(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(
                f"line {error.lineno} of the chat template is not valid Jinja: {error.message}; correct it, "
                "or pass a prompt instead of messages"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | str = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt text of a conversation.

        messages: mappings with "role" and "content", dataclasses or objects with model_dump. The content is a
        string, a
            list of {"type": "text", "text": ...} parts, or None or absent where there are "tool_calls". The
            template gets strings or parts, whichever it reads (see content_format), and content of another
            form only where it reads that. Other keys go to the template; a key whose value is None is as good
            as absent.
        add_generation_prompt: end with what opens the assistant's next message; None does so unless
            continue_final_message is given.
        continue_final_message: end within the last message, so that the model continues it. A string names
        the
            field to continue instead of "content". Not together with add_generation_prompt.
        tools: JSON schemas of functions, for a template that knows tools. documents: mappings with "title"
        and "text", for a template that knows documents. variables: further variables of the template, such as
        enable_thinking; they win over the special tokens. An
            option that transformers' apply_chat_template has is none: it is refused, unless it asks for what
            happens here anyway.

        Raises RequestError where a message is malformed, or the template refuses it or fails on it.
        """
        _refuse_options(variables)
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt and continue_final_message are both given; leave one out"
            )
        chat = _plain_messages(messages)
        values = {**self._special_tokens, **{name: plain(value, name) for name, value in variables.items()}}
        values["tools"] = _mappings(tools, "tools")
        values["documents"] = _mappings(documents, "documents")
        values["add_generation_prompt"] = (
            not continue_final_message
            if add_generation_prompt is None
            else (plain(add_generation_prompt, "add_generation_prompt"))
        )
        if not continue_final_message:
            return self._render(chat, values)
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        chat[-1], final_text = _marked(chat[-1], field)
        return _cut_at_mark(self._render(chat, values), final_text, field)

    def _render(self, chat: list[PlainMessage], values: Mapping[str, Any]) -> str:
        chat = fit_content(
            chat, self._content_use, lambda probe: self._template.render(values, messages=probe)
        )
        try:
            return self._template.render(values, messages=chat)
        except _TemplateRefusalError as error:
            raise RequestError(f"the chat template refuses these messages: {error.message}") from error
        except Exception as error:  # a template can raise anything that Python's operators raise
            raise RequestError(
                f"the chat template failed{_template_line(error)}: {type(error).__name__}: {error}; check "
                "that it supports the roles and fields of these messages"
            ) from error


class _TemplateRefusalError(jinja2.TemplateError):
    """The template called raise_exception."""


class _GenerationTag(Extension):
    """{% generation %} ... {% endgeneration %} marks the assistant's words for training; here it is only a
    scope."""

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
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise _TemplateRefusalError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _refuse_options(variables: dict[str, Any]) -> None:
    """Removes options of transformers' that ask for what happens anyway, and refuses the others."""
    for name in ("messages", "conversation", "chat_template"):
        if name in variables:
            raise RequestError(f"{name!r} cannot be given as a template variable; choose another name")
    for name, (usual, remedy) in TRANSFORMERS_OPTIONS.items():
        if name in variables and (value := variables.pop(name)) != usual and (value or usual):
            raise RequestError(
                f"{name}={value!r} is an option of transformers that jinfer does not have; {remedy}"
            )


def _mappings(items: Any, name: str) -> list[Any] | None:
    if items is None:
        return None
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise RequestError(f"{name} must be a list of mappings, not {type(items).__name__}")
    copies = [plain(item, f"{name}[{index}]") for index, item in enumerate(items)]
    for index, copy in enumerate(copies):
        if not isinstance(copy, dict):
            raise RequestError(f"{name}[{index}] is a {type(copy).__name__}; it must be a mapping")
    return copies


def _marked(message: PlainMessage, field: str) -> tuple[PlainMessage, str]:
    """The message with a mark after its text, and the text. Of parts, the last with a text is marked."""
    value = message.get(field)
    if isinstance(value, str):
        return {**message, field: value + CONTINUE_HERE}, value
    parts = list(value) if isinstance(value, list | tuple) else []
    for index in reversed(range(len(parts))):
        if isinstance(parts[index], dict) and isinstance(text := parts[index].get("text"), str):
            parts[index] = {**parts[index], "text": text + CONTINUE_HERE}
            return {**message, field: parts}, text
    raise RequestError(
        f"continue_final_message is given and the last message has no text in {field!r} to continue; give "
        "it some, or name the field that has"
    )


def _cut_at_mark(text: str, final_text: str, field: str) -> str:
    mark = CONTINUE_HERE.strip()
    if mark not in text or final_text.strip() not in text:
        raise RequestError(
            "continue_final_message is given and the chat template does not write the last message's "
            f"{field!r} as it "
            f"is, so that it cannot end there; leave continue_final_message out, or name another field"
        )
    end = text.rindex(mark)
    return text[:end] if text.startswith(CONTINUE_HERE, end) else text[:end].rstrip()


def _plain_messages(messages: Sequence[Message]) -> list[PlainMessage]:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise RequestError(f"messages must be a list of mappings, not {type(messages).__name__}")
    if not messages:
        raise RequestError("messages is empty; give at least one message with 'role' and 'content'")
    return [_plain_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain_message(message: Message, where: str) -> PlainMessage:
    copy = plain(message, where)
    if not isinstance(copy, dict):
        raise RequestError(
            f"{where} is a {type(message).__name__}; it must be a mapping with 'role' and 'content'"
        )
    if not isinstance(copy.get("role"), str):
        raise RequestError(f"{where} has the role {copy.get('role')!r}; it must be a string such as 'user'")
    # None is dropped because templates test for absence and would print the word None.
    copy = {key: value for key, value in copy.items() if value is not None}
    if "content" not in copy and "tool_calls" not in copy:
        raise RequestError(f"{where} has no content; give a string, or a list of text parts")
    return copy


def _template_line(error: Exception) -> str:
    """The line of the template in which an error arose, if its traceback tells: " at line 3", or nothing."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == TEMPLATE_FILE_NAME
    ]
    return f" at line {lines[-1]}" if lines else ""
