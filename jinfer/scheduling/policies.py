"""Scheduling policies: in which steps prompts are computed, and in which tokens are decoded.

    mixed           both in every step: decode rows first, then chunks of prompts with the rest of the token
                    budget. A running sequence gets a token in every step, which takes longer while prompts
                    are computed; a prompt gets what decoding leaves of the budget (Agrawal et al.,
                    "Sarathi-Serve", 2024).
    prefill_first   prompts alone, as long as one waits and has a row and pages, then tokens alone: the
                    shortest time to the first token. Running sequences stand still while prompts come, until
                    every row is taken, and so for at most `max_num_seqs` prompts in a row. vLLM did so at
                    first.
    decode_first    tokens alone, except in every DECODE_STEPS-th step, which is a mixed one, and while no
                    sequence decodes: the smoothest stream of tokens. A prompt waits for DECODE_STEPS - 1
                    steps before each of its chunks.

Whatever the policy, prompts are taken in order of priority and arrival, and no request overtakes an equal.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from jinfer.config import SchedulingPolicy

DECODE_STEPS = 8  # of 10 ms: a prompt of 8,192 tokens begins its two chunks of 4,096 after at most 0.2 s

Phase = Callable[[], bool]
"""Plans all that it can; False if that is nothing."""


class Policy(Protocol):
    """Calls the phases of one step, in the order in which they may take from the token budget and the
    pages."""

    def __call__(self, decode: Phase, prompts: Phase) -> None: ...


def mixed(decode: Phase, prompts: Phase) -> None:
    """Both in every step."""
    decode()
    prompts()


def prefill_first(decode: Phase, prompts: Phase) -> None:
    """Prompts while there are any that can be computed."""
    if not prompts():
        decode()


class DecodeFirst:
    """Prompts while no sequence decodes, and in every DECODE_STEPS-th step."""

    def __init__(self) -> None:
        self._num_decode_steps = 0  # since prompts had their turn

    def __call__(self, decode: Phase, prompts: Phase) -> None:
        self._num_decode_steps += 1
        if decode() and self._num_decode_steps < DECODE_STEPS:
            return
        self._num_decode_steps = 0
        prompts()


def new_policy(name: SchedulingPolicy) -> Policy:
    """The policy of this name, which remembers what it needs of the steps before."""
    policies: Mapping[SchedulingPolicy, Callable[[], Policy]] = {
        "mixed": lambda: mixed,
        "prefill_first": lambda: prefill_first,
        "decode_first": DecodeFirst,
    }
    return policies[name]()
