"""The figures of an engine: its present state, and counts since its start."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Counters:
    """Counts since the start. They only grow, also over a fault, so that two readings give a rate."""

    num_prompt_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    expert_tokens: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class EngineStats:
    """A moment of an engine. The first five fields are its present state, the others are counted from the
    start.

    A page is used while a sequence holds it, cached while only the prefix cache knows it, and free otherwise.
    `num_prompt_tokens` are those of the sequences that have begun (n of them for a request with n
    completions), and `num_prefix_hit_tokens` those of them whose keys and values were found in the prefix
    cache. `expert_tokens` are the tokens of each expert, by layer with experts, of an engine with
    `routed_experts`.
    """

    num_running: int
    num_waiting: int
    num_used_pages: int
    num_cached_pages: int
    num_free_pages: int
    num_prompt_tokens: int
    num_prefix_hit_tokens: int
    num_generated_tokens: int
    num_preemptions: int
    expert_tokens: list[list[int]] | None = None
