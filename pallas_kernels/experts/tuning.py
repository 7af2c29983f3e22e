"""The way that serves a call, and the rows of its blocks: as measured where there is an entry, else a
heuristic."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.experts.contract import ExpertStacks

MEASURED_DEVICE = "nvidia-h200"
BLOCK_ROWS = (1, 16, 32, 64, 128)
MAX_QUANTIZED_BLOCK_ROWS = 32  # more sums do not fit into registers beside the weights
MAX_XLA_TOKENS = 512  # that a sweep tries all experts on


@dataclass(frozen=True)
class ExpertsChoice:
    """ "xla", or the kernel in blocks of `block_rows`."""

    way: Literal["triton", "xla"]
    block_rows: int


class ExpertsCall(NamedTuple):
    """The facts that the choice depends on. `weights` is the type of quantized ones."""

    tokens: int
    top_k: int
    num_experts: int
    num_features: int
    num_inner: int
    itemsize: int
    weights: str | None = None

    @classmethod
    def of(cls, x: Array, expert_ids: Array, stacks: ExpertStacks) -> "ExpertsCall":
        """The call with these arguments of `experts`."""
        return cls(
            tokens=expert_ids.shape[0],
            top_k=expert_ids.shape[1],
            num_experts=stacks.num_experts,
            num_features=stacks.num_features,
            num_inner=stacks.num_inner,
            itemsize=x.dtype.itemsize,
            weights=type(stacks.gate_up).__name__ if isinstance(stacks.gate_up, QuantizedWeight) else None,
        )


def experts_key(call: ExpertsCall) -> dict[str, int | str]:
    """A call's tuned entry; tokens count as the power of two that holds them."""
    return tuned_key(call, rounded=["tokens"])


def experts_choice(call: ExpertsCall) -> ExpertsChoice:
    """The measured one, else the kernel."""
    key = experts_key(call)
    choice = tuned_blocks("experts", "experts", key, ExpertsChoice)
    choice = choice or tuned_blocks("experts", "experts", key, ExpertsChoice, device=MEASURED_DEVICE)
    return choice or ExpertsChoice("triton", heuristic_block_rows(call))


def serves(x: Array, stacks: ExpertStacks) -> bool:
    """True where the kernel takes these: floats of x's dtype, or quantized weights and bfloat16."""
    is_quantized = isinstance(stacks.gate_up, QuantizedWeight) or isinstance(stacks.down, QuantizedWeight)
    return x.dtype == jnp.bfloat16 or (x.dtype == jnp.float32 and not is_quantized)


def kernel_block_rows(call: ExpertsCall) -> int:
    """The rows of the kernel's blocks, also where it is not the choice."""
    choice = experts_choice(call)
    return choice.block_rows if choice.way == "triton" else heuristic_block_rows(call)


def heuristic_block_rows(call: ExpertsCall) -> int:
    """Blocks that the tokens of an expert fill if they are spread evenly."""
    if call.tokens == 1:
        return 1
    each = ceil_div(next_power_of_two(call.tokens) * call.top_k, call.num_experts)
    fitting = [rows for rows in BLOCK_ROWS[1:] if rows <= _max_block_rows(call)]
    return next((rows for rows in fitting if 2 * each <= rows), fitting[-1])


def _max_block_rows(call: ExpertsCall) -> int:
    return BLOCK_ROWS[-1] if call.weights is None else MAX_QUANTIZED_BLOCK_ROWS


def experts_candidates(call: ExpertsCall) -> list[ExpertsChoice]:
    """The candidates of a sweep: blocks near those of the heuristic, and XLA where its arrays fit."""
    best = BLOCK_ROWS.index(heuristic_block_rows(call))
    near = BLOCK_ROWS[max(0, best - 1) : best + 2]
    found = [ExpertsChoice("triton", rows) for rows in near if rows <= _max_block_rows(call)]
    return [*found, ExpertsChoice("xla", 1)] if call.tokens <= MAX_XLA_TOKENS else found
