"""From options to a running engine: find the model, load it, size the memory, compile, warm up."""

import functools
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax

from jinfer.before_start import request_factory
from jinfer.config import EngineConfig, Limits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.errors import InsufficientMemoryError
from jinfer.execution.device_memory import DeviceMemory, delete_arrays
from jinfer.execution.device_state import new_device_state
from jinfer.execution.executor import Executor, start_executor
from jinfer.execution.memory import MemoryNeeds, check_fits, check_workspace, choose_limits, plan_memory
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.workspace import start_probing
from jinfer.loading import LoadedModel, ModelSource, find_model, load_model
from jinfer.progress import logged_time
from jinfer.requests.request_factory import RequestFactory
from jinfer.scheduling.scheduler import Scheduler
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.params import Params, num_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EngineParts:
    """A running engine and all that it was made from. `close`, or a with block, gives its memory back.

    `requests` makes what the engine accepts. `executor` is the engine's own, with the device state and the params.
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


def start_engine(
    model: ModelSource,
    config: EngineConfig,
    *,
    params: Params | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
) -> EngineParts:
    """Starts an engine that is ready for requests. Raises ConfigError for options, and ModelError for a model, that
    cannot be used."""
    started = time.perf_counter()
    device = jax.devices()[0]
    memory = DeviceMemory.of(device)
    found = find_model(model, params, tokenizer, config)
    chosen = choose_limits(config, found.model.config, device)
    weight_bytes = num_bytes(found.model.abstract_params) if params is None else 0
    check_fits(
        config=config,
        chosen=chosen,
        model=found.model.config,
        dtype=found.dtype,
        memory=memory,
        weight_bytes=weight_bytes,
    )
    step_bytes = start_probing(found.model, chosen, found.dtype, device, config)
    with logged_time(logger, "loading the weights"):
        loaded = load_model(found, params, config)
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
        parts = _parts(loaded, plan_memory(config, chosen, memory, needs), config)
        undo.pop_all()
    logger.info("ready in %.1f s on %s: %s", time.perf_counter() - started, device.device_kind, parts.limits)
    return parts


def _parts(loaded: LoadedModel, memory: MemoryPlan, config: EngineConfig) -> EngineParts:
    logger.info("%s", memory)
    executor = _executor(loaded, memory, config)
    scheduler = Scheduler(
        memory.limits,
        Counters(),
        config.scheduling_policy,
        prefix_caching=config.prefix_caching,
        rotation_class=loaded.model.config.rotation_class,
    )
    return EngineParts(
        config=config,
        loaded=loaded,
        memory=memory,
        executor=executor,
        engine=Engine(scheduler, executor, overlap=config.overlap),
        requests=request_factory(loaded, memory.limits),
    )


def _executor(loaded: LoadedModel, memory: MemoryPlan, config: EngineConfig) -> Executor:
    """Compiles and warms up. Raises InsufficientMemoryError if the device runs out of memory on the way."""
    model, limits = loaded.model, memory.limits
    new_state = functools.partial(new_device_state, model.config, limits, loaded.dtype)
    try:
        executor = start_executor(model=model, params=loaded.params, limits=limits, new_state=new_state, config=config)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InsufficientMemoryError(
            f"the device ran out of memory while the engine started ({error}); {memory}; lower num_pages, "
            "max_num_seqs, max_num_batched_tokens or gpu_memory_utilization"
        ) from error
    check_workspace(memory, executor.executables)
    return executor
