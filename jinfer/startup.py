"""Starts an engine from options: resolve the model, load it, size the memory, compile, warm up."""

import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax

from jinfer.compilation.program import is_out_of_memory
from jinfer.config import CompilerOptions, EngineConfig, EngineLimits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.errors import InsufficientMemoryError
from jinfer.execution.compiled_steps import kept_calls
from jinfer.execution.device_memory import DeviceMemory, delete_arrays
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.executor import Executor
from jinfer.execution.memory import MemoryNeeds, check_fits, check_workspace, plan_memory
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.start import start_executor
from jinfer.execution.workspace import start_probing
from jinfer.loading import LoadedModel, ModelSource, ResolvedModel, load_model, resolve_model
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
    """A running engine and its parts. `close`, or a with block, gives its memory back.

    `requests` makes the requests that the engine accepts. `executor` is the engine's own, with the device
    state and the params.
    """

    config: EngineConfig
    loaded: LoadedModel
    memory: MemoryPlan
    executor: Executor
    engine: Engine
    requests: RequestFactory

    @property
    def limits(self) -> EngineLimits:
        """The sizes that followed from the options."""
        return self.memory.limits

    @property
    def device_kind(self) -> str:
        """The name of the kind of device that the engine runs on."""
        return default_placement().device.device_kind

    def close(self) -> None:
        """Gives back the device's memory, but not params that the caller brought."""
        self.engine.close()
        self.give_back()

    def give_back(self) -> None:
        """Gives back what a closed engine leaves: the memory of the weights, and the process that compiles
        grammars. Nothing may run any more. It may be called more than once."""
        self.requests.close()
        delete_arrays(self.loaded.owned_params)

    def __enter__(self) -> "EngineParts":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def resolve_checked(
    model: ModelSource,
    config: EngineConfig,
    *,
    prompts: Sequence[Prompt] = (),
    params: Sequence[SamplingParams] = (),
    tokenizer: Tokenizer | str | Path | None = None,
) -> ResolvedModel:
    """Resolves a model, and raises every error that can be known before weights are read and steps are
    compiled: from config.json, the tokenizer, the options, the device, and the requests that are known
    beforehand.

    Raises ModelError for a model, ConfigError for options, and RequestError for a prompt or its parameters
    that the engine would refuse. An engine may still refuse a prompt that passes here: memory may hold fewer
    pages than the context needs.
    """
    placement = default_placement()
    resolved = resolve_model(model, params=None, tokenizer=tokenizer, config=config, placement=placement)
    memory = DeviceMemory.of(placement.device)
    _check_fits(resolved, config, memory, num_bytes(resolved.model.abstract_params))
    limits = longest_limits(resolved, config)
    request_factory(resolved, limits, makes_maskers=False).create_all(prompts, params)
    return resolved


def longest_limits(resolved: ResolvedModel, config: EngineConfig) -> EngineLimits:
    """The limits of an engine whose memory holds as many pages as all rows can use, or as the options say."""
    chosen = resolved.chosen_limits
    num_pages = config.cache.num_pages or chosen.max_num_seqs * chosen.pages_per_sequence + 1
    max_model_len = min(chosen.max_model_len, (num_pages - 1) * chosen.page_size)
    return dataclasses.replace(chosen, num_pages=num_pages, max_model_len=max_model_len)


def request_factory(
    resolved: ResolvedModel, limits: EngineLimits, *, makes_maskers: bool = True
) -> RequestFactory:
    """Makes the requests that an engine of the model accepts; without maskers, for checks alone."""
    return RequestFactory(
        tokenizer=resolved.tokenizer,
        vocab_size=resolved.model.config.vocab_size,
        eos_token_ids=resolved.eos_token_ids,
        sampling_defaults=resolved.sampling_defaults,
        limits=limits,
        makes_maskers=makes_maskers,
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
    resolved = resolve_model(model, params=params, tokenizer=tokenizer, config=config, placement=placement)
    placement = dataclasses.replace(placement, call=kept_calls(config.compiler, placement.device))
    weight_bytes = num_bytes(resolved.model.abstract_params) if params is None else 0
    _check_fits(resolved, config, memory, weight_bytes)
    step_bytes = start_probing(
        resolved.model, resolved.chosen_limits, resolved.dtype, placement, config.compiler
    )
    with logged_time(logger, "loading the weights"):
        loaded = load_model(resolved, params=params, config=config, placement=placement)
    with ExitStack() as undo:
        undo.callback(delete_arrays, loaded.owned_params)
        with logged_time(logger, "waiting for what steps need"):
            needs = MemoryNeeds.of(
                resolved.model.config,
                resolved.chosen_limits,
                resolved.dtype,
                weight_bytes=num_bytes(loaded.owned_params),
                step_bytes=step_bytes.result(),
            )
        parts = _parts(
            loaded, plan_memory(config.cache, resolved.chosen_limits, memory, needs), config, placement
        )
        undo.pop_all()
    kind = placement.device.device_kind
    logger.info("ready in %.1f s on %s: %s", time.perf_counter() - started, kind, parts.limits)
    return parts


def _check_fits(
    resolved: ResolvedModel, config: EngineConfig, memory: DeviceMemory, weight_bytes: int
) -> None:
    """Raises InsufficientMemoryError as `memory.check_fits` does."""
    check_fits(
        config.cache, resolved.chosen_limits, resolved.model.config, resolved.dtype, memory, weight_bytes
    )


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


def _compiler_options(loaded: LoadedModel, given: CompilerOptions) -> CompilerOptions:
    """The options, by which the start waits for steps in two halves where every request needs them: by a
    model's own default."""
    if loaded.sampling_defaults.get("repetition_penalty", 1) == 1:
        return given
    return dataclasses.replace(given, compile_split_steps="at_start")


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
            compiler=_compiler_options(loaded, config.compiler),
            has_prefix_updates=config.cache.prefix_caching,
            progress=config.progress,
        )
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InsufficientMemoryError(
            f"the device ran out of memory while the engine started ({error}); {memory}; lower num_pages, "
            "max_num_seqs, max_num_batched_tokens or gpu_memory_utilization"
        ) from error
    check_workspace(memory, executor.executables)
    return executor
