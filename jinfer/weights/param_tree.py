"""Parameters in the trees of training code: finds the leaves that are parameters of a model."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinfer.errors import CheckpointError
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import named

logger = logging.getLogger(__name__)

Keys = tuple[str, ...]

VARIABLE_VALUE = "value"  # the key that flax adds for the value of an nnx.Variable
RANDOM_STATE = "rngs"  # of a module's dropout, which inference does without
OPTIMIZER_STATES = ("opt_state", "optimizer", "opt")  # which hold trees that look like the parameters


def flat_leaves(tree: Any, keys: Keys = ()) -> dict[Keys, Any]:
    """All leaves of nested mappings and lists by their keys. None and what is empty are no leaves."""
    if tree is None:
        return {}
    if not isinstance(tree, Mapping | list | tuple):
        return {keys: tree}
    items = dict(tree if isinstance(tree, Mapping) else enumerate(tree))
    return {
        path: leaf for name, x in items.items() for path, leaf in flat_leaves(x, (*keys, str(name))).items()
    }


def parameters_of(leaves: Collection[Keys], specs: ParamSpecs, where: str) -> dict[str, Keys]:
    """The keys of each parameter, by its path: the ones of `specs`, and what lies beside them.

    Known are a nested dict of arrays, one of nnx variables (keys end in `value`), and either inside of a
    training state, such as {"params": ..., "opt_state": ..., "step": ...}, of which the rest is left out.
    Raises CheckpointError where two parts of a state hold all parameters.
    """
    paths = {path_of(keys): keys for keys in leaves if RANDOM_STATE not in keys}
    prefixes = _prefixes(paths, [path for path, spec in specs.by_path.items() if spec.is_stacked])
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{where} holds all weights of the model more than once, in {named(prefixes)}; save one of them "
            "alone"
        )
    prefix = prefixes[0] if prefixes else ""
    others = [path for path in paths if not path.startswith(prefix)]
    if others:
        logger.info("left out of %s, beside the weights in %s: %s", where, prefix, named(others))
    return {path.removeprefix(prefix): keys for path, keys in paths.items() if path.startswith(prefix)}


def path_of(keys: Keys) -> str:
    """The path of a leaf, of which "value" of an nnx variable is no part."""
    return "/".join(keys[:-1] if keys[-1] == VARIABLE_VALUE and len(keys) > 1 else keys)


def _prefixes(paths: Collection[str], wanted: Sequence[str]) -> list[str]:
    """Prefixes of the paths of the parameters, such as "" or "params/": the ones that all of them have, or
    any."""
    found = {
        path.removesuffix(one) for one in wanted for path in paths if path == one or path.endswith(f"/{one}")
    }
    found = {prefix for prefix in found if prefix.split("/")[0] not in OPTIMIZER_STATES}
    whole = [prefix for prefix in found if all(prefix + path in paths for path in wanted)]
    return sorted(whole or (found if len(found) == 1 else ()))
