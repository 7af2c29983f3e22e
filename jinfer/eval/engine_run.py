"""Requests on an engine, run to their ends."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jinfer.config import EngineConfig
from jinfer.engine.loop import EngineLoop
from jinfer.engine.output_queue import OutputQueue
from jinfer.errors import EngineError
from jinfer.loading import ResolvedModel
from jinfer.requests.new_request import create_request
from jinfer.requests.request import FinishReason, Request
from jinfer.requests.sampling_params import SamplingParams
from jinfer.startup import EngineParts, start_engine


def new_request(parts: EngineParts, index: int, prompt: Sequence[int], params: SamplingParams) -> Request:
    """A request for an engine. The defaults of the model's generation_config.json do not apply, which are no
    part of what is measured. Raises RequestError for a prompt that the engine cannot hold."""
    return create_request(
        f"prompt {index}",
        None,
        prompt,
        params.with_defaults({}),
        eos_token_ids=frozenset(),
        vocab_size=parts.loaded.model.config.vocab_size,
        limits=parts.limits,
    )


class EngineRun:
    """An engine that runs requests of token ids, many at a time."""

    def __init__(self, parts: EngineParts) -> None:
        self.parts = parts
        self._loop = EngineLoop(parts.engine, parts.give_back)

    def ended(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams
    ) -> Iterator[tuple[int, Request]]:
        """Yields the index of each prompt, and its request, when it has ended. Raises EngineError for one
        that failed."""
        requests = [new_request(self.parts, index, prompt, params) for index, prompt in enumerate(prompts)]
        index_of = {request: index for index, request in enumerate(requests)}
        queue = OutputQueue(requests)
        try:
            self._loop.submit(queue)
            while not queue.is_over:
                self._loop.run_once(queue)
                for output in queue.take_all():
                    if output.finish_reason is FinishReason.ERROR:
                        raise EngineError(f"{output.sequence.request.request_id}: {output.sequence.error}")
                    if output.finish_reason is not None:
                        yield index_of[output.sequence.request], output.sequence.request
            queue.raise_failure()
        finally:
            self._loop.abandon(queue)

    def prepare_scoring(self, *, progress: bool) -> None:
        """Compiles what scores prompts, with all cores, so that no request waits for it."""
        split_steps = self.parts.executor.split_steps
        split_steps.prepare("scored", num_threads=os.cpu_count(), progress=progress).result()

    def close(self) -> None:
        """Gives back the device's memory."""
        self._loop.close()


@contextmanager
def open_engine(model: ResolvedModel, config: EngineConfig) -> Iterator[EngineRun]:
    """Starts an engine, and closes it at the end. Raises ConfigError or ModelError."""
    run = EngineRun(start_engine(model, config))
    try:
        yield run
    finally:
        run.close()
