"""Opens an engine that can be measured, from options."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jinfer.bench.ids import model_prefix
from jinfer.bench.limits import MachineLimits, measure_limits
from jinfer.bench.measure import Bench
from jinfer.bench.monitor import Monitor
from jinfer.bench.roofline import ExpertsWork, ModelWork
from jinfer.bench.session import Session
from jinfer.config import EngineConfig, EngineLimits
from jinfer.errors import ConfigError, ModelNotFoundError
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.config import ExpertsConfig, ModelConfig
from jinfer.models.params import layer_stacks
from jinfer.placement import default_placement
from jinfer.startup import EngineParts, longest_limits, resolve_checked, start_engine
from jinfer.weights.hub import read_json
from jinfer.weights.params import Params, num_bytes
from pallas_kernels.core.weights import QuantizedWeight

DEMO_NAME = "demo"


@dataclass(frozen=True)
class Source:
    """The model: a directory or hub id (None: the demo model), or a directory of which only config.json is
    used."""

    model: str | None = None
    config: Path | None = None

    @property
    def name(self) -> str:
        """The name that results begin with."""
        if self.config is not None:
            return self.config.resolve().name
        return DEMO_NAME if self.model is None else Path(self.model).name

    def start(self, options: Mapping[str, Any]) -> EngineParts:
        """Starts an engine. Raises ModelError or ConfigError. A configuration alone gets random weights."""
        return start_engine(self._source(), EngineConfig.from_options(self._options(options)))

    def check(self, options: Mapping[str, Any]) -> None:
        """Raises the ModelError or ConfigError that needs no device to be known."""
        EngineConfig.from_options(self._options(options))
        self._source()

    def longest_limits(self, options: Mapping[str, Any]) -> EngineLimits:
        """The limits of the engine, if memory holds its context. Raises ModelError or ConfigError, before it
        starts."""
        config = EngineConfig.from_options(self._options(options))
        return longest_limits(resolve_checked(self._source(), config), config)

    def _source(self) -> str | Mapping[str, Any] | None:
        if self.config is None:
            return self.model
        if not (self.config / "config.json").is_file():
            raise ModelNotFoundError(f"--config {self.config}: there is no config.json in it")
        return read_json(self.config / "config.json")

    def _options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, **({} if self.config is None else {"dummy_weights": True})}


def assigned_options(assignments: Sequence[str]) -> dict[str, Any]:
    """Options of an engine from NAME=VALUE, where a value is JSON or else a string. Raises ConfigError."""
    options = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} must be NAME=VALUE, as in --set page_size=64")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def machine_limits() -> MachineLimits:
    """The limits of this machine, measured before an engine takes the memory."""
    return measure_limits(smoke=default_placement().device.platform != "gpu")


@dataclass(frozen=True)
class OpenBench:
    """A measurement that can begin, its engine, and the monitor that shows its progress, if there is one."""

    bench: Bench
    parts: EngineParts
    monitor: Monitor | None


@contextlib.contextmanager
def open_bench(
    source: Source,
    options: Mapping[str, Any],
    machine: MachineLimits,
    repeats: int,
    seed: int,
    show_progress: bool,
) -> Iterator[OpenBench]:
    """Starts an engine, and closes it at the end. Raises ModelError or ConfigError."""
    with source.start({**options, "progress": show_progress}) as parts:
        monitor = Monitor(parts.engine) if show_progress else None
        vocab_size = parts.loaded.model.config.vocab_size
        session = Session(parts.engine, parts.limits, vocab_size, seed=seed, after_step=monitor)
        prefix = model_prefix(source.name)
        bench = Bench(
            session, work_of(parts), machine, prefix, repeats, parts.config.scheduler.scheduling_policy
        )
        yield OpenBench(bench, parts, monitor)


def work_of(parts: EngineParts) -> ModelWork:
    """The cost of a step of the model: it reads all weights but an embedding that is not the head as well."""
    loaded, config = parts.loaded, parts.loaded.model.config
    weight_bytes = sum(
        num_bytes(part)
        for name, part in loaded.params.items()
        if name != "embedding" or config.tie_word_embeddings
    )
    experts = _experts_work(config, loaded.params)
    weight_bytes -= sum(each.num_bytes for each in experts)
    kv_layout = KVLayout.of(
        config, page_size=1, dtype=loaded.dtype, kv_cache_dtype=parts.limits.kv_cache_dtype
    )
    return ModelWork(config, weight_bytes, kv_layout, _linear_rate(loaded.params), experts)


def _experts_work(config: ModelConfig, params: Params) -> tuple[ExpertsWork, ...]:
    """The experts of each stack of layers that has some."""
    found = []
    for stack in layer_stacks(config):
        layer = config.layers[stack.layers[0]]
        for name, mlp in (("mlp", layer.mlp), ("experts_beside", layer.experts_beside)):
            if isinstance(mlp, ExpertsConfig):
                stored = num_bytes(stack.params(params)[name]["experts"])
                found.append(ExpertsWork(stored, mlp.num_experts, mlp.routing.top_k))
    return tuple(found)


def _linear_rate(params: Params) -> int:
    """The rate of linear layers, in those of bfloat16: a tensor core multiplies eight bits twice as fast."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, QuantizedWeight))
    kernels = [leaf for leaf in leaves if isinstance(leaf, QuantizedWeight)]
    return 2 if any(kernel.activations != "float" for kernel in kernels) else 1
