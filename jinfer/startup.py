"""Starts an engine from options: find the model, load it, size the memory, compile, warm up."""

import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax

from jinfer.config import EngineConfig, Limits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.errors import InsufficientMemoryError
from jinfer.execution.device_memory import DeviceMemory, delete_arrays
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.executor import Executor
from jinfer.execution.memory import MemoryNeeds, check_fits, check_workspace, choose_limits, plan_memory
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.start import start_executor
from jinfer.execution.workspace import start_probing
from jinfer.loading import FoundModel, LoadedModel, ModelSource, find_model, load_model
from jinfer.placement import Placement, default_placement
from jinfer.progress import logged_time
from jinfer.requests.prompts import Prompt
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.scheduler import Scheduler
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.params import Params, num_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EngineParts:
    """A running engine and all that it was made from. `close`, or a with block, gives its memory back.

    `requests` makes what the engine accepts. `executor` is the engine's own, with the device state and the
    params.
    """

    config: EngineConfig
    loaded: LoadedModel
    memory: MemoryPlan
    executor: Executor
    engine: Engine
    requests: RequestFactory

    @property
    def limits(self) -> Limits:
        """The sizes that followed from the options."""
        return self.memory.limits

    @property
    def device_kind(self) -> str:
        """The name of the kind of device that the engine runs on."""
        return default_placement().device.device_kind

    def close(self) -> None:
        """Gives back the device's memory, but not params that the caller brought."""
        self.engine.close()
        self.delete_weights()

    def delete_weights(self) -> None:
        """Gives back the memory of the weights, once nothing runs any more. It may be repeated."""
        delete_arrays(self.loaded.owned_params)

    def __enter__(self) -> "EngineParts":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def find_checked(
    model: ModelSource,
    config: EngineConfig,
    *,
    prompts: Sequence[Prompt] = (),
    params: Sequence[SamplingParams] = (),
    tokenizer: Tokenizer | str | Path | None = None,
) -> FoundModel:
    """Finds a model, and refuses what can be refused before weights are read and steps are compiled: all that
    config.json, the tokenizer, the options and the device tell of requests that are known beforehand.

    Raises ModelError for a model, ConfigError for options, and RequestError for a prompt or its parameters,
    that the engine would refuse. An engine may still refuse a prompt that passes here: memory may hold fewer
    pages than the context needs.
    """
    placement = default_placement()
    found = find_model(model, params=None, tokenizer=tokenizer, config=config, placement=placement)
    memory = DeviceMemory.of(placement.device)
    _chosen_limits(found, config, placement, memory, num_bytes(found.model.abstract_params))
    request_factory(found, longest_limits(found, config, placement)).create_all(prompts, params)
    return found


def longest_limits(found: FoundModel, config: EngineConfig, placement: Placement) -> Limits:
    """The limits of an engine whose memory holds as many pages as all rows can use, or as the options say."""
    chosen = choose_limits(config, found.model.config, placement.device)
    num_pages = config.cache.num_pages or chosen.max_num_seqs * chosen.pages_per_sequence + 1
    max_model_len = min(chosen.max_model_len, (num_pages - 1) * chosen.page_size)
    return dataclasses.replace(chosen, num_pages=num_pages, max_model_len=max_model_len)


def request_factory(found: FoundModel, limits: Limits) -> RequestFactory:
    """Makes the requests that an engine of the model accepts."""
    return RequestFactory(
        tokenizer=found.tokenizer,
        vocab_size=found.model.config.vocab_size,
        eos_token_ids=found.eos_token_ids,
        sampling_defaults=found.sampling_defaults,
        limits=limits,
    )


def start_engine(
    model: ModelSource,
    config: EngineConfig,
    *,
    params: Params | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
) -> EngineParts:
    """Starts an engine that is ready for requests. Raises ConfigError for options, and ModelError for a
    model, that cannot be used."""
    started = time.perf_counter()
    placement = default_placement()
    memory = DeviceMemory.of(placement.device)
    found = find_model(model, params=params, tokenizer=tokenizer, config=config, placement=placement)
    weight_bytes = num_bytes(found.model.abstract_params) if params is None else 0
    chosen = _chosen_limits(found, config, placement, memory, weight_bytes)
    step_bytes = start_probing(found.model, chosen, found.dtype, placement, config.compiler)
    with logged_time(logger, "loading the weights"):
        loaded = load_model(found, params=params, config=config, placement=placement)
    with ExitStack() as undo:
        undo.callback(delete_arrays, loaded.owned_params)
        with logged_time(logger, "waiting for what steps need"):
            needs = MemoryNeeds.of(
                found.model.config,
                chosen,
                found.dtype,
                weight_bytes=num_bytes(loaded.owned_params),
                step_bytes=step_bytes.result(),
            )
        parts = _parts(loaded, plan_memory(config.cache, chosen, memory, needs), config, placement)
        undo.pop_all()
    kind = placement.device.device_kind
    logger.info("ready in %.1f s on %s: %s", time.perf_counter() - started, kind, parts.limits)
    return parts


def _chosen_limits(
    found: FoundModel, config: EngineConfig, placement: Placement, memory: DeviceMemory, weight_bytes: int
) -> Limits:
    """The sizes that follow from the options alone. Raises what `choose_limits` and `check_fits` raise."""
    chosen = choose_limits(config, found.model.config, placement.device)
    check_fits(config.cache, chosen, found.model.config, found.dtype, memory, weight_bytes)
    return chosen


def _parts(
    loaded: LoadedModel, memory: MemoryPlan, config: EngineConfig, placement: Placement
) -> EngineParts:
    logger.info("%s", memory)
    executor = _executor(loaded, memory, config, placement)
    scheduler = Scheduler(
        memory.limits,
        Counters(),
        config.scheduler.scheduling_policy,
        prefix_caching=config.cache.prefix_caching,
        rotation_class=loaded.model.config.rotation_class,
    )
    return EngineParts(
        config=config,
        loaded=loaded,
        memory=memory,
        executor=executor,
        engine=Engine(scheduler, executor, overlap=config.scheduler.overlap),
        requests=request_factory(loaded, memory.limits),
    )


def _executor(
    loaded: LoadedModel, memory: MemoryPlan, config: EngineConfig, placement: Placement
) -> Executor:
    """Compiles and warms up. Raises InsufficientMemoryError if the device runs out of memory on the way."""
    model, limits = loaded.model, memory.limits
    state = abstract_device_state(model.config, limits, loaded.dtype)
    try:
        executor = start_executor(
            model=model,
            params=loaded.params,
            limits=limits,
            new_state=functools.partial(placement.zeros, state),
            placement=placement,
            compiler=config.compiler,
            has_prefix_updates=config.cache.prefix_caching,
            progress=config.progress,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InsufficientMemoryError(
            f"the device ran out of memory while the engine started ({error}); {memory}; lower num_pages, "
            "max_num_seqs, max_num_batched_tokens or gpu_memory_utilization"
        ) from error
    check_workspace(memory, executor.executables)
    return executor
