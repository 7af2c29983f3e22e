"""The variants, by name."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.ablation import decode_step, patches
from jinfer.config import EngineConfig
from jinfer.errors import ConfigError

STEP_WORKLOADS = ("b1", "b64-1024")
PLAN_WORKLOAD = "mixed256"


@dataclass(frozen=True)
class Variant:
    """An engine whose options, or whose code (`patch`), differ from the default. `measure_step` measures a decode step
    in place of workloads."""

    name: str
    about: str
    workloads: tuple[str, ...] = STEP_WORKLOADS
    options: Mapping[str, Any] = field(default_factory=dict)
    patch: Callable[[], None] | None = None
    measure_step: Callable[..., float] | None = None

    def check(self) -> None:
        """Raises ConfigError where EngineConfig has no such option."""
        known = {each.name for each in dataclasses.fields(EngineConfig)}
        missing = sorted(self.options.keys() - known)
        if missing:
            raise ConfigError(f"EngineConfig has no option {', '.join(missing)}: this engine cannot do without it")


def _pages(size: int) -> Variant:
    return Variant(f"page-{size}", f"pages of {size}", ("b64-1024",), {"page_size": size})


VARIANTS = (
    Variant("baseline", "everything on", (*STEP_WORKLOADS, PLAN_WORKLOAD)),
    Variant("cuda-graphs-off", "every kernel launched by itself", options={"cuda_graphs": False}),
    Variant(
        "overlap-off", "a step is read before the next is planned", (*STEP_WORKLOADS, PLAN_WORKLOAD),
        {"overlap": False},
    ),
    Variant(
        "mixed-off", "prompts and outputs in steps of their own", (PLAN_WORKLOAD,),
        {"scheduling_policy": "prefill_first"},
    ),
    Variant(  # of few rows: autotuning takes up to half a minute a shape
        "default-compiler-options", "XLA as it comes", options={"gemm_autotuning": True, "max_num_seqs": 64}
    ),
    _pages(1),
    _pages(16),
    _pages(64),
    Variant("buckets-sparse", "row counts double", (PLAN_WORKLOAD,), patch=patches.sparse_buckets),
    Variant("buckets-dense", "six row counts an octave", (PLAN_WORKLOAD,), patch=patches.dense_buckets),
    Variant("decode-step", "a decode step of 64 rows alone", ("b64-1024",), measure_step=decode_step.ours_ms),
    Variant("jax-attention", "the same with jax's paged attention", ("b64-1024",), measure_step=decode_step.jax_ms),
)  # fmt: skip


def find_variants(names: list[str]) -> list[Variant]:
    """In the order of the table, all of them where no name is given. Raises ConfigError for an unknown name."""
    known = {variant.name: variant for variant in VARIANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"no variant is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [variant for variant in VARIANTS if not names or variant.name in names]
