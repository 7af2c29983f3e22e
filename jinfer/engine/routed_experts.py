"""The experts of a step's tokens, kept in the sequences and counted."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jinfer.requests.request import ExpertIds, Sequence
from jinfer.scheduling.step_plan import StepPlan


def record_experts(plan: StepPlan, expert_ids: ExpertIds) -> None:
    """Keeps the experts [layers, tokens, k] of a step's tokens in their sequences, by position."""
    by_token = expert_ids.swapaxes(0, 1)
    for sequence, position, tokens in _places(plan):
        if not sequence.is_finished:
            sequence.expert_ids.append((position, by_token[tokens].copy()))  # else all of the step is held


def _places(plan: StepPlan) -> Iterator[tuple[Sequence, int, slice]]:
    """The sequence of each row of a plan, the position of its first token, and its tokens."""
    decode = plan.decode
    for index, (sequence, position) in enumerate(zip(decode.sequences, decode.positions, strict=True)):
        yield sequence, position, slice(index, index + 1)
    begin = len(decode)
    for chunk in plan.chunks:
        yield chunk.sequence, chunk.start, slice(begin, begin + chunk.num_tokens)
        begin += chunk.num_tokens


def count_experts(expert_ids: ExpertIds, num_experts: int) -> NDArray[np.int64]:
    """The tokens of each expert, [layers, experts], of ids [layers, tokens, k]: padding has the number of
    experts, which is none of them."""
    num_layers = expert_ids.shape[0]
    first = (num_experts + 1) * np.arange(num_layers)[:, None, None]
    counts = np.bincount((expert_ids + first).reshape(-1), minlength=num_layers * (num_experts + 1))
    return counts.reshape(num_layers, -1)[:, :num_experts]
