"""Blocks of the grouped product's kernel: tuned numbers where there are any, else a heuristic."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.core.weights import QuantizedWeight, Weight
from pallas_kernels.core.widening import Kind
from pallas_kernels.grouped_matmul.contract import GroupedFusion
from pallas_kernels.grouped_matmul.groups import RowGroups

MAX_STAGES, SHARED_MEMORY_BYTES = 6, 220 * 1024  # the latter of a multiprocessor, for all its programs
MIN_PROGRAMS = 1.5  # a multiprocessor, of blocks that have rows
# Outputs, inputs of an iteration, warps and stages: of few rows for each matrix, of many for both together.
NARROW = (
    (32, 128, 4, 4),
    (64, 128, 4, 3),
    (64, 64, 4, 6),
    (32, 64, 4, 6),
    (32, 256, 4, 3),
    (128, 64, 4, 4),
    (64, 128, 8, 3),
    (128, 64, 8, 4),
    (16, 256, 4, 4),
    (16, 128, 4, 6),
)
WIDE = (
    (128, 64, 8, 3),
    (256, 64, 8, 3),
    (256, 64, 8, 4),
    (128, 64, 4, 3),
    (128, 64, 4, 4),
    (256, 32, 8, 4),
    (256, 64, 4, 3),
    (128, 32, 4, 4),
    (64, 64, 4, 4),
)
MAX_WARP_SUMS = 128 * 32  # that stay in registers
QUANTIZED_OUT = 64  # of a dot whose left operand is the weights
MAX_QUANTIZED_IN = {"fp8": 128, "block-fp8": 128, "mxfp4": 32}  # elements of an output an iteration
WIDE_ROWS = 64  # from here on tensor cores bound a block, and not its weights


@dataclass(frozen=True)
class GroupedBlocks:
    """A program computes `block_out` outputs of a block of rows, reading `block_in` inputs' weights per
    iteration."""

    block_out: int
    block_in: int
    num_warps: int
    num_stages: int


class GroupedCall(NamedTuple):
    """The facts that the choice of blocks depends on. `num_out` counts the results of a row, each of two
    columns where gated; `weights` is the kind of quantized ones."""

    rows: int
    block_rows: int
    num_groups: int
    num_in: int
    num_out: int
    is_gated: bool
    itemsize: int
    weights: str | None = None

    @classmethod
    def of(cls, x: Array, w: Weight, groups: RowGroups, fusion: GroupedFusion) -> "GroupedCall":
        """The call with these arguments of `grouped_matmul`."""
        is_gated = fusion.gate is not None
        return cls(
            rows=groups.num_rows,
            block_rows=groups.block_rows,
            num_groups=w.shape[1],
            num_in=w.shape[2],
            num_out=w.shape[3] // (2 if is_gated else 1),
            is_gated=is_gated,
            itemsize=x.dtype.itemsize,
            weights=Kind.of(w).name if isinstance(w, QuantizedWeight) else None,
        )

    @property
    def num_matrices(self) -> int:
        """The gate and the others, or one."""
        return 2 if self.is_gated else 1

    @property
    def dot_rows(self) -> int:
        """The rows of a block, filled up to what a dot takes."""
        return max(MIN_DOT_SIZE, self.block_rows)


def grouped_key(call: GroupedCall) -> dict[str, int | bool | str]:
    """A call's tuned entry; rows count as the power of two that holds them."""
    return tuned_key(call, rounded=["rows"])


def grouped_blocks(call: GroupedCall) -> GroupedBlocks:
    """Narrow blocks of outputs where wide ones would leave multiprocessors idle."""
    tuned = tuned_blocks("grouped_matmul", "grouped_matmul", grouped_key(call), GroupedBlocks)
    if tuned is not None:
        return tuned
    if call.weights is not None:
        return _quantized_blocks(call, QUANTIZED_OUT, 4, 4)
    if call.itemsize == 4:
        return _blocks(call, 32, 32, 4, 2)
    if call.block_rows >= WIDE_ROWS:
        return _blocks(call, 128 // call.num_matrices, 64, 8 if call.block_rows > WIDE_ROWS else 4, 4)
    num_busy = min(call.num_groups, call.rows)  # blocks that have rows, about
    wanted = MIN_PROGRAMS * target_device().num_multiprocessors
    widths = [width for width in (64, 32) if num_busy * ceil_div(call.num_out, width) >= wanted]
    return _blocks(call, widths[0] if widths else 32, 128, 4, 4)


def grouped_candidates(call: GroupedCall) -> list[GroupedBlocks]:
    """The candidates of a tuning sweep."""
    if call.weights is not None:
        choices = itertools.product((64, 128), (4, 8), (3, 4, 6))
        found = [_quantized_blocks(call, *choice) for choice in choices if choice[0] >= 16 * choice[1]]
    elif call.block_rows >= WIDE_ROWS:
        found = [
            _blocks(call, width // call.num_matrices, *others)
            for width, *others in WIDE
            if call.block_rows * width <= MAX_WARP_SUMS * others[1]
        ]
    else:
        found = [_blocks(call, *choice) for choice in NARROW]
    return list(dict.fromkeys([grouped_blocks(call), *found]))


def _blocks(
    call: GroupedCall, block_out: int, block_in: int, num_warps: int, num_stages: int
) -> GroupedBlocks:
    block_out = max(MIN_DOT_SIZE, min(block_out, next_power_of_two(call.num_out)))
    block_in = max(MIN_DOT_SIZE, min(block_in, next_power_of_two(call.num_in)))
    stage_bytes = (call.num_matrices * block_out + call.dot_rows) * block_in * call.itemsize
    num_stages = max(2, min(num_stages, MAX_STAGES, SHARED_MEMORY_BYTES // stage_bytes))
    return GroupedBlocks(block_out, block_in, num_warps, num_stages)


def _quantized_blocks(call: GroupedCall, block_out: int, num_warps: int, num_stages: int) -> GroupedBlocks:
    """A tile has as many inputs as its kind allows."""
    return GroupedBlocks(block_out, MAX_QUANTIZED_IN[call.weights or ""], num_warps, num_stages)
