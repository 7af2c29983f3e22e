"""The cases, a file per op. Each has `cases(smoke)`, whose tiny shapes for a smoke test run on a CPU in
seconds.

A new op adds a file here and its name to OPS.
"""

import importlib
from collections.abc import Iterator

from benchmarks.kernels.case import Case

OPS = (
    "decode",
    "append",
    "extend",
    "latent_attention",
    "latent_cache_write",
    "head_matmul",
    "rms_norm",
    "rope_cache_write",
    "layer_norm",
    "softmax",
    "silu_and_multiply",
    "matmul",
    "quantized",
    "grouped_matmul",
    "experts",
    "sampling",
)


def all_cases(*, smoke: bool = False) -> list[Case]:
    """All cases, in the order of the table."""
    return list(_cases(smoke))


def _cases(smoke: bool) -> Iterator[Case]:
    for op in OPS:
        yield from importlib.import_module(f"benchmarks.kernels.cases.{op}").cases(smoke=smoke)


def selected(cases: list[Case], ops: list[str], ids: list[str]) -> list[Case]:
    """Returns the cases of the given ops ("rms_norm", "paged_attention.decode") and ids; no op and no id
    means all."""
    known_ops = {name for case in cases for name in (case.op, *case.op.split("."))}
    known_ids = {case.id for case in cases}
    for kind, unknown, known in (
        ("op", set(ops) - known_ops, known_ops),
        ("case", set(ids) - known_ids, known_ids),
    ):
        if unknown:
            raise ValueError(
                f"no {kind} is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
            )
    return [
        case
        for case in cases
        if (not ops or {case.op, *case.op.split(".")} & set(ops)) and (not ids or case.id in ids)
    ]
