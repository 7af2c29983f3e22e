"""The entries of a config.json about the types of layers, and the windows that follow from them."""

from collections.abc import Sequence

from jinfer.entries import MAX_INTEGER, Entries
from jinfer.errors import UnsupportedModelError
from jinfer.models.config_entries import REMEDY, FamilyDefaults, read_num_layers
from jinfer.models.rope_entries import FULL, SLIDING

DEFAULT_SLIDING_WINDOW = 4096  # of the families that have one, in files that do not mention it
DEFAULT_MAX_WINDOW_LAYERS = 28
LAYER_TYPES = {FULL: FULL, SLIDING: SLIDING, "attention": FULL}  # "attention" is an older name


def check_full_attention(entries: Entries, defaults: FamilyDefaults) -> None:
    """Refuses `layer_types` of other than full attention, in families that have no other."""
    if set(read_layer_types(entries, read_num_layers(entries, defaults.num_layers)) or ()) - {FULL}:
        entries.refuse("layer_types", f"all layers of this family are of {FULL}")


def read_layer_types(entries: Entries, num_layers: int) -> tuple[str, ...] | None:
    """`layer_types`, one for each layer; None where there are none."""
    types = entries.texts("layer_types")
    if types is None:
        return None
    if len(types) != num_layers or not set(types) <= set(LAYER_TYPES):
        raise UnsupportedModelError(
            f"config.json has layer_types {list(types)!r}; jinfer implements {FULL} and {SLIDING}, one for "
            f"each of the {num_layers} layers: {REMEDY}"
        )
    return tuple(LAYER_TYPES[kind] for kind in types)


def windows_by_type(types: Sequence[str], window: int | None, reason: str) -> tuple[int | None, ...]:
    """The window of each layer. Refuses types that ask for a window where there is none, for a `reason`."""
    if window is None and SLIDING in types:
        raise UnsupportedModelError(
            f"config.json has layer_types with {SLIDING}, but {reason}: correct one of them, for the window "
            "is unknown"
        )
    return tuple(window if kind == SLIDING else None for kind in types)


def read_window(entries: Entries, default: int = DEFAULT_SLIDING_WINDOW) -> int | None:
    """`sliding_window`: null is none, and a file that does not mention it means the default, which is 4096 in
    most families."""
    return entries.integer("sliding_window", None if "sliding_window" in entries.raw else default)


def read_layer_windows(entries: Entries) -> tuple[int | None, ...]:
    """The sliding window of each layer, as Qwen writes it: `layer_types`, or all layers from
    `max_window_layers` on.

    Both hold where `use_sliding_window` says so. Elsewhere any integer may stand there.
    """
    num_layers = read_num_layers(entries)
    first = entries.integer("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS, at_least=-MAX_INTEGER)
    entries.integer("sliding_window", None, at_least=-MAX_INTEGER)
    window = read_window(entries) if entries.switch("use_sliding_window", False) else None
    types = read_layer_types(entries, num_layers)
    if types is None:
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return windows_by_type(types, window, "use_sliding_window is not true, or sliding_window is null")


def read_periodic_windows(
    entries: Entries,
    defaults: FamilyDefaults,
    *,
    period: int,
    default_window: int = DEFAULT_SLIDING_WINDOW,
) -> tuple[int | None, ...]:
    """The sliding window of each layer: by `layer_types`, or of all but each `period`-th."""
    num_layers = read_num_layers(entries, defaults.num_layers)
    window = read_window(entries, default_window)
    types = read_layer_types(entries, num_layers)
    if types is None:
        types = tuple(FULL if (layer + 1) % period == 0 else SLIDING for layer in range(num_layers))
    return windows_by_type(types, window, "sliding_window is null")
