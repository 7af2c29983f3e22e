"""Steps in two halves as they run: their executables, what they carry on the device, and their handles."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jinfer.batching.batch import NOTHING, Batch, padding_batch
from jinfer.batching.logits_rules import empty_row, joining_row
from jinfer.compilation.program import Compilation
from jinfer.engine.split_plan import ScoredChunk, SplitKind, StepMasks, device_rows, ruled_rows, scored_chunks
from jinfer.engine.steps import ChunkScores, TokenLogprobs
from jinfer.execution.device_memory import delete_arrays
from jinfer.execution.device_state import DeviceState
from jinfer.execution.input_cache import InputCache
from jinfer.execution.scored_step import NO_TARGET, PromptScores
from jinfer.execution.split_programs import ProgramKey, SplitPrograms
from jinfer.execution.step import NextTokens
from jinfer.placement import Placement
from jinfer.sampling.processed_logits import LogitsState, RowFlags
from jinfer.sampling.sampler import StepResult
from jinfer.scheduling.step_plan import ChunkPlan, StepPlan
from jinfer.weights.params import Params


@dataclass(slots=True, eq=False)
class SplitStep:
    """A step whose first half was dispatched: the handle of a step in two halves. `result` is there once the
    second half was."""

    plan: StepPlan
    num_rows: int
    scored: list[ScoredChunk]
    scores: PromptScores | None
    result: StepResult | None = None


class SplitSteps:
    """Runs steps in two halves. The programs are compiled when the first request needs them, in a thread."""

    def __init__(self, programs: SplitPrograms, compilation: Compilation, placement: Placement) -> None:
        self._programs = programs
        self._compilation = compilation
        self._placement = placement
        self._input_cache = InputCache(placement)
        self._executables: dict[ProgramKey, jax.stages.Compiled] = {}
        self._prepared: dict[SplitKind, Future[None]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jinfer-split-steps")
        self._state: LogitsState | None = None
        self._next_tokens: NextTokens | None = None
        self._masks: dict[
            int, np.ndarray
        ] = {}  # by how many are sent at a time: new pages of memory are slow
        self._is_closed = threading.Event()
        self._closing = threading.RLock()  # a finalizer may close in the thread that compiles

    def prepare(
        self, kind: SplitKind, *, num_threads: int | None = None, progress: bool = False
    ) -> Future[None]:
        """Compiles what steps of a kind need, unless it is there or being compiled, in threads for half of
        the cores unless `num_threads` says otherwise. The future is done when they can run, and has the error
        if they cannot."""
        prepared = self._prepared.get(kind)
        if prepared is None or (prepared.done() and prepared.exception() is not None):
            prepared = self._prepared[kind] = self._thread.submit(
                self._prepare, kind, num_threads or max(1, (os.cpu_count() or 1) // 2), progress
            )
        return prepared

    def _prepare(self, kind: SplitKind, num_threads: int, progress: bool) -> None:
        missing = {
            key: program
            for key, program in self._programs.of_kind(kind).items()
            if key not in self._executables
        }
        self._executables |= self._compilation.compile_all(
            missing, num_threads=num_threads, progress=progress, stop=self._is_closed
        )
        with self._closing:
            if self._is_closed.is_set():
                raise CancelledError("the engine was closed")
            if self._state is None:
                self._fill_with_zeros()

    def _fill_with_zeros(self) -> None:
        programs = self._programs
        self._state, self._next_tokens = self._placement.zeros((programs.logits_state, programs.next_tokens))

    def warm_up(self, params: Params, state: DeviceState) -> DeviceState:
        """Runs every program of processed logits once on padding: first calls load code."""
        limits = self._programs.limits
        empty = empty_row(limits, self._programs.vocab_size)._replace(row=np.array(limits.max_num_seqs))
        self._state = self._executables[ProgramKey("join")](self._state, empty)
        for size in self._programs.mask_counts:
            self._send(StepMasks([], self.new_masks(size)), [])
        for shape in self._programs.buckets.all:
            batch = padding_batch(shape, limits)
            state, step = self.begin(params, state, NOTHING, batch, packed=batch.packed)
            state = self.choose(state, step, None)
        state.rows.newest_token.block_until_ready()
        return state

    def begin(
        self,
        params: Params,
        state: DeviceState,
        plan: StepPlan,
        batch: Batch,
        *,
        packed: np.ndarray | jax.Array,
    ) -> tuple[DeviceState, SplitStep]:
        """Starts the first half, and the copies of scores to the host. `packed` is the batch's, perhaps on
        the device."""
        scores, scored = None, scored_chunks(plan)
        if scored:
            score = self._executables[ProgramKey("score", batch.shape)]
            state, self._next_tokens, scores = score(
                params, state, packed, self._next_tokens, _targets(scored, batch)
            )
            jax.tree.map(lambda x: x.copy_to_host_async(), scores)
        else:
            forward = self._executables[ProgramKey("forward", batch.shape)]
            state, self._next_tokens = forward(params, state, packed, self._next_tokens)
        for chunk in plan.chunks:
            if chunk.is_last_chunk and chunk.sequence.request.logits_rules is not None:
                self._join(chunk)
        return state, SplitStep(plan, batch.shape.rows, scored, scores)

    def _join(self, chunk: ChunkPlan) -> None:
        programs = self._programs
        joining = joining_row(chunk.sequence, chunk.row, programs.limits, programs.vocab_size)
        self._state = self._executables[ProgramKey("join")](self._state, joining)

    def choose(self, state: DeviceState, step: SplitStep, masks: StepMasks | None) -> DeviceState:
        """Starts the second half, with the masks of some rows."""
        assert step.result is None, "its tokens are chosen already"
        num_rows = step.num_rows
        ruled = ruled_rows(step.plan)
        reports = any(sequence.params.reports_processed_logprobs for sequence in ruled.values())
        masked = [] if masks is None else [row for row in masks.rows if row is not None]
        flags = RowFlags(
            has_rules=self._flags("has_rules", num_rows, list(ruled)),
            has_step_mask=self._flags("has_step_mask", num_rows, masked),
        )
        if masks is not None:
            self._send(masks, device_rows(step.plan))
        choose = self._executables[ProgramKey("report" if reports else "choose", size=num_rows)]
        rows, self._state, self._next_tokens, step.result = choose(
            state.rows, self._state, self._next_tokens, flags
        )
        step.result.token_ids.copy_to_host_async()
        return DeviceState(state.kv_cache, rows)

    def _flags(self, name: str, num_rows: int, rows: list[int]) -> np.ndarray | jax.Array:
        flags = np.zeros(num_rows, bool)
        flags[rows] = True
        return self._input_cache((name, num_rows), flags)

    def _send(self, masks: StepMasks, row_ids: list[int]) -> None:
        """Sends masks as they are: those for no row go to the null row."""
        null_row = self._programs.limits.max_num_seqs
        targets = np.full(len(masks.words), null_row, np.int32)
        targets[: len(masks.rows)] = [null_row if row is None else row_ids[row] for row in masks.rows]
        key = ProgramKey("step masks", size=len(masks.words))
        send = self._executables[key]
        state = self._state
        assert state is not None
        self._state = state._replace(
            step_masks=send(state.step_masks, self._input_cache(key, targets), masks.words)
        )

    def new_masks(self, num_rows: int) -> np.ndarray:
        """uint32 [as many as are sent at a time, words], whose first `num_rows` are to be filled. They are
        those of an earlier step, which must have been read: its tokens are there when its masks are not
        needed any more."""
        size = next(size for size in self._programs.mask_counts if size >= num_rows)
        if size not in self._masks:
            num_words = self._programs.logits_state.step_masks.shape[1]
            self._masks[size] = np.zeros((size, num_words), np.uint32)
        return self._masks[size]

    def reset(self) -> None:
        """Begins with an empty state. It may be interrupted, and done again."""
        if self._state is not None:
            delete_arrays((self._state, self._next_tokens))
            self._fill_with_zeros()

    def close(self) -> None:
        """Gives back the memory of the state. A program that XLA compiles is dropped when it is there, and
        nothing waits for it: XLA cannot be interrupted."""
        with self._closing:
            self._is_closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._state is not None:
            delete_arrays((self._state, self._next_tokens))
        self._input_cache.clear()


def _targets(scored: list[ScoredChunk], batch: Batch) -> np.ndarray:
    """The next token of each token of a batch whose log probability is wanted."""
    assert batch.shape.tokens is not None
    targets = np.full(batch.shape.tokens, NO_TARGET, np.int32)
    for chunk, begin, num_scored in scored:
        first = chunk.start + 1
        targets[begin : begin + num_scored] = chunk.sequence.token_ids[first : first + num_scored]
    return targets


def prompt_scores(step: SplitStep) -> list[ChunkScores]:
    """The log probabilities of the prompts that a step scored."""
    if step.scores is None:
        return []
    found = tuple(map(np.asarray, step.scores))
    return [
        ChunkScores(
            each.chunk.sequence.request,
            each.chunk.start + 1,
            list(token_logprobs(found, range(each.first_token, each.first_token + each.num_scored)).values()),
        )
        for each in step.scored
    ]


def token_logprobs(arrays: Any, rows: Iterable[int]) -> dict[int, TokenLogprobs]:
    """The log probabilities of some rows: of a token each, and the ids and log probabilities of the most
    likely ones, as arrays of the host with a row each."""
    logprobs, top_token_ids, top_logprobs = arrays
    return {
        row: TokenLogprobs(
            logprob=float(logprobs[row]),
            top_token_ids=top_token_ids[row].tolist(),
            top_logprobs=top_logprobs[row].tolist(),
        )
        for row in rows
    }
