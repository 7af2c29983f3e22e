"""The entries of config.json about rotary embedding, in all their places and spellings.

Defaults, and the places where an entry may stand, are those of transformers 5 (`modeling_rope_utils.py`).
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from jinfer.entries import Entries, shown
from jinfer.errors import UnsupportedModelError
from jinfer.models.rope_config import RopeConfig
from jinfer.models.rope_scaling_entries import EXTENDED, ORIGINAL, READERS, RopeFacts

logger = logging.getLogger(__name__)

DEFAULT_THETA = 10000.0
FULL, SLIDING = "full_attention", "sliding_attention"  # types of layers
SPELLINGS = "rope_parameters", "rope_scaling"  # of transformers 5, and of those before it
OLD_NAMES = {"su": "longrope"}
SHARE = "partial_rotary_factor"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class RopeContext:
    """The values that a file's entries about rotary embedding depend on."""

    rotary_dim: int
    max_position_embeddings: int
    default_theta: float = DEFAULT_THETA


def read_rotary_dim(entries: Entries, head_dim: int, default_share: float | None) -> int:
    """The dimensions of a head that are turned: the share of them that `partial_rotary_factor` says, rounded
    down. It stands beside a rope entry or in it, and must agree; without a default the family turns whole
    heads."""
    share, said_by = default_share or 1.0, entries
    shares = set()
    for each in (entries, *rope_objects(entries)):
        given = each.number(SHARE, None, above=0)
        if given is not None and default_share is None and given != 1:
            each.refuse(SHARE, "in this family jinfer implements 1.0, which turns all dimensions of a head")
        if given is not None:
            share, said_by = given, each
            shares.add(given)
    if len(shares) > 1:
        raise UnsupportedModelError(
            f"config.json has {SHARE} {' and '.join(map(str, sorted(shares)))}, in places of one entry: "
            "remove the one that does not hold"
        )
    rotary_dim = int(head_dim * share)
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        said_by.refuse(
            SHARE, f"of {head_dim} dimensions of a head it leaves {rotary_dim}, and an even number is turned"
        )
    return rotary_dim


def rope_objects(entries: Entries) -> Iterator[Entries]:
    """The rope entries, and what they have for each type of layer."""
    for name in SPELLINGS:
        entry = entries.object(name)
        if entry is not None:
            yield entry
            inner = [entry.object(key) for key, value in entry.raw.items() if isinstance(value, Mapping)]
            yield from (each for each in inner if each is not None)


def read_rope(entries: Entries, context: RopeContext, layer_types: Iterable[str]) -> RopeConfig:
    """Rotary embedding from `rope_parameters` or `rope_scaling`, and what stands beside them, where the first
    `context.rotary_dim` dimensions of a head are turned.

    A file may have both, as one that transformers 5 wrote and somebody added a scaling to: they must agree.
    """
    said: dict[str, RopeConfig] = {}
    for name in SPELLINGS:
        entry = entries.object(name)
        if entry is not None:
            said[name] = _read_entry(entry, entries, context, layer_types)
    if len(set(said.values())) > 1:
        raise UnsupportedModelError(
            f"config.json has {' and '.join(f'{name} {shown(entries.raw[name])}' for name in said)}, which "
            "do not say the same of rotary embedding: remove the one that does not hold, or make them "
            "equal, rope_theta included"
        )
    theta = entries.number("rope_theta", context.default_theta, above=0)
    return next(iter(said.values()), RopeConfig(theta))


def without_entries(entries: Entries, names: Collection[str]) -> Entries:
    """The entries, and their rope entries without those of `names`, which something else reads."""
    rules = {
        spelling: {name: value for name, value in rule.items() if name not in names}
        for spelling in SPELLINGS
        if isinstance(rule := entries.raw.get(spelling), Mapping)
    }
    return entries.changed({**entries.raw, **rules})


def read_rope_entry(entry: Entries | None, entries: Entries, context: RopeContext) -> RopeConfig:
    """The rotary embedding of one entry of the rules, with what stands beside it in `entries`."""
    return _read_flat(Entries({}) if entry is None else entry, entries, context)


def read_rope_by_type(
    entries: Entries, context: RopeContext, thetas: Mapping[str, tuple[str, float]]
) -> dict[str, RopeConfig]:
    """Rotary embedding of each type of layer: from `rope_parameters` by type, as transformers 5 writes it, or
    from `rope_scaling`, which is of full attention alone.

    `thetas` has for each type the name of the entry beside them that says its theta, and its default.
    """
    parameters, scaling = (entries.object(name) for name in SPELLINGS)
    if parameters is not None and not set(parameters.raw) <= set(thetas):
        entries.refuse(
            SPELLINGS[0], f"it must hold an object for each of {', '.join(thetas)}, and nothing else"
        )
    beside = Entries(
        {name: value for name, value in entries.raw.items() if name != "rope_theta"}, entries.name
    )
    found = {}
    for layer_type, (name, default) in thetas.items():
        of_type = None if parameters is None else parameters.object(layer_type)
        said = {} if of_type is None else dict(of_type.raw)
        if layer_type == FULL and scaling is not None:
            said |= scaling.raw
        said.setdefault("rope_theta", entries.number(name, default, above=0))
        entry = Entries(said, f"{SPELLINGS[0]} of {entries.name} for {layer_type}")
        found[layer_type] = _read_flat(entry, beside, context)
    return found


def _read_entry(
    entry: Entries, entries: Entries, context: RopeContext, layer_types: Iterable[str]
) -> RopeConfig:
    """One entry, whether it holds for all layers or says it for each type of layer."""
    if not any(isinstance(value, Mapping) for value in entry.raw.values()):
        return _read_flat(entry, entries, context)
    found = set()
    for layer_type in set(layer_types):
        of_type = entry.object(layer_type)
        if of_type is None:
            entry.refuse(layer_type, f"{entry.name} is by layer type, and layers are of this one")
        found.add(_read_flat(of_type, entries, context))
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{entry.name} is {shown(entry.raw)}, which differs between types of layers; the families that "
            "jinfer implements have one entry for all layers, in transformers too: write the one that it was "
            "trained with, or use another model"
        )
    return found.pop()


def _read_flat(entry: Entries, entries: Entries, context: RopeContext) -> RopeConfig:
    entry.has(SHARE)  # which `read_rotary_dim` has read
    theta, kind = _theta(entry, entries) or context.default_theta, _rope_type(entry)
    longest = context.max_position_embeddings
    original = _original(entry, entries, longest) if kind in EXTENDED else longest
    facts = RopeFacts(theta, context.rotary_dim, longest, original)
    scaling = None if kind == "default" else READERS[kind](entry, facts)
    unread = entry.unread()
    if unread:
        logger.warning(
            "%s has %s, which rotary embedding of type %s does not read, in transformers either",
            entry.name,
            ", ".join(f"{name} {shown(entry.raw[name])}" for name in unread),
            kind,
        )
    return RopeConfig(theta, scaling)


def _rope_type(entry: Entries) -> str:
    """The entry under either name; both must mean the same."""
    names = {name: entry.text(name, None) for name in ("rope_type", "type")}
    kinds = {OLD_NAMES.get(kind, kind) for kind in names.values() if kind is not None}
    if len(kinds) > 1:
        raise UnsupportedModelError(
            f"{entry.name} has rope_type {names['rope_type']!r} and type {names['type']!r}; they are two "
            "names of one entry: remove the one that does not hold"
        )
    kind = kinds.pop() if kinds else "default"
    if kind != "default" and kind not in READERS:
        name = "rope_type" if names["rope_type"] is not None else "type"
        entry.refuse(
            name, f"jinfer implements the types default, {', '.join(READERS)} (and su, which is longrope)"
        )
    return kind


def _theta(entry: Entries, entries: Entries) -> float | None:
    read = [each.number("rope_theta", None, above=0) for each in (entry, entries)]
    return _one_of("rope_theta", entry, *read)


def _original(entry: Entries, entries: Entries, max_position_embeddings: int) -> int:
    """The context before it was extended."""
    read = [each.integer(ORIGINAL, None) for each in (entry, entries)]
    return _one_of(ORIGINAL, entry, *read) or max_position_embeddings


def _one_of(name: str, entry: Entries, inside: Number | None, outside: Number | None) -> Number | None:
    """The value of a number that may stand in a rope entry, or beside it."""
    if inside is not None and outside is not None and inside != outside:
        raise UnsupportedModelError(
            f"config.json has {name} {outside}, and {entry.name} has {name} {inside}; they are two places "
            "of one entry: remove the one that does not hold"
        )
    return outside if inside is None else inside
