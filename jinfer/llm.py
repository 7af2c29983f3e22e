"""The front door: `generate`, and `LLM` with generate, chat, stream, chat_stream and as_completed."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from jinfer.config import EngineConfig
from jinfer.engine.engine import Engine
from jinfer.engine.loop import EngineLoop
from jinfer.engine.output_queue import OutputQueue
from jinfer.engine.stats import EngineStats
from jinfer.loading import ModelSource
from jinfer.progress import progress_bar
from jinfer.requests.outputs import RequestOutput, StreamPiece
from jinfer.requests.prompts import Messages, Prompt, Prompts, as_params, as_prompts, split_options
from jinfer.requests.request import Request, SequenceOutput
from jinfer.requests.sampling_params import SamplingParams
from jinfer.startup import resolve_checked, start_engine
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.params import Params

T = TypeVar("T")


def generate(
    prompts: Prompts,
    params: SamplingParams | Sequence[SamplingParams] | None = None,
    *,
    model: ModelSource = None,
    **options: Any,
) -> list[RequestOutput]:
    """Completes prompts with a model that is loaded for this call: `jinfer.generate("Once upon a time")`.

    Errors in options, model, prompts or parameters are raised before weights are read, as far as they can be
    known then.

    `options` are those of EngineConfig and, without `params`, of SamplingParams. Keep an `LLM` to call it
    more than once.
    """
    engine_options, sampling_options = split_options(options)
    tokenizer = engine_options.pop("tokenizer", None)
    config = EngineConfig.from_options(engine_options)
    prompt_list = as_prompts(prompts)
    params_list = as_params(params, sampling_options, len(prompt_list))
    resolved = resolve_checked(model, config, prompts=prompt_list, params=params_list, tokenizer=tokenizer)
    with LLM(resolved, **engine_options) as llm:
        return llm.generate(prompts, params_list)


class LLM:
    """A model on a device, ready to generate. Several live in one process; `close`, or a with block, gives
    memory back.

    `model` is a directory, a Hugging Face hub id, None for the small model that ships with jinfer, or a
    configuration (`ModelConfig`, or the mapping of a config.json) or a model of your own
    (`jinfer.modeling.OwnModel`) together with `params`, a nested dict of arrays that is served as it is.
    `options` are the fields of EngineConfig. Threads may share one LLM.

    `limits` are the sizes that followed from the options, and `memory` (a MemoryPlan) lists the memory of
    each part.
    """

    def __init__(
        self,
        model: ModelSource = None,
        *,
        params: Params | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        **options: Any,
    ) -> None:
        """Raises ConfigError for options, and ModelError for a model, that cannot be used."""
        self.config = EngineConfig.from_options(options)
        self.parts = start_engine(model, self.config, params=params, tokenizer=tokenizer)
        self.limits = self.parts.limits
        self.memory = self.parts.memory
        self._loop = EngineLoop(self.parts.engine, self.parts.give_back)

    @property
    def engine(self) -> Engine:
        """The engine, for inspection, or for stepping it by hand while no call runs."""
        return self.parts.engine

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the model has no tokenizer, so that prompts and outputs are token ids only."""
        return self.parts.loaded.tokenizer

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Completes a string, token ids, or a list of either; one RequestOutput per prompt, in order.

        Sampling parameters are one SamplingParams, one for each prompt, or keyword arguments. Everything is
        validated before anything runs. Raises RequestError; EngineError if the engine fails on the way.
        """
        prompt_list = as_prompts(prompts)
        return self._complete(prompt_list, as_params(params, options, len(prompt_list)))

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answers a conversation, or a list of them, through the model's chat template; see `generate`."""
        prompts = self.parts.requests.render(messages)
        return self._complete(prompts, as_params(params, options, len(prompts)))

    def stream(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> Iterator[StreamPiece]:
        """Yields text as it becomes final, over all prompts; see `generate`. Closing the iterator aborts what
        runs."""
        prompt_list = as_prompts(prompts)
        return self._stream(prompt_list, as_params(params, options, len(prompt_list)))

    def chat_stream(
        self,
        messages: Messages,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> Iterator[StreamPiece]:
        """Yields the answers of `chat` as their text becomes final; see `stream`."""
        prompts = self.parts.requests.render(messages)
        return self._stream(prompts, as_params(params, options, len(prompts)))

    def as_completed(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Yields the index and the output of each prompt as soon as it has ended; see `generate`. Closing the
        iterator aborts what runs."""
        prompt_list = as_prompts(prompts)
        return self._indexed(self._create(prompt_list, as_params(params, options, len(prompt_list))))

    def _indexed(self, requests: list[Request]) -> Iterator[tuple[int, RequestOutput]]:
        prompt_index = {request: index for index, request in enumerate(requests)}
        # Python closes what a closed generator iterates over only when it drops the generator.
        with closing(self._run_to_ends(requests)) as all_ended:
            for ended in all_ended:
                yield prompt_index[ended], RequestOutput.of(ended)

    def _stream(self, prompts: list[Prompt], params: list[SamplingParams]) -> Iterator[StreamPiece]:
        requests = self._create(prompts, params)
        prompt_index = {request: index for index, request in enumerate(requests)}
        return self._run(
            requests, lambda output: StreamPiece.of(prompt_index[output.sequence.request], output)
        )

    def _complete(self, prompts: list[Prompt], params: list[SamplingParams]) -> list[RequestOutput]:
        requests = self._create(prompts, params)
        with closing(self._run_to_ends(requests)) as ended:
            for _ in ended:
                pass  # text is made once the device has nothing left to do
        return [RequestOutput.of(request) for request in requests]

    def _run_to_ends(self, requests: list[Request]) -> Generator[Request, None, None]:
        """Yields each request when its last sequence has ended, and shows the progress."""
        num_open = {request: len(request.sequences) for request in requests}
        num_tokens = 0
        with (
            progress_bar("generating", total=sum(num_open.values()), enabled=self.config.progress) as bar,
            closing(self._run(requests, lambda output: output)) as outputs,
        ):
            for output in outputs:
                num_tokens += output.token_id is not None
                if output.finish_reason is None:
                    continue
                bar.set_postfix_str(f"{num_tokens} tokens", refresh=False)
                bar.update()
                request = output.sequence.request
                num_open[request] -= 1
                if not num_open[request]:
                    yield request

    def _run(self, requests: list[Request], form: Callable[[SequenceOutput], T]) -> Generator[T, None, None]:
        """Steps the engine until the requests have ended, and yields `form` of each output. An exception or a
        closed generator aborts them."""
        queue = OutputQueue(requests)
        try:
            try:
                self._loop.submit(queue)
                while not queue.is_over:
                    self._loop.run_once(queue)
                    yield from map(form, queue.take_all())
                yield from map(form, queue.take_all())  # another thread may have put the last ones
                queue.raise_failure()
            finally:
                self._loop.abandon(queue)
        finally:
            self._loop.abandon(queue)  # an interrupt may have prevented the first call

    def _create(self, prompts: list[Prompt], params: list[SamplingParams]) -> list[Request]:
        self._loop.check_open()
        return self.parts.requests.create_all(prompts, params, waits=True)

    def stats(self) -> EngineStats:
        """The figures of the engine: its present state, and counts since its start."""
        self._loop.settle()
        return self.engine.stats()

    def check_integrity(self) -> None:
        """Raises AssertionError if a page or a row is lost; for tests."""
        self._loop.settle()
        self.engine.check_integrity()

    def close(self) -> None:
        """Gives back the device's memory. Params that the caller brought stay. Requests still running
        fail."""
        self._loop.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        self._loop.settle()
        state = "closed" if self._loop.is_closed else repr(self.engine)
        loaded = self.parts.loaded
        return f"LLM({loaded.model.config.architecture}, {loaded.dtype}, {state})"
