"""Hidden states of prompts, from which all logits follow: a vector for each position, and not a number for
each token of the vocabulary."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jinfer.batching.buckets import StepShape
from jinfer.compilation.program import Program
from jinfer.engine.stats import Counters
from jinfer.errors import ConfigError
from jinfer.eval.engine_run import new_request
from jinfer.eval.tokenized_text import TokenizedText
from jinfer.eval.windows import Window
from jinfer.execution.compiled_steps import abstract, abstract_packed, compilation_for
from jinfer.execution.scored_step import hidden_forward
from jinfer.placement import default_placement
from jinfer.progress import progress_bar
from jinfer.requests.request import FinishReason
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.scheduler import Scheduler
from jinfer.scheduling.step_plan import StepPlan
from jinfer.startup import EngineParts

PARAMS = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)


class HiddenChunk(NamedTuple):
    """The hidden states of a prompt's positions from `start` on: [positions, features] in the model's
    dtype."""

    prompt_index: int
    start: int
    hidden: np.ndarray


class PromptReader:
    """Computes hidden states with the weights, the pages and the shapes of an engine that is idle. The engine
    must not run afterwards: its cache is written over."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._compiled: dict[StepShape, jax.stages.Compiled] = {}

    def read(self, prompts: Sequence[Sequence[int]]) -> Iterator[HiddenChunk]:
        """Yields the hidden states of all positions, in chunks. Those of a prompt that lost its pages to an
        earlier one, and began anew, come again."""
        # Without a prefix cache: all positions are computed.
        scheduler = Scheduler(self._parts.limits, Counters(), prefix_caching=False)
        index_of = {}
        for index, prompt in enumerate(prompts):
            (sequence,) = new_request(self._parts, index, prompt, PARAMS).sequences
            index_of[sequence] = index
            scheduler.add(sequence)
        while scheduler.has_work:
            plan = scheduler.schedule()
            assert plan is not None, "prompts wait for no token"
            hidden = self._run(plan)
            begin = 0
            for chunk in plan.chunks:
                end = begin + chunk.num_tokens
                yield HiddenChunk(index_of[chunk.sequence], chunk.start, hidden[begin:end])
                begin = end
                if chunk.is_last_chunk:
                    chunk.sequence.finish_reason = FinishReason.LENGTH
                    scheduler.remove(chunk.sequence)

    def _run(self, plan: StepPlan) -> np.ndarray:
        executor, params = self._parts.executor, self._parts.loaded.params
        batch = executor.make_batch(plan)
        if batch.shape not in self._compiled:
            self._compiled[batch.shape] = self._compile(batch.shape)
        executor.state, hidden = self._compiled[batch.shape](params, executor.state, batch.packed)
        return np.asarray(hidden)

    def _compile(self, shape: StepShape) -> jax.stages.Compiled:
        model, limits, state = self._parts.loaded.model, self._parts.limits, self._parts.executor.state
        program = Program(
            function=lambda *operands: hidden_forward(model, shape, limits, *operands)[:2],
            arguments=(abstract(self._parts.loaded.params), abstract(state), abstract_packed(shape, limits)),
            donated=(1,),
            result_structure=jax.tree.structure((state, 0)),
            facts=model.trace_facts("hidden", limits, shape),
        )
        return compilation_for(self._parts.config.compiler, default_placement().device).compile(program)


@dataclass(frozen=True, eq=False)
class ScoredHiddenStates:
    """The hidden states that the scored tokens of all windows are predicted from, [tokens, features], in the
    order of the text. They are in a temporary file."""

    array: np.memmap

    @classmethod
    def of(
        cls, parts: EngineParts, text: TokenizedText, windows: Sequence[Window], *, progress: bool
    ) -> "ScoredHiddenStates":
        """Computes them; see PromptReader. Raises ConfigError where they do not fit the disk."""
        ends = np.cumsum([window.num_scored for window in windows])
        dtype = np.dtype(parts.loaded.dtype)
        array = _temporary_array((int(ends[-1]), parts.loaded.model.config.hidden_size), dtype)
        prompts = [window.prompt(text.prefix, text.token_ids) for window in windows]
        with progress_bar("reading", total=sum(map(len, prompts)), enabled=progress, unit="tokens") as bar:
            for index, start, hidden in PromptReader(parts).read(prompts):
                last = len(prompts[index]) - 1  # predicts nothing that is scored
                begin = max(start, last - windows[index].num_scored)
                end = min(start + len(hidden), last)
                if begin < end:
                    row = int(ends[index]) - last
                    array[row + begin : row + end] = hidden[begin - start : end - start]
                bar.update(len(hidden))
        return cls(array)


def _temporary_array(shape: tuple[int, int], dtype: np.dtype) -> np.memmap:
    """An array in a file without a name, whose place on the disk is taken at once: a disk that is full later
    would end the process without a word."""
    num_bytes = shape[0] * shape[1] * dtype.itemsize
    try:
        with tempfile.TemporaryFile() as file:  # the array keeps it open
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise ConfigError(
            f"the hidden states of {shape[0]} tokens, {num_bytes / 1e9:.1f} GB, cannot be kept in "
            f"{tempfile.gettempdir()}: {error.strerror}; lower --max-tokens, or name a larger directory in "
            "TMPDIR"
        ) from error
