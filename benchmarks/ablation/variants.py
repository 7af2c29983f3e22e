"""The variants, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ablation import patches
from benchmarks.ablation.decode_step import StepChoices
from jinfer.compilation.options import GPU_COMPILER_OPTIONS
from jinfer.config import EngineConfig
from jinfer.errors import ConfigError

STEP_WORKLOADS = ("b1", "b64-1024")
PLAN_WORKLOAD = "mixed256"
NO_CUDA_GRAPHS = {"xla_gpu_enable_command_buffer": ""}


@dataclass(frozen=True)
class Variant:
    """An engine whose options, or whose code (`patch`), differ from the default; or, with `step`, a decode
    step."""

    name: str
    about: str
    workloads: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    patch: Callable[[], None] | None = None
    step: StepChoices | None = None

    def check(self) -> None:
        """Raises ConfigError where EngineConfig has no such option."""
        known = EngineConfig.options()
        missing = sorted(self.options.keys() - known.keys())
        if missing:
            raise ConfigError(
                f"EngineConfig has no option {', '.join(missing)}: this engine cannot do without it"
            )


def _engine(
    name: str, about: str, *workloads: str, patch: Callable[[], None] | None = None, **options
) -> Variant:
    return Variant(name, about, workloads or (PLAN_WORKLOAD,), options, patch)


def _step(name: str, about: str, **choices) -> Variant:
    return Variant(name, about, STEP_WORKLOADS, step=StepChoices(**choices))


VARIANTS = (
    _engine("baseline", "everything on", *STEP_WORKLOADS, PLAN_WORKLOAD),
    _engine(
        "overlap-off",
        "a step is read before the next is planned",
        *STEP_WORKLOADS,
        PLAN_WORKLOAD,
        overlap=False,
    ),
    _engine("mixed-off", "prompts and outputs in steps of their own", scheduling_policy="prefill_first"),
    _engine(
        "order-of-arrival", "decode rows as they came, not the longest first", patch=patches.order_of_arrival
    ),
    _engine("buckets-sparse", "row counts double", patch=patches.sparse_buckets),
    _engine("buckets-dense", "six row counts an octave", patch=patches.dense_buckets),
    _step("decode-step", "a decode step alone, as it is"),
    _step(
        "cuda-graphs-off",
        "every kernel launched by itself",
        compiler_options=GPU_COMPILER_OPTIONS | NO_CUDA_GRAPHS,
    ),
    _step("default-compiler-options", "XLA as it comes", compiler_options={}),
    _step("page-1", "pages of 1", page_size=1),
    _step("page-16", "pages of 16, as they are", page_size=16),
    _step("page-64", "pages of 64", page_size=64),
    _step("steps-4", "four steps in one call", steps_per_call=4),
    _step("jax-attention", "jax's paged attention", has_jax_attention=True),
)


def find_variants(names: list[str]) -> list[Variant]:
    """Returns the variants in the order of the table, all of them where no name is given. Raises ConfigError
    for an unknown name."""
    known = {variant.name: variant for variant in VARIANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"no variant is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [variant for variant in VARIANTS if not names or variant.name in names]
