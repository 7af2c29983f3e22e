"""An answer as a row of blocks, of which one is open at a time: the form of Responses and of Messages."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jinfer.text.output_parsing.deltas import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


class BlockKind(enum.Enum):
    """Contents of a block: `text` of this kind, or the JSON text of a call's arguments."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


@dataclass
class Block:
    """A part of an answer. `index` counts the blocks from 0; a call has the id and the name."""

    kind: BlockKind
    index: int
    call: ToolCallStart | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.pieces)


class Change(enum.Enum):
    """A change of a block."""

    OPENED = "opened"
    GROWN = "grown"
    CLOSED = "closed"


BlockEvent = tuple[Change, Block, str]
"""A change, its block, and the text by which it grows."""


class BlockBuilder:
    """Puts the deltas of one answer into blocks, each closed before the next opens."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: Block | None = None

    def add(self, deltas: Iterable[Delta]) -> Iterator[BlockEvent]:
        """The changes that the deltas make."""
        for delta in deltas:
            if isinstance(delta, ToolCallStart):
                yield from self._begin(BlockKind.TOOL_CALL, delta)
                continue
            kind = _kind(delta)
            if self._open is None or self._open.kind is not kind:
                yield from self._begin(kind)
            assert self._open is not None
            self._open.pieces.append(delta.text)
            yield Change.GROWN, self._open, delta.text

    def finish(self) -> Iterator[BlockEvent]:
        """Closes the last block."""
        if self._open is not None:
            block, self._open = self._open, None
            yield Change.CLOSED, block, ""

    def _begin(self, kind: BlockKind, call: ToolCallStart | None = None) -> Iterator[BlockEvent]:
        yield from self.finish()
        self._open = Block(kind, len(self.blocks), call)
        self.blocks.append(self._open)
        yield Change.OPENED, self._open, ""


def _kind(delta: ContentDelta | ReasoningDelta | ToolCallArguments) -> BlockKind:
    if isinstance(delta, ContentDelta):
        return BlockKind.CONTENT
    return BlockKind.REASONING if isinstance(delta, ReasoningDelta) else BlockKind.TOOL_CALL
