"""The time of each product of a row, and the line that they make."""

import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.kernels.data import RandomData
from benchmarks.kernels.run import XLA_OPTIONS
from benchmarks.kernels.timing import SMOKE, THOROUGH, Inputs, compile_chain
from benchmarks.quantization import torch_products
from benchmarks.quantization.rows import BFLOAT16, Contender, Row, Shape

ROTATED_BYTES = 256 * 10**6  # four times the L2 cache of an H200
CHAIN_US = 1500.0
READ_BYTES_PER_US, FLOPS_PER_US = 4e6, 8e8


def line_of(row: Row, *, smoke: bool) -> dict[str, Any] | None:
    """The worse ratio of its shapes; None where nothing that it is compared with could run."""
    ratios = [ratio for shape in row.shapes if (ratio := _ratio(row, shape, smoke)) is not None]
    if len(ratios) < len(row.shapes):
        return None
    value = min(ratios)
    return {
        "id": row.id,
        "value": float(f"{value:.4g}"),
        "unit": "ratio",
        "limit": float(f"{row.limit:.4g}"),
        "percent_of_limit": round(100 * value / row.limit, 1),
    }


def _ratio(row: Row, shape: Shape, smoke: bool) -> float | None:
    others = {f"torch {name}": _torch(name, shape) for name in row.beside}
    if row.is_beside_jax or smoke:
        others |= {name: _time(contender, shape, smoke) for name, contender in BFLOAT16.items()}
    ours = {name: _time(contender, shape, smoke) for name, contender in row.ours.items()}
    _say(row.id, shape, ours, others)
    best = [min((us for us in times.values() if us is not None), default=None) for times in (ours, others)]
    return None if best[0] is None or best[1] is None else best[1] / best[0]


def _say(name: str, shape: Shape, *times: Mapping[str, float | None]) -> None:
    took = {who: us for part in times for who, us in part.items()}
    texts = [f"{who} {'did not run' if us is None else f'{us:.1f} us'}" for who, us in took.items()]
    print(f"{name}: {shape}: {', '.join(texts)}", file=sys.stderr, flush=True)


def _num_sets(shape: Shape) -> int:
    """Of weights of four bits, which are the smallest."""
    return max(2, math.ceil(ROTATED_BYTES / (shape.num_in * shape.num_out / 2)))


def _num_calls(shape: Shape, num_sets: int) -> int:
    read_us = shape.num_in * shape.num_out / 2 / READ_BYTES_PER_US
    flops_us = 2 * shape.rows * shape.num_in * shape.num_out / FLOPS_PER_US
    return max(1, round(CHAIN_US / max(read_us, flops_us, 4.0) / num_sets)) * num_sets


def _torch(name: str, shape: Shape) -> float | None:
    num_sets = min(8, _num_sets(shape))
    return torch_products.microseconds(name, shape, num_sets, _num_calls(shape, num_sets))


def _time(contender: Contender, shape: Shape, smoke: bool) -> float | None:
    """Microseconds a call; None for what does not serve the shape on this machine, which is said."""
    num_sets = 2 if smoke else _num_sets(shape)
    try:
        sets = [_arguments(contender, shape, seed) for seed in range(num_sets)]
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), sets)
        step = functools.partial(_step, contender)
        num_calls = 2 if smoke else _num_calls(shape, num_sets)
        chain = compile_chain(step, Inputs(None, shapes), num_calls, XLA_OPTIONS)
        return chain.time(Inputs(None, sets), SMOKE if smoke else THOROUGH).microseconds
    except Exception as error:
        print(f"  {type(error).__name__}: {str(error).splitlines()[0][:200]}", file=sys.stderr, flush=True)
        return None


def _step(contender: Contender, carry: None, arguments: tuple[Any, Any]) -> tuple[None, jax.Array]:
    return carry, contender.multiply(*arguments)


def _arguments(contender: Contender, shape: Shape, seed: int) -> tuple[Any, Any]:
    data = RandomData(seed)
    x = data.normal((shape.rows, shape.num_in))
    w = data.normal((shape.num_in, shape.num_out), scale=shape.num_in**-0.5)
    return jax.jit(contender.prepare_x)(x), jax.jit(contender.prepare_w)(w)
