"""Reads a call that is written with a tag for the function and one for each parameter."""

from jinfer.text.output_parsing.calls.call_reader import MAX_NAME_CHARACTERS, CallSink, ReaderState, is_name
from jinfer.text.output_parsing.plain_json import json_text
from jinfer.text.output_parsing.tool_schemas import ToolSchemas

FUNCTION = "<function="
END_OF_FUNCTION = "</function>"
PARAMETER = "<parameter="
END_OF_PARAMETER = "</parameter>"
MAX_TAG_CHARACTERS = len(PARAMETER) + MAX_NAME_CHARACTERS + 1


class FunctionXmlCallReader:
    """The reader of FunctionXmlCall. A parameter is given when its end decides the type of its value."""

    is_in_string = False

    def __init__(self, sink: CallSink, schemas: ToolSchemas) -> None:
        self.state = ReaderState.READING
        self.rejected = ""
        self._sink = sink
        self._schemas = schemas
        self._name: str | None = None
        self._key: str | None = None
        self._value = ""
        self._tag = ""
        self._space = ""  # before the tag
        self._num_parameters = 0

    def push(self, text: str) -> int:
        at = 0
        while at < len(text) and self.state is ReaderState.READING:
            if self._key is not None:
                at += self._push_value(text[at:])
            else:
                self._push_tag(text[at])
                at += 1
        return at

    def close(self, *, by_marker: bool) -> None:
        if self.state is not ReaderState.READING:
            return
        if self._name is None:
            self._reject()
            return
        self.state = ReaderState.DONE
        if by_marker:
            if self._key is not None:
                self._give_value(self._value)
            self._end_arguments()

    def _push_tag(self, character: str) -> None:
        if character.isspace() and not self._tag:
            self._space += character
            return
        self._tag += character
        begins = FUNCTION if self._name is None else PARAMETER
        if self._tag.startswith(begins):
            if character == ">":
                self._end_tag(self._tag[len(begins) : -1])
            elif len(self._tag) > MAX_TAG_CHARACTERS:
                self._reject()
        elif self._name is not None and self._tag == END_OF_FUNCTION:
            self._end_arguments()
            self.state = ReaderState.DONE
        elif not (begins.startswith(self._tag) or (self._name and END_OF_FUNCTION.startswith(self._tag))):
            self._reject()

    def _end_tag(self, name: str) -> None:
        if self._name is not None:
            self._key = name
        elif is_name(name):
            self._name = name
            self._sink.start(name)
        else:
            self._reject()
            return
        self._tag = self._space = ""

    def _push_value(self, text: str) -> int:
        num_before = len(self._value)
        self._value += text
        end = self._value.find(END_OF_PARAMETER, max(0, num_before - len(END_OF_PARAMETER) + 1))
        if end < 0:
            return len(text)
        self._give_value(self._value[:end])
        return end + len(END_OF_PARAMETER) - num_before

    def _give_value(self, text: str) -> None:
        assert self._name is not None
        assert self._key is not None
        value = self._schemas.typed(self._name, self._key, text.removeprefix("\n").removesuffix("\n"))
        begin = ", " if self._num_parameters else "{"
        self._sink.arguments(f"{begin}{json_text(self._key)}: {json_text(value)}")
        self._num_parameters += 1
        self._key = None
        self._value = ""

    def _end_arguments(self) -> None:
        self._sink.arguments("}" if self._num_parameters else "{}")

    def _reject(self) -> None:
        """The text from the broken tag on is no call's; a call that began ends before it."""
        if self._name is not None:
            self._end_arguments()
        self.state = ReaderState.REJECTED
        self.rejected = self._space + self._tag
