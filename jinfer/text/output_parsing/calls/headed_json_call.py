"""Reads a call whose header has the name, and whose arguments are a JSON object behind it."""

from jinfer.text.output_parsing.calls.call_reader import CallSink, ReaderState, is_name
from jinfer.text.output_parsing.calls.json_arguments import JsonArguments
from jinfer.text.output_parsing.calls.json_calls import JsonCallsReader
from jinfer.text.output_parsing.response_format import HeadedJsonCall, JsonCalls

MAX_HEADER_CHARACTERS = 1_000


class HeadedJsonCallReader:
    """The reader of HeadedJsonCall. `name` is what the opening marker captured."""

    def __init__(self, syntax: HeadedJsonCall, sink: CallSink, name: str | None) -> None:
        self.state = ReaderState.READING
        self.rejected = ""
        self._syntax = syntax
        self._sink = sink
        self._name = name
        self._header = ""
        self._arguments: JsonArguments | None = None
        self._list: JsonCallsReader | None = None

    @property
    def is_in_string(self) -> bool:
        inner = self._list or self._arguments
        return inner is not None and inner.is_in_string

    def push(self, text: str) -> int:
        at = 0
        while at < len(text) and self.state is ReaderState.READING:
            if self._list is not None:
                at += self._list.push(text[at:])
                self._follow(self._list)
            elif self._arguments is None:
                at = self._in_header(text, at)
            elif not self._arguments.is_complete:
                at = self._arguments.push(text, at)
            else:
                at = self._behind(text, at)
        return at

    def close(self, *, by_marker: bool) -> None:
        if self.state is not ReaderState.READING:
            return
        if self._list is not None:
            self._list.close(by_marker=by_marker)
            self._follow(self._list)
        elif self._arguments is None:
            self._reject()
        else:
            self.state = ReaderState.DONE

    def _in_header(self, text: str, at: int) -> int:
        if text[at] == "[" and self._syntax.may_be_list and not self._header.strip():
            self._list = JsonCallsReader(JsonCalls(), self._sink)
            return at
        if text[at] == "{":
            return self._begin_arguments(at)
        self._header += text[at]
        if len(self._header) > MAX_HEADER_CHARACTERS:
            self._reject()
        return at + 1

    def _begin_arguments(self, at: int) -> int:
        name = self._name or self._name_in_header()
        if name is None or not is_name(name) or (self._name is not None and self._header.strip()):
            self._reject()
            return at
        self._arguments = JsonArguments(self._sink, name)
        return at

    def _name_in_header(self) -> str | None:
        name = self._header
        if self._syntax.name_after is not None:
            before, after, name = name.partition(self._syntax.name_after)
            if not after or before.strip():
                return None
        for end in self._syntax.name_before:
            name = name.partition(end)[0]
        return name.strip()

    def _behind(self, text: str, at: int) -> int:
        if text[at].isspace() or text[at] in self._syntax.trailer:
            return at + 1
        self.state = ReaderState.DONE
        return at

    def _follow(self, reader: JsonCallsReader) -> None:
        self.state = reader.state
        self.rejected = reader.rejected

    def _reject(self) -> None:
        self.state = ReaderState.REJECTED
        self.rejected = self._header
