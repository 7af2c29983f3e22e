"""The search for markers in a stream of symbols, in time linear in its length.

Patterns become one nondeterministic automaton, whose threads all move with each symbol (Pike's method; see
Russ Cox, "Regular Expression Matching: the Virtual Machine Approach", 2009). The match is the one that `re`
would find: the leftmost, and of those the one that its alternatives and repeats prefer. A thread that is
alive is a marker that may have begun: what comes before the first of them is text for certain.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinfer.text.output_parsing.pattern_syntax import Chain, Either, Exactly, Named, Node, OneOf, Repeated
from jinfer.text.output_parsing.symbols import Symbol

MAX_STATES = 5_000


class _Take(NamedTuple):
    """Goes on to the next state if the symbol fits."""

    what: Exactly | OneOf


class _Fork(NamedTuple):
    """Goes on to each of the states, which are relative, without a symbol; the first is preferred."""

    steps: tuple[int, ...]


class _Mark(NamedTuple):
    """Notes where a named group begins or ends."""

    name: str
    is_end: bool


class _Accept(NamedTuple):
    """The end of a pattern."""

    tag: object


_State = _Take | _Fork | _Mark | _Accept
_Spans = Mapping[tuple[str, bool], int]


class MarkerMatch(NamedTuple):
    """A match from `start` to `end`, in symbols from the search's beginning."""

    start: int
    end: int
    tag: object
    spans: Mapping[str, tuple[int, int]]


class _Thread(NamedTuple):
    state: int
    start: int
    spans: _Spans


class MarkerPatterns:
    """Patterns with a tag each, compiled; immutable."""

    def __init__(self, patterns: Sequence[tuple[object, Node]]) -> None:
        """An earlier pattern is preferred where two match at one place. Raises ValueError for one that
        matches the empty text, and for patterns that are too large."""
        self.states: list[_State] = []
        self.first: list[int] = []
        for tag, node in patterns:
            self.first.append(len(self.states))
            self.states += [*_compiled(node), _Accept(tag)]
            if len(self.states) > MAX_STATES:
                raise ValueError(f"the patterns need more than {MAX_STATES} states; count fewer repeats")
        takes = [state.what for state in self.states if isinstance(state, _Take)]
        self.tokens = frozenset(what.text for what in takes if isinstance(what, Exactly) and what.is_token)
        self._may_begin: dict[Symbol, bool] = {}
        entered = _Threads(self)
        entered.enter_first(0)
        if entered.accepted is not None:
            raise ValueError(f"the pattern of {entered.accepted.tag} matches the empty text")
        self._first_takes = [thread.state for thread in entered.threads]
        firsts = [self.states[state] for state in self._first_takes]
        self._first_takes_text = any(
            not (isinstance(state.what, Exactly) and state.what.is_token)
            for state in firsts
            if isinstance(state, _Take)
        )

    def may_begin(self, symbol: Symbol) -> bool:
        """True if a match may begin with the symbol."""
        found = self._may_begin.get(symbol)
        if found is None:
            found = any(self.takes(state, symbol) for state in self._first_takes)
            if len(self._may_begin) < MAX_STATES:
                self._may_begin[symbol] = found
        return found

    def end_of_plain(self, text: str, start: int) -> int:
        """The first place in the text, from `start` on, at which a match may begin; its end if there is
        none."""
        if not self._first_takes_text:
            return len(text)
        for at in range(start, len(text)):
            if self.may_begin(text[at]):
                return at
        return len(text)

    def takes(self, state: int, symbol: Symbol) -> bool:
        """True if the symbol fits what the state takes."""
        instruction = self.states[state]
        assert isinstance(instruction, _Take)
        what = instruction.what
        if isinstance(symbol, str):
            fits = what.text == symbol if isinstance(what, Exactly) else what.expression.match(symbol)
            return bool(fits) and not (isinstance(what, Exactly) and what.is_token)
        if isinstance(what, Exactly):
            return what.is_token and what.text == symbol.text
        return all(map(what.expression.match, symbol.text))


def _compiled(node: Node) -> list[_State]:
    if isinstance(node, Exactly | OneOf):
        return [_Take(node)]
    if isinstance(node, Chain):
        return [state for part in node.parts for state in _compiled(part)]
    if isinstance(node, Named):
        return [_Mark(node.name, False), *_compiled(node.part), _Mark(node.name, True)]
    if isinstance(node, Either):
        return _compiled_choices([_compiled(choice) for choice in node.choices])
    return _compiled_repeat(node)


def _compiled_choices(choices: list[list[_State]]) -> list[_State]:
    states = choices[-1]
    for choice in reversed(choices[:-1]):
        states = [_Fork((1, len(choice) + 2)), *choice, _Fork((len(states) + 1,)), *states]
    return states


def _compiled_repeat(node: Repeated) -> list[_State]:
    part = _compiled(node.part)
    states = part * node.min_times

    def fork(inside: int, past: int) -> _Fork:
        return _Fork((inside, past) if node.is_greedy else (past, inside))

    if node.max_times is None:
        return [*states, fork(1, len(part) + 2), *part, _Fork((-len(part) - 1,))]
    num_optional = node.max_times - node.min_times
    length = len(part) + 1
    for index in range(num_optional):
        states = [*states, fork(1, length * (num_optional - index)), *part]
        if len(states) > MAX_STATES:
            raise ValueError(f"a repeat needs more than {MAX_STATES} states; count fewer")
    return states


class _Threads:
    """The threads after a symbol, in order of preference, no two in one state."""

    def __init__(self, patterns: MarkerPatterns) -> None:
        self._patterns = patterns
        self.threads: list[_Thread] = []
        self.accepted: MarkerMatch | None = None
        self._seen: set[int] = set()

    def enter_first(self, position: int) -> None:
        for state in self._patterns.first:
            if not self.enter(state, position, position, {}):
                return

    def enter(self, state: int, start: int, position: int, spans: _Spans) -> bool:
        """Adds the states that are reached from this one without a symbol. False once a match is found:
        threads that would come later are not preferred to it."""
        waiting = [(state, spans)]
        while waiting:
            state, spans = waiting.pop()
            if state in self._seen:
                continue
            self._seen.add(state)
            instruction = self._patterns.states[state]
            if isinstance(instruction, _Accept):
                self.accepted = MarkerMatch(start, position, instruction.tag, _whole_spans(spans))
                return False
            if isinstance(instruction, _Take):
                self.threads.append(_Thread(state, start, spans))
            elif isinstance(instruction, _Mark):
                waiting.append((state + 1, {**spans, instruction: position}))
            else:
                waiting += [(state + step, spans) for step in reversed(instruction.steps)]
        return True


def _whole_spans(spans: _Spans) -> dict[str, tuple[int, int]]:
    return {name: (at, spans[name, True]) for (name, is_end), at in spans.items() if not is_end}


class MarkerSearch:
    """One search in a stream."""

    def __init__(self, patterns: MarkerPatterns) -> None:
        self._patterns = patterns
        self._threads: list[_Thread] = []
        self._position = 0
        self.best: MarkerMatch | None = None
        """The match so far; a preferred one may still come."""

    @property
    def num_free(self) -> int:
        """The symbols, from the beginning, that are in no match, whatever follows."""
        starts = [self._threads[0].start] if self._threads else []
        return min([*starts, self.best.start if self.best is not None else self._position])

    def push(self, symbol: Symbol) -> MarkerMatch | None:
        """The match that is certain with this symbol. After one, the search is over."""
        if not self._threads and not self._patterns.may_begin(symbol):
            self._position += 1
            return None
        threads = self._threads
        if self.best is None:
            begun = _Threads(self._patterns)
            begun.enter_first(self._position)
            threads = threads + begun.threads
        self._position += 1
        self._move(threads, symbol)
        return self.best if not self._threads else None

    def _move(self, threads: Sequence[_Thread], symbol: Symbol) -> None:
        moved = _Threads(self._patterns)
        for thread in threads:
            if self._patterns.takes(thread.state, symbol) and not moved.enter(
                thread.state + 1, thread.start, self._position, thread.spans
            ):
                break
        self.best = moved.accepted or self.best
        self._threads = moved.threads
