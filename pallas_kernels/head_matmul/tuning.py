"""Block sizes of the product of each head."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key

MAX_TOKENS, MAX_OUTPUTS, MIN_OUTPUTS = 128, 128, 32  # of a program
BLOCK_INPUTS = 64  # per iteration
NUM_STAGES = 4


@dataclass(frozen=True)
class HeadMatmulBlocks:
    """A program computes `outputs` outputs of `tokens` tokens of one head, and reads `inputs` of them per
    iteration. All are powers of two from 16."""

    tokens: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


class HeadMatmulCall(NamedTuple):
    """The facts that the choice of blocks depends on."""

    num_tokens: int
    num_heads: int
    num_inputs: int
    num_outputs: int
    is_transposed: int
    itemsize: int


def head_matmul_blocks(call: HeadMatmulCall) -> HeadMatmulBlocks:
    """Tuned numbers where there are any; else as many outputs a program as leave no multiprocessor idle."""
    found = tuned_blocks("head_matmul", "head_matmul", head_matmul_key(call), HeadMatmulBlocks)
    if found is not None:
        return found
    tokens = min(MAX_TOKENS, max(MIN_DOT_SIZE, next_power_of_two(call.num_tokens)))
    outputs = min(MAX_OUTPUTS, max(MIN_DOT_SIZE, next_power_of_two(call.num_outputs)))
    while (
        outputs > MIN_OUTPUTS and _num_programs(call, tokens, outputs) < target_device().num_multiprocessors
    ):
        outputs //= 2
    inputs = min(BLOCK_INPUTS, max(MIN_DOT_SIZE, next_power_of_two(call.num_inputs)))
    return HeadMatmulBlocks(tokens, outputs, inputs, _num_warps(tokens, outputs), NUM_STAGES)


def head_matmul_key(call: HeadMatmulCall) -> dict[str, int]:
    """A call's tuned entry; tokens count as the power of two that holds them."""
    return tuned_key(call, rounded=["num_tokens"])


def head_matmul_candidates(call: HeadMatmulCall) -> list[HeadMatmulBlocks]:
    """The candidates of a sweep."""
    padded = max(MIN_DOT_SIZE, next_power_of_two(call.num_tokens))
    found = [
        HeadMatmulBlocks(
            min(tokens, padded), outputs, inputs, _num_warps(min(tokens, padded), outputs), stages
        )
        for tokens, outputs, inputs, stages in itertools.product((64, 128), (32, 64, 128), (64, 128), (3, 4))
    ]
    return list(dict.fromkeys(found))


def _num_programs(call: HeadMatmulCall, tokens: int, outputs: int) -> int:
    return call.num_heads * ceil_div(call.num_tokens, tokens) * ceil_div(call.num_outputs, outputs)


def _num_warps(tokens: int, outputs: int) -> int:
    return 8 if tokens * outputs >= MAX_TOKENS * MAX_OUTPUTS else 4
