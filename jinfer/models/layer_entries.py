"""The entries of a config.json by which some layers have other heads, or read the cache of another."""

from collections.abc import Sequence
from typing import NamedTuple

from jinfer.entries import Entries
from jinfer.models.config import AttentionConfig
from jinfer.models.rope_entries import FULL

DEFAULT_GLOBAL_HEAD_DIM = 512
PER_LAYER = "per_layer_config"


class GlobalHeads(NamedTuple):
    """The heads of layers without a window, as fields of AttentionConfig."""

    head_dim: int
    num_kv_heads: int
    keys_are_values: bool


def read_global_heads(entries: Entries, types: Sequence[str], local: AttentionConfig) -> GlobalHeads:
    """The heads of full attention, whose layers are alike: from `global_head_dim` and
    `num_global_key_value_heads`, or from `per_layer_config`, as transformers 5 writes them. KV heads of
    their own are for files whose values are keys."""
    keys_are_values = entries.switch("attention_k_eq_v", False)
    per_layer = entries.object(PER_LAYER)
    if per_layer is None:
        head_dim = entries.integer("global_head_dim", DEFAULT_GLOBAL_HEAD_DIM)
        given = entries.integer("num_global_key_value_heads", None)
        num_kv_heads = given if given is not None and keys_are_values else local.num_kv_heads
        return _checked(entries, GlobalHeads(head_dim, num_kv_heads, keys_are_values), local)
    numbers = {str(number) for number, kind in enumerate(types) if kind == FULL}
    found = [per_layer.object(number) for number in sorted(numbers)]
    each = {
        (one.integer("head_dim", local.head_dim), one.integer("num_key_value_heads", local.num_kv_heads))
        for one in found
        if one is not None and set(one.raw) <= {"head_dim", "num_key_value_heads"}
    }
    if set(per_layer.raw) != numbers or len(each) != 1:
        entries.refuse(
            PER_LAYER, f"it has head_dim and num_key_value_heads of layers of {FULL}, which are alike"
        )
    ((head_dim, num_kv_heads),) = each
    return _checked(entries, GlobalHeads(head_dim, num_kv_heads, keys_are_values), local)


def _checked(entries: Entries, heads: GlobalHeads, local: AttentionConfig) -> GlobalHeads:
    if local.num_heads % heads.num_kv_heads:
        entries.refuse(
            "num_global_key_value_heads", f"{local.num_heads} query heads must be a multiple of it"
        )
    if heads.head_dim % 2:
        entries.refuse("global_head_dim", "rotary embedding turns dimensions in pairs, so it must be even")
    return heads


def read_kv_layers(entries: Entries, types: Sequence[str]) -> tuple[int | None, ...]:
    """The layer whose keys and values each layer reads; None for its own. The last `num_kv_shared_layers`
    read those of the last layer of their type before them."""
    name = "num_kv_shared_layers"
    num_own = len(types) - entries.integer(name, 0, at_least=0)
    own = types[: max(num_own, 0)]
    if not set(types) <= set(own):
        entries.refuse(
            name, f"of {len(types)} layers each type must have one that is not among the last so many"
        )
    last = {kind: number for number, kind in enumerate(own)}
    return tuple(None if number < num_own else last[kind] for number, kind in enumerate(types))
