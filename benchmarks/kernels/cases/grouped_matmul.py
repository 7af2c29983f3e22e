"""grouped_matmul: the two products of a layer's experts, with the rows grouped by a kernel before them."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.cases.experts import (
    ITEMSIZE,
    MXFP4_TOKENS,
    NUM_LAYERS,
    TOKENS,
    quantized,
    weight_bytes,
)
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.core.weights import Mxfp4Weight, QuantizedWeight
from pallas_kernels.experts.tuning import ExpertsCall, heuristic_block_rows
from pallas_kernels.grouped_matmul import group_rows, grouped_matmul, triton
from pallas_kernels.grouped_matmul.contract import GroupedFusion
from pallas_kernels.grouped_matmul.shapes import SHAPES, GroupedShape
from pallas_kernels.grouped_matmul.tuning import (
    GroupedBlocks,
    GroupedCall,
    grouped_candidates,
    grouped_key,
)

LAYERS = ("gate-up", "down")
OTHER_BLOCKS = ((8, 1), (64, 32), (256, 16), (4096, 64))  # of tokens


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the products of Qwen3-30B-A3B's experts, some in blocks of other sizes too, and those of
    gpt-oss-20b in mxfp4."""
    if smoke:
        yield _case("grouped-smoke", 2, GroupedShape(4, 2, 64, 32, is_gated=True))
        return
    for tokens, layer in itertools.product(TOKENS, LAYERS):
        yield _case(f"grouped-30b-a3b-{layer}-{tokens}", tokens, SHAPES[f"qwen3-30b-a3b-{layer}"])
    for (tokens, block_rows), layer in itertools.product(OTHER_BLOCKS, LAYERS):
        name = f"grouped-30b-a3b-{layer}-{tokens}-in-{block_rows}"
        yield _case(name, tokens, SHAPES[f"qwen3-30b-a3b-{layer}"], block_rows=block_rows)
    for tokens, layer in itertools.product(MXFP4_TOKENS, LAYERS):
        name = f"grouped-gpt-oss-20b-mxfp4-{layer}-{tokens}"
        yield _case(name, tokens, SHAPES[f"gpt-oss-20b-{layer}"], Mxfp4Weight)


def _case(
    name: str,
    tokens: int,
    shape: GroupedShape,
    weights: type[QuantizedWeight] | None = None,
    *,
    block_rows: int | None = None,
) -> Case:
    sizes = shape.num_in, shape.num_out
    of_layer = ExpertsCall(
        tokens, shape.top_k, shape.num_groups, *sizes, ITEMSIZE, weights and weights.__name__
    )
    block_rows = block_rows or heuristic_block_rows(of_layer)
    rows = tokens * shape.top_k
    kind = None if weights is None else "mxfp4"
    call = GroupedCall(rows, block_rows, shape.num_groups, *sizes, shape.is_gated, ITEMSIZE, kind)
    return Case(
        id=name,
        op="grouped_matmul.grouped_matmul",
        shape=f"{rows:,} rows in {shape.num_groups} groups, blocks of {block_rows}, "
        f"{shape.num_in:,} -> {shape.num_out:,}{', gated' if shape.is_gated else ''}",
        work=_work(tokens, shape, weights),
        limit=Limit.TIGHTER,
        make=functools.partial(_make, tokens, shape, weights),
        build=functools.partial(_pallas, shape, block_rows),
        reference=functools.partial(_product, shape, block_rows, "reference"),
        is_latency=True,
        tuning=Tuning("grouped_matmul", "grouped_matmul", grouped_key(call), grouped_candidates(call)),
    )


def _work(tokens: int, shape: GroupedShape, weights_type: type[QuantizedWeight] | None) -> Work:
    """The weights of the groups that are hit where all are equally likely, and the products of the rows."""
    weights = shape.num_in * shape.num_out * (2 if shape.is_gated else 1)
    num_hit = shape.num_groups * (1 - (1 - shape.top_k / shape.num_groups) ** tokens)
    rows = tokens * shape.top_k
    num_bytes = round(weight_bytes(weights_type) * num_hit * weights)
    return Work(num_bytes, ITEMSIZE * rows * shape.num_out, 2 * rows * weights)


def _make(
    tokens: int, shape: GroupedShape, weights: type[QuantizedWeight] | None, data: Data, num_sets: int
) -> Inputs:
    """The carry is the weights of all layers. The gate's x is of tokens, and the other's of their experts."""
    columns = shape.num_out * (2 if shape.is_gated else 1)
    floats = data.normal((NUM_LAYERS, shape.num_groups, shape.num_in, columns), scale=shape.num_in**-0.5)
    x_rows = tokens if shape.is_gated else tokens * shape.top_k
    rng = np.random.default_rng(tokens)
    sets: list[Any] = []
    for layer in range(num_sets):
        ids = np.argsort(rng.random((tokens, shape.num_groups)), axis=1)[:, : shape.top_k].reshape(-1)
        of_set = data.normal((x_rows, shape.num_in)), data.integers(ids), data.integers(np.array(layer % 2))
        sets.append(of_set)
    return Inputs(quantized(weights, floats), sets)


def _product(shape: GroupedShape, block_rows: int, implementation: Implementation, w: Any, arguments: Any):
    x, ids, layer = arguments
    groups = group_rows(ids, shape.num_groups, block_rows=block_rows, implementation=implementation)
    gate = "silu" if shape.is_gated else None
    return w, grouped_matmul(x, w, groups, layer=layer, gate=gate, implementation=implementation)


def _pallas(shape: GroupedShape, block_rows: int, blocks: GroupedBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_product, shape, block_rows, "triton")

    def step(w: Any, arguments: Any):
        x, ids, layer = arguments
        return w, triton.grouped_matmul(
            x,
            w,
            group_rows(ids, shape.num_groups, block_rows=block_rows, implementation="triton"),
            layer=layer,
            fusion=GroupedFusion(gate="silu" if shape.is_gated else None),
            out_dtype=x.dtype,
            interpret=should_interpret(None),
            blocks=blocks,
        )

    return step
