"""What the tests of LLM share besides its fixtures."""

import gc
import threading
from typing import Any

import jax
import numpy as np
import pytest

from jinfer import LLM, RequestOutput, StreamPiece
from jinfer.execution.executor import Executor
from jinfer.scheduling.step_plan import StepPlan

TEXT = "the cat sat"
# More than rows, one longer than a step.
PROMPTS = [
    TEXT,
    "once upon a time",
    [5, 6, 7],
    "rain",
    list(range(100, 120)),
]
MESSAGES = [{"role": "user", "content": "the cat"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
RANDOM = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True, "seed": 7}


def ids_of(outputs: list[RequestOutput]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in output.outputs] for output in outputs]


def first_ids(llm: LLM, prompt: Any, **options: Any) -> tuple[int, ...]:
    return llm.generate(prompt, **options)[0].outputs[0].token_ids


def is_idle(llm: LLM) -> bool:
    """Whether nothing runs or waits, and no page is used."""
    stats = llm.stats()
    return stats.num_running == stats.num_waiting == stats.num_used_pages == 0


def live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def joined(
    pieces: list[StreamPiece], prompt_index: int = 0, output_index: int = 0
) -> tuple[str, tuple[int, ...]]:
    """The text and the ids of one completion, of whose pieces the last and no other must say why it ended."""
    own = [
        piece for piece in pieces if (piece.prompt_index, piece.output_index) == (prompt_index, output_index)
    ]
    assert [piece.finish_reason is not None for piece in own] == [False] * (len(own) - 1) + [True]
    return "".join(map(str, own)), tuple(token_id for piece in own for token_id in piece.token_ids)


def fail_once(
    monkeypatch: pytest.MonkeyPatch,
    llm: LLM,
    error: BaseException,
    *,
    at_step: int = 3,
    begin: threading.Event | None = None,
) -> None:
    """The device fails in the step `at_step` from now, and never again. Steps wait for `begin`."""
    executor, steps = llm.engine.executor, iter(range(1, 10**9))
    dispatch = type(executor).dispatch

    def failing(self: Executor, plan: StepPlan):
        if self is executor and begin is not None:
            begin.wait(60)
        if self is executor and next(steps) == at_step:
            raise error
        return dispatch(self, plan)

    # Of the class: put back on the object, its own method would keep it alive.
    monkeypatch.setattr(type(executor), "dispatch", failing)


def aligned_copy(array: jax.Array) -> np.ndarray:
    """In memory that starts at a multiple of 64 bytes, which JAX on a CPU could use without copying it."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def clean_part(text: str) -> str:
    """Two characters in the middle, neither of which is U+FFFD, that occur there for the first time."""
    parts = (text[i : i + 2] for i in range(2, len(text) - 3))
    return next(part for part in parts if "\ufffd" not in part and text.count(part) == 1)
