"""The JSON value of a call's arguments, passed on as it is written."""

from jinfer.text.output_parsing.calls.call_reader import CallSink
from jinfer.text.output_parsing.calls.json_extent import JsonExtent
from jinfer.text.output_parsing.plain_json import json_value


class JsonArguments:
    """Arguments of a call whose name may come later.

    An object goes to the sink as it comes. Another value goes when it is complete: null as an empty object,
    a string that holds the JSON text of an object as that text, and others as they are.
    """

    def __init__(self, sink: CallSink, name: str | None) -> None:
        self._sink = sink
        self._name = name
        self._extent = JsonExtent()
        self._waiting = ""  # not given to the sink
        self._is_object: bool | None = None
        self.has_started = False

    @property
    def is_complete(self) -> bool:
        return self._extent.is_complete

    @property
    def is_in_string(self) -> bool:
        return self._extent.is_in_string

    def push(self, text: str, start: int) -> int:
        """Takes the part of the text from `start` on that is the value's; returns where it ends."""
        end = self._extent.push(text, start)
        self._waiting += text[start:end]
        if self._is_object is None and self._waiting:
            self._is_object = self._waiting[0] == "{"
        self._give()
        return end

    def set_name(self, name: str) -> None:
        """Names the call, and gives what has come so far."""
        self._name = name
        self._give()

    def _give(self) -> None:
        if self._name is None or not self._waiting:
            return
        if self._is_object:
            self._send(self._waiting)
        elif self.is_complete:
            self._send(_as_object(self._waiting))

    def _send(self, text: str) -> None:
        assert self._name is not None
        if not self.has_started:
            self._sink.start(self._name)
            self.has_started = True
        self._sink.arguments(text)
        self._waiting = ""


def _as_object(text: str) -> str:
    try:
        value = json_value(text)
        if value is None:
            return "{}"
        return value if isinstance(value, str) and isinstance(json_value(value), dict) else text
    except ValueError:
        return text
