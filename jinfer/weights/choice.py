"""Chooses the weights of a directory that may hold several, and warns of the others."""

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jinfer.errors import CheckpointError
from jinfer.weights.fitted_weights import AS_STORED, FittedWeights, Target
from jinfer.weights.orbax_layout import PARAMS_DIRECTORY, find_trees
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.safetensors import fit_checkpoint
from jinfer.weights.safetensors_directory import (
    INDEX_FILE,
    SINGLE_FILE,
    find_sources,
    is_index,
    no_weights,
    read_index,
)
from jinfer.weights.safetensors_layout import tensor_names
from jinfer.weights.side_files import adapter_error, other_weights, warn_of_side_files

logger = logging.getLogger(__name__)

Fit = Callable[[], FittedWeights]


def choose_weights(
    directory: Path, raw: Mapping[str, Any], specs: ParamSpecs, target: Target = AS_STORED
) -> FittedWeights:
    """The weights of a directory whose config.json is `raw`, for the parameters of a model, and with
    kernels of the types that `target` asks for.

    The order is: Orbax's `params/`, model.safetensors, the index (transformers has these two in this order,
    too), what Orbax wrote elsewhere; and what fits the model goes before what does not. What else looks like
    weights is named in a warning. Raises CheckpointError that says of each what is wrong with it.
    """
    sources = _sources(directory, raw, specs, target)
    if not sources:
        raise adapter_error(directory) or no_weights(directory, raw)
    faults: dict[str, CheckpointError] = {}
    for name, fit in sources.items():
        try:
            chosen = fit()
        except CheckpointError as error:
            faults[name] = error
            continue
        _warn_of_others(directory, name, sources.keys(), faults, chosen.specs)
        warn_of_side_files(directory, raw, is_quantized=chosen.quantized_as is not None)
        return chosen
    first, *others = faults.values()
    if others:
        raise CheckpointError("; ".join(map(str, faults.values()))) from first
    raise first


def _sources(directory: Path, raw: Mapping[str, Any], specs: ParamSpecs, target: Target) -> dict[str, Fit]:
    """The fit to each source, by the name of the file or folder, in the order in which they are tried."""
    origins = find_sources(directory, raw)
    if _files_of(directory / INDEX_FILE) == {directory / INDEX_FILE, directory / SINGLE_FILE}:
        # The index is of this file alone.
        origins = [origin for origin in origins if origin.name != SINGLE_FILE]
    params = directory / PARAMS_DIRECTORY
    trees = find_trees(params) or ([params] if params.is_dir() else [])
    fits = {tree: functools.partial(_fit_tree, specs, tree, target) for tree in trees}
    fits |= {origin: functools.partial(fit_checkpoint, specs, origin, raw, target) for origin in origins}
    others = [tree for tree in find_trees(directory) if tree not in fits]
    fits |= {tree: functools.partial(_fit_tree, specs, tree, target) for tree in others}
    return {str(path.relative_to(directory)): fit for path, fit in fits.items()}


def _fit_tree(specs: ParamSpecs, path: Path, target: Target) -> FittedWeights:
    """The fit to an Orbax checkpoint."""
    from jinfer.weights.orbax import fit_orbax  # imports Orbax, which takes as long as half of the rest

    return fit_orbax(specs, path, target)


def _warn_of_others(
    directory: Path, taken: str, sources: Collection[str], faults: Mapping[str, Exception], specs: ParamSpecs
) -> None:
    """Warns of each file beside the weights that also looks like weights and is not read."""
    files = _files_of(directory / taken)
    untaken = [name for name in sources if name != taken and directory / name not in files]
    others = [f"{name} ({faults[name]})" if name in faults else name for name in untaken]
    known = {taken, *sources, *(file.name for file in files)}
    others += other_weights(directory, known, tensor_names(specs))
    if others:
        logger.warning(
            "%s holds more than one set of weights: %s is served, and not read: %s; remove what is not meant",
            directory,
            taken,
            ", ".join(others),
        )


def _files_of(origin: Path) -> set[Path]:
    """All files of a source that can be read."""
    if not is_index(origin) or not origin.is_file():
        return {origin}
    try:
        return {origin, *(origin.parent / name for name in read_index(origin).values())}
    except CheckpointError:
        return {origin}
