"""Reads calls that a response template describes, when their region is complete."""

from collections.abc import Mapping
from typing import Any

from jinfer.text.output_parsing.calls.call_reader import CallSink, ReaderState, is_name
from jinfer.text.output_parsing.plain_json import is_encodable, json_text
from jinfer.text.output_parsing.response_format import TemplateCalls
from jinfer.text.output_parsing.template_values import content_value, transformed
from jinfer.text.output_parsing.tool_schemas import ToolSchemas


class TemplateCallsReader:
    """The reader of TemplateCalls. `captures` are the named groups of the opening marker."""

    is_in_string = False

    def __init__(
        self, syntax: TemplateCalls, sink: CallSink, captures: Mapping[str, str], schemas: ToolSchemas
    ) -> None:
        self.state = ReaderState.READING
        self.rejected = ""
        self._syntax = syntax
        self._sink = sink
        self._captures = captures
        self._schemas = schemas
        self._body: list[str] = []

    def push(self, text: str) -> int:
        self._body.append(text)
        return len(text)

    def close(self, *, by_marker: bool) -> None:
        body = "".join(self._body)
        try:
            calls = [self._call(value) for value in self._values(body)]
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            calls = []
        if not calls:
            self.state = ReaderState.REJECTED
            self.rejected = body
            return
        self.state = ReaderState.DONE
        for name, arguments in calls:
            self._sink.start(name)
            self._sink.arguments(arguments)

    def _values(self, body: str) -> list[Any]:
        syntax = self._syntax
        value = content_value(syntax.content, body, syntax.content_args)
        if syntax.transform is None:
            return value if isinstance(value, list) else [value]
        scopes = value if syntax.transform_each else [{"content": value}]
        return [transformed(syntax.transform, {**self._captures, **scope}) for scope in scopes]

    def _call(self, value: Any) -> tuple[str, str]:
        function = value.get("function", value)
        name, arguments = function["name"], function.get("arguments")
        if not is_name(name):
            raise ValueError(f"{name!r} is no name of a function")
        if isinstance(arguments, dict):
            arguments = {key: self._typed(name, key, argument) for key, argument in arguments.items()}
        if isinstance(arguments, str) and is_encodable(arguments):
            return name, arguments
        return name, "{}" if arguments is None else json_text(arguments)

    def _typed(self, name: str, key: str, argument: Any) -> Any:
        return self._schemas.typed(name, key, argument) if isinstance(argument, str) else argument
