"""The programs of steps in two halves, compiled apart: logits, and the tokens that are chosen from them.

A step has two halves where a row's logits change (requests/logits_rules.py), or where the log probabilities
of a prompt are wanted:

    forward      (params, state, packed batch, NextTokens) -> (state, NextTokens)    of each shape
    score        the same with a token's target each -> PromptScores as well         of each mixed shape
    choose       (rows, logits state, NextTokens, flags) -> (..., StepResult)        of each number of rows
    report       the same with log probabilities of processed logits                 of each number of rows
    join         (logits state, JoiningRow) -> logits state
    step masks   (step masks, rows, masks) -> step masks                             of a few numbers of masks
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.logits_rules import empty_row
from jinfer.batching.sampling_state import SAMPLING_SIZE
from jinfer.compilation.program import Program
from jinfer.config import EngineLimits
from jinfer.engine.split_plan import SplitKind
from jinfer.execution.compiled_steps import RESULT, abstract_packed
from jinfer.execution.device_state import DeviceState
from jinfer.execution.processed_step import choose_processed
from jinfer.execution.scored_step import PromptScores, scored_forward
from jinfer.execution.step import NextTokens, forward_into
from jinfer.models.model import Model
from jinfer.sampling.processed_logits import (
    LogitsState,
    RowFlags,
    abstract_logits_state,
    with_row,
    with_step_masks,
)
from jinfer.sampling.processed_sampler import ProcessedSampler, sample_and_report, sample_processed

SAMPLERS: Mapping[str, ProcessedSampler] = {"choose": sample_processed, "report": sample_and_report}
MASKS_AT_A_TIME = (1, 8, 64)  # and as many as there are rows


class ProgramKey(NamedTuple):
    """A program by its kind and its shape."""

    kind: Literal["forward", "score", "choose", "report", "join", "step masks"]
    shape: StepShape | None = None
    size: int | None = None


@dataclass(frozen=True, eq=False)
class SplitPrograms:
    """All programs of one engine, for the abstract `params` and `state` of its steps."""

    model: Model
    limits: EngineLimits
    buckets: Buckets
    params: Any
    state: DeviceState

    @property
    def vocab_size(self) -> int:
        """The number of logits of a row."""
        return self.model.config.vocab_size

    @functools.cached_property
    def logits_state(self) -> LogitsState:
        """The shapes of what the second half carries, placed as the state is."""
        sharding = self.state.rows.lengths.sharding
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            abstract_logits_state(self.limits.max_num_seqs, self.vocab_size),
        )

    @functools.cached_property
    def next_tokens(self) -> NextTokens:
        """The shapes of what passes between the halves, of as many rows as there may be: one set for steps of
        all shapes."""
        sharding = self.state.rows.lengths.sharding

        def of(dtype: Any, *shape: int) -> Any:
            return jax.ShapeDtypeStruct((self.limits.max_num_seqs, *shape), dtype, sharding=sharding)

        return NextTokens(
            logits=of(jnp.float32, self.vocab_size),
            row_ids=of(jnp.int32),
            positions=of(jnp.int32),
            sampling=of(jnp.int32, SAMPLING_SIZE),
        )

    @property
    def mask_counts(self) -> tuple[int, ...]:
        """The numbers of masks that are sent at a time."""
        max_num_seqs = self.limits.max_num_seqs
        return (*(count for count in MASKS_AT_A_TIME if count < max_num_seqs), max_num_seqs)

    def of_kind(self, kind: SplitKind) -> Mapping[ProgramKey, Program]:
        """The programs that steps of a kind need, the largest first."""
        rows = sorted({shape.rows for shape in self.buckets.all}, reverse=True)
        if kind == "processed_logprobs":
            return {ProgramKey("report", size=size): self._choose("report", size) for size in rows}
        choose = {ProgramKey("choose", size=size): self._choose("choose", size) for size in rows}
        if kind == "scored":
            shapes = self.buckets.mixed[::-1]
            return {ProgramKey("score", shape): self._score(shape) for shape in shapes} | choose
        shapes = self.buckets.all[::-1]
        programs = {ProgramKey("forward", shape): self._forward(shape) for shape in shapes} | choose
        programs[ProgramKey("join")] = self._join()
        for count in self.mask_counts:
            programs[ProgramKey("step masks", size=count)] = self._step_masks(count)
        return programs

    def _forward(self, shape: StepShape) -> Program:
        return Program(
            function=functools.partial(forward_into, self.model, shape, self.limits),
            arguments=(self.params, self.state, abstract_packed(shape, self.limits), self.next_tokens),
            donated=(1, 3),
            result_structure=jax.tree.structure((self.state, self.next_tokens)),
            facts=self.model.trace_facts("forward", self.limits, shape),
        )

    def _score(self, shape: StepShape) -> Program:
        assert shape.tokens is not None
        targets = jax.ShapeDtypeStruct((shape.tokens,), jnp.int32)
        scores = PromptScores(*range(len(PromptScores._fields)))
        return Program(
            function=functools.partial(scored_forward, self.model, shape, self.limits),
            arguments=(
                self.params,
                self.state,
                abstract_packed(shape, self.limits),
                self.next_tokens,
                targets,
            ),
            donated=(1, 3),
            result_structure=jax.tree.structure((self.state, self.next_tokens, scores)),
            facts=self.model.trace_facts("score", self.limits, shape),
        )

    def _choose(self, kind: Literal["choose", "report"], num_rows: int) -> Program:
        flag: Any = jax.ShapeDtypeStruct((num_rows,), jnp.bool)
        rows = self.state.rows
        return Program(
            function=functools.partial(choose_processed, SAMPLERS[kind], self.model.implementation),
            arguments=(rows, self.logits_state, self.next_tokens, RowFlags(flag, flag)),
            donated=(0, 1, 2),
            result_structure=jax.tree.structure((rows, self.logits_state, self.next_tokens, RESULT)),
            facts=(kind, self.model.implementation),
        )

    def _join(self) -> Program:
        row = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), empty_row(self.limits, self.vocab_size)
        )
        structure = jax.tree.structure(self.logits_state)
        return Program(with_row, (self.logits_state, row), (0,), structure, "join")

    def _step_masks(self, count: int) -> Program:
        masks = self.logits_state.step_masks
        row_ids = jax.ShapeDtypeStruct((count,), jnp.int32)
        sent = jax.ShapeDtypeStruct((count, masks.shape[1]), jnp.uint32)
        return Program(with_step_masks, (masks, row_ids, sent), (0,), jax.tree.structure(0), "step masks")
