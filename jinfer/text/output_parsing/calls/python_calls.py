"""Reads a list of calls as Python writes them."""

import re

from jinfer.text.output_parsing.calls.call_reader import CallSink, ReaderState, is_name
from jinfer.text.output_parsing.plain_json import json_text
from jinfer.text.output_parsing.python_literals import CLOSING, MAX_CHARACTERS, read_call
from jinfer.text.output_parsing.tool_schemas import ToolSchemas

BEGIN_OF_NAME = re.compile(r"[^\W\d]")
IN_NAME = re.compile(r"[\w.\-]")


class PythonCallsReader:
    """The reader of PythonCalls. A call is given with its closing parenthesis."""

    is_in_string = False

    def __init__(self, sink: CallSink, schemas: ToolSchemas) -> None:
        self.state = ReaderState.READING
        self.rejected = ""
        self._sink = sink
        self._schemas = schemas
        self._unclaimed: list[str] = []  # characters that are in no call that was given
        self._is_list = False
        self._num_calls = 0
        self._begin_call()

    def _begin_call(self) -> None:
        self._call: list[str] = []
        self._open: list[str] = []  # the closing brackets that are missing
        self._quote: str | None = None
        self._is_escaped = False

    def push(self, text: str) -> int:
        for at, character in enumerate(text):
            if self.state is not ReaderState.READING:
                return at
            self._unclaimed.append(character)
            self._push(character)
        return len(text)

    def close(self, *, by_marker: bool) -> None:
        if self.state is not ReaderState.READING:
            return
        if self._num_calls > 0 and not self._call:
            self.state = ReaderState.DONE
        else:
            self._reject()

    def _push(self, character: str) -> None:
        if self._open:
            self._push_argument(character)
        elif self._call:
            self._push_name(character)
        else:
            self._push_between(character)

    def _push_between(self, character: str) -> None:
        if character == "[" and not self._is_list:
            self._is_list = True
        elif self._is_list and BEGIN_OF_NAME.match(character):
            self._call.append(character)
        elif character == "]" and self._num_calls > 0:
            self.state = ReaderState.DONE
        elif not (character.isspace() or (character == "," and self._num_calls > 0)):
            self._reject()

    def _push_name(self, character: str) -> None:
        self._call.append(character)
        if character == "(":
            self._open.append(")")
        elif not IN_NAME.match(character):
            self._reject()

    def _push_argument(self, character: str) -> None:
        self._call.append(character)
        if len(self._call) > MAX_CHARACTERS:
            self._reject()
        elif self._quote is not None:
            self._push_string(character)
        elif character in ("'", '"'):
            self._quote = character
        elif character in CLOSING:
            self._open.append(CLOSING[character])
        elif character == self._open[-1]:
            self._open.pop()
            if not self._open:
                self._give_call()
        elif character in CLOSING.values():
            self._reject()

    def _push_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == self._quote:
            self._quote = None

    def _give_call(self) -> None:
        try:
            name, arguments = read_call("".join(self._call))
            text = json_text({key: self._typed(name, key, value) for key, value in arguments.items()})
        except (ValueError, OverflowError):
            self._reject()
            return
        if not is_name(name):
            self._reject()
            return
        self._sink.start(name)
        self._sink.arguments(text)
        self._num_calls += 1
        self._unclaimed.clear()
        self._begin_call()

    def _typed(self, name: str, key: str, value: object) -> object:
        return self._schemas.typed(name, key, value) if isinstance(value, str) else value

    def _reject(self) -> None:
        self.state = ReaderState.REJECTED
        self.rejected = "".join(self._unclaimed)
