"""Tuned block sizes are data: `pallas_kernels/<op>/tuned/<device>.json`, which `python -m benchmarks.kernels
tune` writes and this module reads.

A file maps a function's name to its entries, each of which is

    {"key": {"rows": 64, ...}, "blocks": {"tile": 64, ...}, "microseconds": 131.2}

where the key is everything that the choice may depend on and the blocks are the fields of the function's own
blocks.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, TypeVar

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import next_power_of_two

Blocks = TypeVar("Blocks")


def tuned_key(call: NamedTuple, *, rounded: Sequence[str]) -> dict[str, Any]:
    """The key of a call: its facts but for those that are None, of which those named in `rounded` count as
    the power of two that holds them."""
    powers = {name: next_power_of_two(getattr(call, name)) for name in rounded}
    return {name: fact for name, fact in (call._asdict() | powers).items() if fact is not None}


def tuned_blocks(
    op: str, function: str, key: Mapping[str, Any], blocks_type: type[Blocks], *, device: str | None = None
) -> Blocks | None:
    """The fastest for exactly this key on a device, by default the one that is compiled for; None if it is
    untuned.

    `device` is the name of a file, such as "nvidia-h200".
    """
    found = _entries(op, device or target_device().file_name).get((function, _frozen(key)))
    return None if found is None else blocks_type(**found)


@functools.cache
def _entries(op: str, device: str) -> dict[tuple[str, frozenset], dict[str, Any]]:
    file = resources.files("pallas_kernels") / op / "tuned" / f"{device}.json"
    if not file.is_file():
        return {}
    functions = json.loads(file.read_text())
    return {
        (name, _frozen(entry["key"])): entry["blocks"]
        for name, listed in functions.items()
        for entry in listed
    }


def _frozen(key: Mapping[str, Any]) -> frozenset:
    return frozenset(key.items())
