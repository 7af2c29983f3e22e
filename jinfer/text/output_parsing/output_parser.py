"""Splits one generated answer into reasoning, content and tool calls, while it comes."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from secrets import choice
from string import ascii_letters, digits
from typing import Any

from jinfer.text.output_parsing.calls.call_reader import CallReader, ReaderState
from jinfer.text.output_parsing.calls.readers import call_reader
from jinfer.text.output_parsing.compiled_format import CLOSE, IGNORED, CompiledFormat, Watch
from jinfer.text.output_parsing.delta_queue import DeltaQueue
from jinfer.text.output_parsing.deltas import Delta
from jinfer.text.output_parsing.marker_search import MarkerMatch, MarkerSearch
from jinfer.text.output_parsing.response_format import Region, TextKind
from jinfer.text.output_parsing.symbols import Symbol, shown, written
from jinfer.text.output_parsing.text_writer import TextWriter
from jinfer.text.output_parsing.tool_schemas import ToolSchemas

MAX_HELD_SYMBOLS = 4_096
NUM_ID_CHARACTERS = 24


class OutputParser:
    """The parser of one answer. It raises nothing, whatever the model says.

    Symbols go in one by one. A symbol that may belong to a marker is held; any other is text for certain, and
    goes to where the answer stands: to content, reasoning or the reader of a call. Where such a step changes
    what is looked for, the symbols that are held are searched again. So the deltas, joined, do not depend on
    how the text was cut.
    """

    def __init__(
        self,
        compiled: CompiledFormat,
        *,
        tools: Sequence[Any] | None = None,
        reads_reasoning: bool = True,
        new_call_id: Callable[[], str] | None = None,
    ) -> None:
        """`tools` are those of the request, in OpenAI's form; without them, None, calls stay in the content.
        `new_call_id` replaces random ids."""
        self._compiled = compiled
        self._schemas = ToolSchemas(tools or ())
        self._reads_calls = tools is not None
        self._reads_reasoning = reads_reasoning
        length = compiled.format.call_id_length
        self._answer = DeltaQueue(new_call_id or (lambda: random_call_id(length)))
        self._content = TextWriter(self._answer.content, is_stripped=compiled.format.is_leftover_stripped)
        self._reasoning = TextWriter(self._answer.reasoning, is_stripped=True)
        self._region: int | None = None
        self._reader: CallReader | None = None  # until the region ends
        self._opening = ""  # the text before the reader's that is content if there is no call
        self._num_calls_before = 0  # the region
        self._held: deque[Symbol] = deque()
        self._begin_search()

    @property
    def region(self) -> Region | None:
        """The region in which the answer stands; None outside of all."""
        return None if self._region is None else self._here

    @property
    def is_in_reasoning(self) -> bool:
        """True where text would be reasoning now."""
        return self._region is not None and self._here.kind is TextKind.REASONING

    def feed(self, symbols: Iterable[Symbol]) -> list[Delta]:
        """The deltas that are certain with these symbols. A string among them may have many characters."""
        for symbol in symbols:
            if isinstance(symbol, str):
                self._advance_text(symbol)
            else:
                self._advance(symbol)
        return self._answer.take()

    def finish(self) -> list[Delta]:
        """The deltas that are left at the end of the answer."""
        while self._held:
            self._settle()
        if self._reader is not None:
            self._close_calls("", by_marker=False)
        self._reasoning.finish()
        self._content.finish()
        return self._answer.take()

    def read_prompt(self, symbols: Iterable[Symbol]) -> None:
        """Goes to where the assistant's message in a prompt ends.

        Its text is not given out, but for the beginning of a call that the answer is to continue."""
        deltas = self.feed(symbols)
        self._held.clear()
        self._begin_search()
        self._content.end_part()
        self._reasoning.end_part()
        is_in_call = self._reader is not None and self._reader.state is ReaderState.READING
        self._answer.go_back(deltas, first_call=self._num_calls_before if is_in_call else None)
        self._num_calls_before = 0

    def _begin_search(self) -> None:
        """Looks for what may come where the answer stands now."""
        self._patterns = self._compiled.patterns(self._watch())
        self._search = MarkerSearch(self._patterns)
        self._num_passed = 0  # symbols of the search that are not held any more
        self._has_changed = False  # where the answer stands, since the search began

    def _watch(self) -> Watch:
        is_outside = self._region is None or self._is_behind_calls
        if self._region is not None and not is_outside:
            return self._compiled.watch_inside(self._region)
        return self._compiled.watch_outside(
            is_first=self._content.is_empty,
            reads_reasoning=self._reads_reasoning,
            reads_calls=self._reads_calls,
            closing=self._region,
        )

    @property
    def _is_behind_calls(self) -> bool:
        return self._reader is not None and self._reader.state is ReaderState.DONE

    def _advance_text(self, text: str) -> None:
        at = 0
        while at < len(text):
            end = at if self._held else self._patterns.end_of_plain(text, at)
            if end > at:
                at += self._put(text[at:end])
                if self._has_changed:
                    self._begin_search()
            else:
                self._advance(text[at])
                at += 1

    def _advance(self, symbol: Symbol) -> None:
        waiting = deque((symbol,))
        while waiting:
            self._held.append(waiting.popleft())
            match = self._search.push(self._held[-1])
            self._pass_on(self._search.num_free - self._num_passed)
            if match is not None and not self._has_changed:
                self._take_marker(match)
            if self._has_changed:
                waiting.extendleft(reversed(self._held))
                self._held.clear()
                self._begin_search()
            elif len(self._held) > MAX_HELD_SYMBOLS:
                self._settle()

    def _settle(self) -> None:
        """Decides what is held as if nothing followed, or the first part of it."""
        match = self._search.best
        self._pass_on(len(self._held) if match is None else match.start - self._num_passed)
        if match is not None and not self._has_changed:
            self._take_marker(match)
        rest = list(self._held)
        self._held.clear()
        self._begin_search()
        for symbol in rest:
            self._advance(symbol)

    def _pass_on(self, num_symbols: int) -> None:
        """Passes on the first symbols that are held, until that changes what is looked for."""
        while num_symbols > 0 and not self._has_changed:
            self._put_whole(self._held.popleft())
            self._num_passed += 1
            num_symbols -= 1

    def _put_whole(self, symbol: Symbol) -> None:
        is_reading = self._reader is not None and not self._is_behind_calls
        self._put_whole_text(written([symbol]) if is_reading else shown([symbol]))

    def _put(self, text: str) -> int:
        """Puts text where the answer stands; the number of characters that were put before that changed."""
        if self._is_behind_calls:
            num_spaces = len(text) - len(text.lstrip())
            if num_spaces < len(text):
                self._end_region()
            return num_spaces
        if self._reader is not None:
            return self._put_in_calls(text)
        if self._region is None and not self._compiled.format.has_leftover:
            return len(text)
        was_empty = self._content.is_empty
        self._writer().write(text)
        self._has_changed = self._has_changed or was_empty != self._content.is_empty
        return len(text)

    def _put_in_calls(self, text: str) -> int:
        assert self._reader is not None
        num_read = self._reader.push(text)
        if self._reader.state is ReaderState.REJECTED:
            self._reject(self._reader.rejected)
        self._has_changed = self._has_changed or self._is_behind_calls
        return num_read

    def _writer(self) -> TextWriter:
        return self._reasoning if self.is_in_reasoning else self._content

    @property
    def _here(self) -> Region:
        assert self._region is not None
        return self._compiled.format.regions[self._region]

    def _take_marker(self, match: MarkerMatch) -> None:
        marker = [self._held.popleft() for _ in range(match.end - match.start)]
        self._has_changed = True
        if match.tag == CLOSE and self._reader is not None and self._reader.is_in_string:
            for symbol in marker:
                self._put_whole(symbol)
        elif match.tag == CLOSE and self._reader is not None:
            self._close_calls(written(marker), by_marker=True)
        elif match.tag in (CLOSE, IGNORED):
            self._end_region()
        else:
            assert isinstance(match.tag, int)
            spans = match.spans.items()
            captures = {
                name: written(marker[start - match.start : end - match.start]) for name, (start, end) in spans
            }
            self._open(match.tag, written(marker), captures)

    def _open(self, index: int, marker: str, captures: dict[str, str]) -> None:
        if self._region is not None:
            self._end_region()
        space = self._content.end_part()
        self._region = index
        region = self._here
        if region.calls is None:
            self._writer().begin_part(between=region.join, is_stripped=region.is_stripped)
            return
        self._opening = space if region.holds_opening else space + marker
        self._num_calls_before = self._answer.num_calls
        self._reader = call_reader(region.calls, sink=self._answer, captures=captures, schemas=self._schemas)
        if region.holds_opening:
            self._put_whole_text(marker)

    def _put_whole_text(self, text: str) -> None:
        while text:
            text = text[self._put(text) :]

    def _close_calls(self, marker: str, *, by_marker: bool) -> None:
        assert self._reader is not None
        if not self._is_behind_calls:
            self._reader.close(by_marker=by_marker)
        if self._reader.state is ReaderState.REJECTED:
            self._reject(self._reader.rejected + marker)
        else:
            self._end_region()

    def _end_region(self) -> None:
        """Content goes on behind a marker."""
        self._writer().end_part()
        self._region = None
        self._reader = None
        self._has_changed = True
        self._content.begin_part(between="\n", is_stripped=self._compiled.format.is_leftover_stripped)

    def _reject(self, text: str) -> None:
        """Content goes on with the text of what is no call."""
        if self._answer.num_calls > self._num_calls_before:
            self._end_region()
            self._content.write(text)
            return
        self._region = None
        self._reader = None
        self._has_changed = True
        self._content.resume(self._opening + text)


def random_call_id(length: int | None) -> str:
    """An id that no other call has: "call_" and 24 letters and digits, or `length` of these alone."""
    letters = "".join(choice(ascii_letters + digits) for _ in range(length or NUM_ID_CHARACTERS))
    return letters if length is not None else f"call_{letters}"
