"""Reads calls that are JSON objects with a name and arguments."""

from collections.abc import Callable

from jinfer.text.output_parsing.calls.call_reader import CallSink, ReaderState, is_name
from jinfer.text.output_parsing.calls.json_arguments import JsonArguments
from jinfer.text.output_parsing.calls.json_extent import JsonExtent
from jinfer.text.output_parsing.plain_json import json_value
from jinfer.text.output_parsing.response_format import JsonCalls

KEYS_BESIDE = ("type", "id")  # which a strict object may have too

Step = Callable[[str, int], int]


class JsonCallsReader:
    """The reader of JsonCalls.

    An automaton: each step reads a text from a place on, and returns the place where it stopped.
    """

    def __init__(self, syntax: JsonCalls, sink: CallSink) -> None:
        self.state = ReaderState.READING
        self.rejected = ""
        self._syntax = syntax
        self._sink = sink
        self._unclaimed = ""  # what was read and is in no call that was given
        self._is_claimed = False
        self._is_list = False
        self._num_calls = 0
        self._step: Step = self._before_call
        self._begin_call()

    def _begin_call(self) -> None:
        self._name: str | None = None
        self._arguments: JsonArguments | None = None
        self._begin_value()

    def _begin_value(self) -> None:
        self._extent = JsonExtent()
        self._value = ""

    @property
    def is_in_string(self) -> bool:
        is_in_arguments = self._arguments is not None and self._arguments.is_in_string
        return is_in_arguments or self._extent.is_in_string

    def push(self, text: str) -> int:
        at = 0
        while at < len(text) and self.state is ReaderState.READING:
            end = self._step(text, at)
            self._unclaimed = "" if self._is_claimed else self._unclaimed + text[at:end]
            self._is_claimed = False
            at = end
        self._keep_rejected()
        return at

    def close(self, *, by_marker: bool) -> None:
        is_between = self._step in (self._before_call, self._after_call)
        is_given = self._num_calls > 0 if is_between else self._has_started
        if self.state is ReaderState.READING:
            self.state = ReaderState.DONE if is_given else ReaderState.REJECTED
            self._keep_rejected()

    @property
    def _has_started(self) -> bool:
        return self._arguments is not None and self._arguments.has_started

    def _keep_rejected(self) -> None:
        if self.state is ReaderState.REJECTED:
            self.rejected, self._unclaimed = self._unclaimed, ""

    def _reject_at(self, at: int) -> int:
        self.state = ReaderState.REJECTED
        return at

    def _before_call(self, text: str, at: int) -> int:
        if text[at] == "{":
            self._begin_call()
            self._step = self._before_key
        elif text[at] == "[" and not self._is_list and not self._syntax.is_strict:
            self._is_list = True
        elif text[at] == "]" and self._num_calls > 0:
            self.state = ReaderState.DONE
        elif not text[at].isspace():
            return self._reject_at(at)
        return at + 1

    def _before_key(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._begin_value()
            self._step = self._in_key
            return at
        if text[at] == "}":
            return self._end_call(at)
        return at + 1 if text[at].isspace() or text[at] == "," else self._reject_at(at)

    def _in_key(self, text: str, at: int) -> int:
        end = self._push_value(text, at)
        if self._extent.is_complete:
            self._key = _string(self._value) or ""
            known = (*self._syntax.name_keys, *self._syntax.arguments_keys, *KEYS_BESIDE)
            self._step = self._before_value
            if self._syntax.is_strict and self._key not in known:
                return self._reject_at(end)
        return end

    def _before_value(self, text: str, at: int) -> int:
        if text[at].isspace() or text[at] == ":":
            return at + 1
        if self._key not in self._syntax.arguments_keys or self._arguments is not None:
            self._begin_value()
            self._step = self._in_value
            return at
        if self._syntax.is_strict and text[at] != "{":
            return self._reject_at(at)
        self._arguments = JsonArguments(self._sink, self._name)
        self._step = self._in_arguments
        return at

    def _in_arguments(self, text: str, at: int) -> int:
        assert self._arguments is not None
        end = self._arguments.push(text, at)
        self._is_claimed = self._has_started
        if self._arguments.is_complete:
            self._step = self._before_key
        return end

    def _in_value(self, text: str, at: int) -> int:
        end = self._push_value(text, at)
        if not self._extent.is_complete:
            return end
        self._step = self._before_key
        if self._key in self._syntax.name_keys and self._name is None:
            self._name = _string(self._value)
            if self._name is None or not is_name(self._name):
                return self._reject_at(end)
            if self._arguments is not None:
                self._arguments.set_name(self._name)
                self._is_claimed = self._has_started
        return end

    def _push_value(self, text: str, at: int) -> int:
        end = self._extent.push(text, at)
        self._value += text[at:end]
        return end

    def _end_call(self, at: int) -> int:
        if not self._has_started:
            if self._name is None or self._syntax.is_strict:
                return self._reject_at(at)
            self._sink.start(self._name)
            self._sink.arguments("{}")
        self._num_calls += 1
        self._is_claimed = True
        self._step = self._after_call
        if not self._is_list and self._syntax.separators is None:
            self.state = ReaderState.DONE
        return at + 1

    def _after_call(self, text: str, at: int) -> int:
        separators = "," if self._is_list else self._syntax.separators or ""
        if text[at] == "]" and self._is_list:
            self.state = ReaderState.DONE
        elif text[at] in separators:
            self._step = self._before_call if self._is_list else self._after_call
        elif text[at] == "{" and not self._is_list:
            return self._before_call(text, at)
        elif not text[at].isspace():
            self.state = ReaderState.REJECTED if self._is_list else ReaderState.DONE
            return at
        return at + 1


def _string(text: str) -> str | None:
    """The string that a JSON text stands for, if it does."""
    try:
        value = json_value(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
