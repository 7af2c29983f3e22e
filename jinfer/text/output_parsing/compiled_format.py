"""A response format made ready for a tokenizer."""

from collections.abc import Collection, Iterator
from functools import cache
from typing import NamedTuple

from jinfer.text.output_parsing.marker_search import MarkerPatterns
from jinfer.text.output_parsing.pattern_syntax import Either, Node, literal, parse_pattern
from jinfer.text.output_parsing.response_format import Marker, ResponseFormat, TextKind

CLOSE = "close"
IGNORED = "ignored"
ANCHOR = "anchor"


class Watch(NamedTuple):
    """The markers that a parser looks for: those that open one of the regions `opening`, the one that closes
    the region `closing`, and those that mean nothing."""

    opening: tuple[int, ...]
    closing: int | None
    has_ignored: bool


class CompiledFormat:
    """A format whose markers are those of a tokenizer; to share between requests."""

    def __init__(self, response_format: ResponseFormat, added_tokens: Collection[str]) -> None:
        """`added_tokens` are the texts of the tokenizer's added tokens. Raises ValueError for a marker that
        cannot be searched in a stream."""
        self.format = response_format
        self._added_tokens = frozenset(added_tokens)
        self.patterns = cache(self._patterns)
        self.anchors = MarkerPatterns([(ANCHOR, self._node(marker)) for marker in response_format.anchors])
        self.marker_tokens = frozenset(self._spelled())
        """The added tokens that are markers or parts of one."""

    def watch_outside(
        self, *, is_first: bool, reads_reasoning: bool, reads_calls: bool, closing: int | None = None
    ) -> Watch:
        """The watch outside of regions; or, with `closing`, behind the calls of a region that is still open.

        is_first: nothing but white space has come as content.
        """
        kinds = {
            TextKind.CONTENT: True,
            TextKind.REASONING: reads_reasoning,
            TextKind.TOOL_CALLS: reads_calls,
        }
        regions = enumerate(self.format.regions)
        opening = [i for i, region in regions if kinds[region.kind] and (is_first or not region.only_first)]
        return Watch(tuple(opening), closing, True)

    def watch_inside(self, index: int) -> Watch:
        """The watch in a region: its end alone."""
        return Watch((), index, False)

    def _patterns(self, watch: Watch) -> MarkerPatterns:
        """The patterns of a watch, tagged with the index of a region, CLOSE or IGNORED."""
        patterns: list[tuple[object, Node]] = [
            (index, self._node(self.format.regions[index].open)) for index in watch.opening
        ]
        if watch.closing is not None and (close := self.format.regions[watch.closing].close) is not None:
            patterns.append((CLOSE, self._node(close)))
        if watch.has_ignored:
            patterns += [(IGNORED, self._node(marker)) for marker in self.format.ignored]
        return MarkerPatterns(patterns)

    def _node(self, marker: Marker) -> Node:
        if marker.pattern is not None:
            return parse_pattern(marker.pattern, self._added_tokens)
        by_length = sorted(marker.texts, key=len, reverse=True)
        choices = tuple(literal(text, self._added_tokens) for text in by_length)
        return choices[0] if len(choices) == 1 else Either(choices)

    def _spelled(self) -> Iterator[str]:
        num_regions = len(self.format.regions)
        every = Watch(tuple(range(num_regions)), None, True)
        for patterns in [
            self.anchors,
            self.patterns(every),
            *map(self.patterns, map(self.watch_inside, range(num_regions))),
        ]:
            yield from patterns.tokens
