"""Sequences that wait for programs and grammars leave when both are there, or when one of them cannot be."""

from concurrent.futures import Future
from typing import Any

from jinfer import EngineError, RequestError
from jinfer.engine.waiting_room import WaitingRoom
from jinfer.text.grammar.grammar_masker import GrammarMasker
from tests.scheduling.fake_device import new_sequences
from tests.server.fakes import LIMITS


def waiting(masker: GrammarMasker | None = None) -> tuple[WaitingRoom, Any, Future[None]]:
    (sequence,) = new_sequences(LIMITS, [1, 2], 3)
    sequence.masker = masker
    room, program = WaitingRoom(), Future()
    room.add(sequence, [program])
    return room, sequence, program


def test_a_sequence_waits_for_its_programs_and_its_grammar():
    grammar: Future[Any] = Future()
    room, sequence, program = waiting(GrammarMasker(grammar))
    assert room.take_ready() == []
    program.set_result(None)
    assert room.take_ready() == []
    grammar.set_result(None)
    assert room.take_ready() == [(sequence, None)]
    assert len(room) == 0


def test_a_grammar_that_is_refused_waits_for_no_program():
    refused = RequestError("no")
    room, sequence, _ = waiting(GrammarMasker.refused(refused))
    assert room.take_ready() == [(sequence, refused)]


def test_a_program_that_cannot_be_compiled_is_the_engines_fault():
    room, _, program = waiting()
    program.set_exception(ValueError("too large"))
    ((_, error),) = room.take_ready()
    assert isinstance(error, EngineError)
    assert "too large" in str(error)
