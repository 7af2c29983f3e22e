"""The entries of config.json about the scaling of rotary embedding, type by type.

Defaults are those of transformers 5 (`modeling_rope_utils.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jinfer.entries import Entries
from jinfer.models.rope_config import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeScaling,
    YarnRopeScaling,
)

ORIGINAL = "original_max_position_embeddings"
BETA_FAST, BETA_SLOW = 32.0, 1.0


@dataclass(frozen=True)
class RopeFacts:
    """The values that a scaling depends on besides its own entry."""

    theta: float
    rotary_dim: int
    max_position_embeddings: int
    original_max_position_embeddings: int


def _linear(entry: Entries, facts: RopeFacts) -> LinearRopeScaling:
    return LinearRopeScaling(entry.required_number("factor", above=0))


def _dynamic(entry: Entries, facts: RopeFacts) -> DynamicRopeScaling:
    if facts.rotary_dim < 4:
        entry.refuse(
            "rope_type", f"with {facts.rotary_dim} rotary dimensions it has no exponent to grow theta by"
        )
    return DynamicRopeScaling(entry.required_number("factor", above=0), facts.max_position_embeddings)


def _yarn(entry: Entries, facts: RopeFacts) -> YarnRopeScaling:
    # Null is the ratio of the two lengths, and absence a mistake, as in transformers.
    if "factor" not in entry.raw:
        entry.require("factor")
    if facts.theta == 1:
        entry.refuse(
            "rope_type", "with rope_theta 1 all frequencies are equal, and none can be told from another"
        )
    factor = entry.number(
        "factor", facts.max_position_embeddings / facts.original_max_position_embeddings, above=0
    )
    mscale, of_all = (entry.number(name, None, at_least=0) for name in ("mscale", "mscale_all_dim"))
    implied = (
        yarn_scale(factor, mscale) / yarn_scale(factor, of_all)
        if mscale and of_all
        else yarn_scale(factor, 1.0)
    )
    if "truncate" in entry.raw and not entry.has("truncate"):
        entry.refuse("truncate", "it must be true or false")
    return YarnRopeScaling(
        factor=factor,
        original_max_position_embeddings=facts.original_max_position_embeddings,
        attention_factor=entry.number("attention_factor", implied, at_least=0),
        beta_fast=entry.number("beta_fast", BETA_FAST, at_least=0) or BETA_FAST,
        beta_slow=entry.number("beta_slow", BETA_SLOW, at_least=0) or BETA_SLOW,
        truncate=entry.switch("truncate", True),
    )


def yarn_scale(factor: float, mscale: float) -> float:
    """The factor by which a context that is stretched by `factor` makes vectors longer, or scores larger."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1


def _longrope(entry: Entries, facts: RopeFacts) -> LongRopeScaling:
    original = facts.original_max_position_embeddings
    factor = entry.number("factor", facts.max_position_embeddings / original, above=0)
    given = entry.number("attention_factor", None, at_least=0)
    if given is None and factor > 1 and original == 1:
        entry.refuse(ORIGINAL, "it must be above 1, or attention_factor be given")
    implied = 1.0 if factor <= 1 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (
        entry.required_numbers(name, length=facts.rotary_dim // 2, above=0)
        for name in ("short_factor", "long_factor")
    )
    return LongRopeScaling(factor, original, implied if given is None else given, short, long)


def _llama3(entry: Entries, facts: RopeFacts) -> Llama3RopeScaling:
    names = "factor", "low_freq_factor", "high_freq_factor"
    factor, low, high = (entry.required_number(name, above=0) for name in names)
    if high <= low:
        entry.refuse("high_freq_factor", f"it must be above low_freq_factor {low:g}")
    return Llama3RopeScaling(factor, low, high, facts.original_max_position_embeddings)


READERS: Mapping[str, Callable[[Entries, RopeFacts], RopeScaling]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
EXTENDED = "llama3", "yarn", "longrope"  # which know the context before they were extended
