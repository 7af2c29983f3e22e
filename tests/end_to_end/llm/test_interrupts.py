"""What arrives in the middle of something: interrupts, finalizers and signal handlers, at any line of the
package.

A trace function acts at the n-th line that the package runs in this thread. There the garbage collector, a
signal handler or an interrupt may come, wherever it may come in a real run.
"""

import functools
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jinfer
from jinfer import LLM, EngineError
from tests.checkpoints import CONFIG, TINY_ENGINE
from tests.end_to_end.llm.helpers import is_idle

PACKAGE = str(Path(jinfer.__file__).parent)
PROMPTS = [[row, 2, 3] for row in range(3)]
GREEDY = {"temperature": 0, "ignore_eos": True}
LONG = GREEDY | {"max_tokens": 12}
SECONDS = 120  # nothing takes so long that does not hang


class AtLine:
    """Acts once, before the n-th line of the package, in this thread, within a with block. It counts lines,
    to which the garbage collector adds none: what it ends swallows an interrupt."""

    def __init__(self, place: int, act: Callable[[], Any]) -> None:
        self._place, self._act, self.num_lines, self.has_acted = place, act, 0, False
        self._collects = gc.isenabled()

    def __enter__(self) -> "AtLine":
        gc.disable()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)
        if self._collects:
            gc.enable()

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.num_lines += 1
            if self.num_lines == self._place:
                sys.settrace(None)
                self.has_acted = True
                self._act()
        return self._trace


def count_lines(call: Callable[[], Any]) -> int:
    with AtLine(0, lambda: None) as counter:
        call()
    return counter.num_lines


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupted(call: Callable[[], Any], place: int) -> bool:
    """Whether there was an interrupt, which the call may not swallow: it may end before it comes to that
    line."""
    try:
        with AtLine(place, interrupt) as at_line:
            call()
    except KeyboardInterrupt:
        assert at_line.has_acted
        return True
    assert not at_line.has_acted, f"the interrupt at line {place} was swallowed"
    return False


def in_another_thread(call: Callable[[], Any]) -> Any:
    """What it returns or raises; fails if it hangs."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert outcome, "the call hangs"
    return outcome[0]


@pytest.fixture(scope="module")
def llm(params) -> Iterator[LLM]:
    """Its own: what is tested here could leave it broken."""
    llm = LLM(CONFIG, params=params, **TINY_ENGINE)
    yield llm
    in_another_thread(lambda: llm.close() or "closed")  # which could hang


def ids(llm: LLM, prompts: list[list[int]], salt: str | None = None, **options: Any) -> list[tuple[int, ...]]:
    return [out.outputs[0].token_ids for out in llm.generate(prompts, cache_salt=salt, **(LONG | options))]


def lines_to_try(num_lines: int, first: int, stride: int) -> Iterator[int]:
    """The first lines one by one, and then some of them, since steps repeat themselves."""
    return itertools.chain(range(1, first), range(first, num_lines + 1, stride))


class TestInterrupts:
    """After each, a call from another thread gives its tokens, and then nothing is left."""

    @pytest.fixture
    def check(self, llm) -> Callable[[int], None]:
        expected = ids(llm, [[5, 6, 7]], max_tokens=3)

        def check(place: int) -> None:
            assert in_another_thread(lambda: ids(llm, [[5, 6, 7]], max_tokens=3)) == expected, place
            assert is_idle(llm), place
            llm.check_integrity()

        return check

    def test_at_any_line_of_a_call(self, llm, check):
        call = functools.partial(ids, llm, PROMPTS, max_tokens=3)
        num_lines = count_lines(call)
        num_interrupts = 0
        for place in lines_to_try(num_lines, first=200, stride=37):
            num_interrupts += interrupted(call, place)
            check(place)
        assert num_interrupts > 200

    def test_at_the_last_lines_of_a_call_where_it_cleans_up(self, llm, check):
        call = functools.partial(ids, llm, PROMPTS, max_tokens=2)
        num_lines = count_lines(call)
        num_interrupts = 0
        for place in range(num_lines - 120, num_lines + 1):
            num_interrupts += interrupted(call, place)
            check(place)
        assert num_interrupts  # not each: where two steps may be in flight, calls differ by some lines

    def test_while_a_stream_is_closed(self, llm, check):
        """Which is how a call ends that was interrupted before."""

        def started() -> Any:
            stream = llm.stream(PROMPTS, **LONG)
            next(stream)
            return stream

        num_lines, num_interrupts = count_lines(started().close), 0
        for place in range(1, num_lines + 1):
            num_interrupts += interrupted(started().close, place)
            check(place)
        assert num_interrupts > num_lines // 2  # not each: by the time, one step or two are in flight

    def test_others_get_their_whole_or_an_error_and_never_a_part(self, llm):
        """A stream of another caller is open while a call is interrupted at any line of its steps."""
        expected = ids(llm, [[7, 8, 9]])[0]
        call = functools.partial(ids, llm, PROMPTS, max_tokens=3)
        num_whole = num_errors = 0
        for place in range(1, count_lines(call) + 1, 41):
            bystander = llm.stream([[7, 8, 9]], **LONG)
            got = [*next(bystander).token_ids]
            interrupted(call, place)
            try:
                got += [token_id for piece in bystander for token_id in piece.token_ids]
            except EngineError as error:
                num_errors += "interrupted" in str(error)
            else:
                assert tuple(got) == expected, place
                num_whole += 1
        assert num_whole
        assert num_errors
        assert is_idle(llm)

    def test_a_fault_while_the_engine_begins_anew_does_not_last(self, llm, monkeypatch):
        """The new state cannot be made, for once."""
        expected = ids(llm, [[5, 6, 7]])
        with monkeypatch.context() as patch:
            patch.setattr(llm.engine.executor, "dispatch", lambda _: interrupt())
            patch.setattr(llm.engine.executor, "reset", lambda: 1 / 0)
            with pytest.raises(EngineError, match="nor could it begin anew"):
                ids(llm, PROMPTS)
        assert ids(llm, [[5, 6, 7]]) == expected
        assert is_idle(llm)


class TestWithinAStep:
    def test_a_stream_that_is_collected_at_any_line_changes_nothing(self, llm):
        """The garbage collector closes it in the thread that is inside of a step, which may be in any
        state."""
        expected = ids(llm, PROMPTS, "first", max_tokens=4)
        num_lines = count_lines(lambda: ids(llm, PROMPTS, "second", max_tokens=4))

        class Session:
            """Refers to itself, and to a stream: only the collector ends it."""

        gc.collect()
        gc.freeze()  # else each collection would look at all that tests have made before
        gc.disable()
        try:
            for place in lines_to_try(num_lines, first=100, stride=67):
                session = Session()
                session.itself, session.pieces = (
                    session,
                    llm.stream([[77, 78, 79, 80]], **GREEDY, max_tokens=15),
                )
                next(session.pieces)
                del session
                with AtLine(place, gc.collect):
                    assert ids(llm, PROMPTS, str(place), max_tokens=4) == expected, place
                assert is_idle(llm), place
                llm.check_integrity()
        finally:
            gc.enable()
            gc.unfreeze()

    @pytest.mark.parametrize("act", ["generate", "next", "close stream", "repr", "stats", "check_integrity"])
    def test_what_a_handler_calls_in_a_step_is_refused_or_waits_and_harms_nobody(self, llm, act):
        expected = ids(llm, PROMPTS, "first")
        num_lines = count_lines(lambda: ids(llm, PROMPTS, "second"))
        refused = 0

        def handler() -> None:
            nonlocal refused
            try:
                {
                    "generate": lambda: ids(llm, [[5, 6, 7]]),
                    "next": lambda: next(other),
                    "close stream": lambda: other.close(),
                    "repr": lambda: repr(llm),
                    "stats": llm.stats,
                    "check_integrity": lambda: None,
                }[act]()
            except EngineError as error:
                refused += "in the middle of a step" in str(error)

        for place in range(1, num_lines, 251):
            other = llm.stream([[77, 78, 79, 80]], **GREEDY, max_tokens=15)
            next(other)
            with AtLine(place, handler):
                assert ids(llm, PROMPTS, f"{act} {place}") == expected, place
            other.close()
            assert is_idle(llm), place
        assert (refused > 0) == (act in ("generate", "next"))

    def test_a_close_in_a_step_waits_for_its_end(self, params):
        for place in (500, 1300):
            with LLM(CONFIG, params=params, **TINY_ENGINE) as llm:
                ids(llm, [[1]], max_tokens=1)
                with AtLine(place, llm.close), pytest.raises(EngineError, match="closed"):
                    ids(llm, PROMPTS)
                assert "closed" in repr(llm)
