"""The front door: `generate`, and `LLM` with generate, chat and stream."""

import functools
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import jax

from jinfer.before_start import check_before_start, request_factory
from jinfer.config import EngineConfig
from jinfer.engine.engine import Engine
from jinfer.engine.loop import EngineLoop
from jinfer.engine.output_queue import OutputQueue
from jinfer.engine.sequence_output import SequenceOutput
from jinfer.engine.stats import Counters, EngineStats
from jinfer.errors import InsufficientMemoryError, RequestError
from jinfer.execution.device_memory import DeviceMemory, delete_arrays
from jinfer.execution.device_state import new_device_state
from jinfer.execution.executor import start_executor
from jinfer.execution.memory import MemoryNeeds, check_fits, check_workspace, choose_limits, plan_memory
from jinfer.execution.workspace import start_probing
from jinfer.loading import ModelSource, find_model, load_model
from jinfer.models.model import Params
from jinfer.models.weights import num_bytes
from jinfer.progress import logged_time, progress_bar
from jinfer.requests.outputs import RequestOutput, StreamPiece
from jinfer.requests.prompts import Messages, Prompt, Prompts, as_conversations, as_params, as_prompts, split_options
from jinfer.requests.request import Request
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.scheduler import Scheduler
from jinfer.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
T = TypeVar("T")


def generate(
    prompts: Prompts, params: SamplingParams | Sequence[SamplingParams] | None = None, *, model: ModelSource = None,
    **options: Any,
) -> list[RequestOutput]:  # fmt: skip
    """Completes prompts with a model that is loaded for this call: `jinfer.generate("Once upon a time")`.

    What is wrong with options, model, prompts or parameters is said before weights are read, as far as it can be known.

    `options` are those of EngineConfig and, without `params`, of SamplingParams. Keep an `LLM` to call it more than
    once.
    """
    engine_options, sampling_options = split_options(options)
    tokenizer, config = engine_options.pop("tokenizer", None), EngineConfig.from_options(engine_options)
    prompt_list = as_prompts(prompts)
    params_list = as_params(params, sampling_options, len(prompt_list))
    found = find_model(model, None, tokenizer, config)
    check_before_start(found, config, prompt_list, params_list)
    with LLM(found, **engine_options) as llm:
        return llm.generate(prompts, params_list)


class LLM:
    """A model on a device, ready to generate. Several live in one process; `close`, or a with block, gives memory back.

    `model` is a directory, a Hugging Face hub id, None for the small model that ships with jinfer, or a configuration
    (`ModelConfig`, or the mapping of a config.json) together with `params`, a nested dict of arrays that is served as
    it is. `options` are the fields of EngineConfig. Threads may share one LLM.

    `limits` are the sizes that followed from the options, and `memory` (a MemoryPlan) says what went where.
    """

    def __init__(
        self, model: ModelSource = None, *, params: Params | None = None,
        tokenizer: Tokenizer | str | Path | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Raises ConfigError for options, and ModelError for a model, that cannot be used."""
        started = time.perf_counter()
        self.config = EngineConfig.from_options(options)
        device = jax.devices()[0]
        memory = DeviceMemory.of(device)
        found = find_model(model, params, tokenizer, self.config)
        chosen = choose_limits(self.config, found.model.config, device)
        weight_bytes = num_bytes(found.model.abstract_params) if params is None else 0
        check_fits(self.config, chosen, found.model.config, found.dtype, memory, weight_bytes)
        step_bytes = start_probing(found.model, chosen, found.dtype, device, self.config)
        with logged_time(logger, "loading the weights"):
            self._loaded = load_model(found, params, self.config)
        try:
            with logged_time(logger, "waiting for what steps need"):
                needs = MemoryNeeds.of(
                    found.model.config, chosen, found.dtype,
                    weight_bytes=num_bytes(self._loaded.owned_params), step_bytes=step_bytes.result(),
                )  # fmt: skip
            self.memory = plan_memory(self.config, chosen, memory, needs)
            self.limits = self.memory.limits
            self.engine = self._start_engine()
        except BaseException:
            delete_arrays(self._loaded.owned_params)
            raise
        self._loop = EngineLoop(self.engine, functools.partial(delete_arrays, self._loaded.owned_params))
        self._requests = request_factory(found, self.limits)
        logger.info("ready in %.1f s on %s: %s", time.perf_counter() - started, device.device_kind, self.limits)

    def _start_engine(self) -> Engine:
        logger.info("%s", self.memory)
        loaded = self._loaded
        try:
            executor = start_executor(
                loaded.model, loaded.params, self.limits,
                functools.partial(new_device_state, loaded.model.config, self.limits, loaded.dtype),
                self.config,
            )  # fmt: skip
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise InsufficientMemoryError(
                f"the device ran out of memory while the engine started ({error}); {self.memory}; lower num_pages, "
                "max_num_seqs, max_num_batched_tokens or gpu_memory_utilization"
            ) from error
        check_workspace(self.memory, executor.executables)
        scheduler = Scheduler(
            self.limits, Counters(), self.config.scheduling_policy, prefix_caching=self.config.prefix_caching,
            rotation_class=loaded.model.config.rope.rotation_class,
        )  # fmt: skip
        return Engine(scheduler, executor, overlap=self.config.overlap)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the model has no tokenizer, so that prompts and outputs are token ids only."""
        return self._loaded.tokenizer

    def generate(
        self, prompts: Prompts, params: SamplingParams | Sequence[SamplingParams] | None = None, **options: Any
    ) -> list[RequestOutput]:
        """Completes a string, token ids, or a list of either; one RequestOutput per prompt, in order.

        Sampling parameters are one SamplingParams, one for each prompt, or keyword arguments. Everything is validated
        before anything runs. Raises RequestError; EngineError if the engine fails on the way.
        """
        prompt_list = as_prompts(prompts)
        return self._complete(prompt_list, as_params(params, options, len(prompt_list)))

    def chat(
        self, messages: Messages, params: SamplingParams | Sequence[SamplingParams] | None = None, **options: Any
    ) -> list[RequestOutput]:
        """Answers a conversation, or a list of them, through the model's chat template; see `generate`."""
        tokenizer = self._requests.need_tokenizer("chat")
        prompts = self._rendered(tokenizer, as_conversations(messages))
        return self._complete(prompts, as_params(params, options, len(prompts)))

    def stream(
        self, prompts: Prompts, params: SamplingParams | Sequence[SamplingParams] | None = None, **options: Any
    ) -> Iterator[StreamPiece]:
        """Yields text as it becomes final, over all prompts; see `generate`. Closing the iterator aborts what runs."""
        prompt_list = as_prompts(prompts)
        requests = self._create(prompt_list, as_params(params, options, len(prompt_list)))
        prompt_index = {request: place for place, request in enumerate(requests)}
        return self._run(requests, lambda update: StreamPiece.of(prompt_index[update.sequence.request], update))

    def _complete(self, prompts: list[Prompt], params: list[SamplingParams]) -> list[RequestOutput]:
        requests = self._create(prompts, params)
        count, num_tokens = sum(len(request.sequences) for request in requests), 0
        with (
            progress_bar("generating", total=count, enabled=self.config.progress) as bar,
            closing(self._run(requests, lambda update: update)) as updates,
        ):
            for update in updates:
                num_tokens += update.token_id is not None
                if update.finish_reason is not None:
                    bar.set_postfix_str(f"{num_tokens} tokens", refresh=False)
                    bar.update()
        return [RequestOutput.of(request) for request in requests]

    def _run(self, requests: list[Request], form: Callable[[SequenceOutput], T]) -> Generator[T, None, None]:
        """Steps the engine until the requests have ended, and gives each update in a form. Whatever stops it early
        aborts them."""
        queue = OutputQueue(requests)
        try:
            try:
                self._loop.submit(queue)
                while not queue.is_over:
                    self._loop.run_once(queue)
                    yield from map(form, queue.take_all())
                yield from map(form, queue.take_all())  # another thread may have put the end there since
                queue.raise_failure()
            finally:
                self._loop.abandon(queue)
        finally:
            self._loop.abandon(queue)  # an interrupt may have kept the first from it

    @staticmethod
    def _rendered(tokenizer: Tokenizer, conversations: list[Sequence[Mapping[str, Any]]]) -> list[Prompt]:
        """The prompt of each conversation; an error among several names the one at fault."""
        prompts = []
        for place, conversation in enumerate(conversations):
            try:
                prompts.append(Prompt(token_ids=tuple(tokenizer.apply_chat_template(conversation))))
            except RequestError as error:
                if len(conversations) == 1:
                    raise
                raise RequestError(f"conversations[{place}]: {error}") from error
        return prompts

    def _create(self, prompts: list[Prompt], params: list[SamplingParams]) -> list[Request]:
        self._loop.check_open()
        return self._requests.create_all(prompts, params)

    def stats(self) -> EngineStats:
        """What the engine is doing, and what it has done since its start."""
        self._loop.settle()
        return self.engine.stats()

    def check_integrity(self) -> None:
        """Raises AssertionError if a page or a row is lost; for tests."""
        self._loop.settle()
        self.engine.check_integrity()

    def close(self) -> None:
        """Gives back the device's memory. Params that the caller brought stay. Requests still running fail."""
        self._loop.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        self._loop.settle()
        state = "closed" if self._loop.is_closed else repr(self.engine)
        return f"LLM({self._loaded.model.config.architecture}, {self._loaded.dtype}, {state})"
