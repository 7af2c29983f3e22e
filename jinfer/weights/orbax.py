"""Orbax checkpoints: what a JAX training run writes is served as it is, and any model can be converted to it.

A checkpoint is a directory with config.json, the tokenizer's files and `params/`, which Orbax wrote from the
nested dict of parameters (`ParamSpecs` has its paths and shapes).
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from jinfer.errors import CheckpointError
from jinfer.placement import Placement
from jinfer.weights.fitted_weights import AS_STORED, FittedWeights, Target
from jinfer.weights.formats.format_choice import without_format
from jinfer.weights.harmless_tensors import without_harmless
from jinfer.weights.hub import read_json
from jinfer.weights.new_directory import check_is_new, copy_small_files
from jinfer.weights.orbax_layout import PARAMS_DIRECTORY, find_trees
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.param_tree import Keys, flat_leaves, parameters_of
from jinfer.weights.params import Params, check_params, raise_faults, unflatten
from jinfer.weights.rounded_weights import Rounding, with_rounded_types
from jinfer.weights.safetensors_layout import rounded_slices
from jinfer.weights.streaming import fill_params
from jinfer.weights.tied_params import fit_tied

MAX_MESSAGE_LENGTH = 200  # of what Orbax says about an error


def save_orbax(params: Params, source: Path, out: Path) -> None:
    """Writes params, and copies config and tokenizer from `source`: the config of plain weights, as these
    are. Raises ConfigError if `out` is there already."""
    check_is_new(out)
    out.mkdir(parents=True)
    copy_small_files(source, out)
    raw = read_json(source / "config.json")
    if (plain := without_format(raw)) != raw:
        (out / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((out / PARAMS_DIRECTORY).resolve(), params)


def load_orbax(specs: ParamSpecs, directory: Path, *, placement: Placement) -> Params:
    """The params of `specs` from a directory, read to the devices. Raises CheckpointError where they do not
    fit; a head beside the embedding of a tied model does not, where its values are others."""
    params = directory / PARAMS_DIRECTORY
    path = next(iter(find_trees(params)), params)
    fitted = fit_orbax(specs, path)
    others = [path for path in fitted.specs.by_path if path not in specs.by_path]
    raise_faults(
        [f"{path} has other values than what it is tied to; untie it" for path in others], str(directory)
    )
    return fitted.load(placement=placement, progress=False)


def fit_orbax(specs: ParamSpecs, path: Path, target: Target = AS_STORED) -> FittedWeights:
    """The specs of a model with a head as it is stored and kernels of the types that `target` asks for, and
    which of the leaves of the tree at `path` its weights are.

    Arrays are read where their values decide: a head beside the embedding of a tied model, biases that the
    model does not have. Raises CheckpointError that names what is missing, left over, misshapen or of a dtype
    that is no float.
    """
    path = path.resolve()
    stored = stored_leaves(path)
    keys_of = parameters_of(stored, specs, str(path))
    leaves = {name: _Leaf(keys, stored[keys]) for name, keys in keys_of.items()}

    def read(leaf: _Leaf) -> np.ndarray:
        return next(iter(restore(path, {leaf.keys: ocp.RestoreArgs(restore_type=np.ndarray)}).values()))

    specs, leaves = fit_tied(specs, leaves, read)
    wanted = specs.flat
    leaves = without_harmless(leaves, wanted, read)
    check_params({name: leaf.stored for name, leaf in leaves.items()}, wanted, str(path))
    keys = {name: leaves[name].keys for name in wanted}
    if target.rounding is None:
        return FittedWeights(specs, functools.partial(_load, path, specs, keys))
    specs = with_rounded_types(specs, target.rounding)
    return FittedWeights(specs, functools.partial(_load_rounded, path, specs, keys, target.rounding))


@dataclass(frozen=True, eq=False)
class _Leaf:
    """The keys of a leaf of a stored tree, and its description by Orbax."""

    keys: Keys
    stored: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.stored)

    @property
    def dtype(self) -> np.dtype | None:
        return getattr(self.stored, "dtype", None)


def _load(
    path: Path, specs: ParamSpecs, keys: Mapping[str, Keys], *, placement: Placement, progress: bool
) -> Params:
    placed = specs.placed(placement)
    how = {keys[name]: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype) for name, x in placed.items()}
    restored = restore(path, how)
    return unflatten({name: restored[keys[name]] for name in placed})


def _load_rounded(
    path: Path,
    specs: ParamSpecs,
    keys: Mapping[str, Keys],
    rounding: Rounding,
    *,
    placement: Placement,
    progress: bool,
) -> Params:
    """The parameters with kernels that are quantized on the host, one after the other: no more than one of
    them is there as floats."""
    placed, arrays = specs.placed(placement), dict[str, Any]()
    plain = {name: keys[name] for name in specs.by_path if name not in specs.kernel_types}
    how = {
        keys[name]: ocp.ArrayRestoreArgs(sharding=placed[name].sharding, dtype=placed[name].dtype)
        for name in plain
    }
    restored = restore(path, how)
    arrays |= {name: restored[keys[name]] for name in plain}
    for name in specs.kernel_types:
        (kernel,) = restore(path, {keys[name]: ocp.RestoreArgs(restore_type=np.ndarray)}).values()
        abstract = {each: placed[each] for each in specs.by_path[name].arrays(name)}
        slices = rounded_slices(name, specs.by_path[name], kernel, rounding)
        arrays |= fill_params(abstract, slices, placement, progress=progress)
    return specs.tree(arrays)


def restore(path: Path, how: Mapping[Keys, ocp.RestoreArgs]) -> dict[Keys, Any]:
    """The leaves with these keys, and no others. Raises CheckpointError."""
    tree = _nested(how)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            restored = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(item=tree, restore_args=tree, partial_restore=True)
            )
        except (
            Exception
        ) as error:  # Orbax raises Exception itself, with no narrower type, and pages of detail
            raise CheckpointError(
                f"{path} cannot be read ({_brief(error)}); write it again if it is truncated or corrupt"
            ) from error
    return flat_leaves(restored)


def _nested(flat: Mapping[Keys, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for keys, leaf in flat.items():
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = leaf
    return tree


def stored_leaves(path: Path) -> dict[Keys, Any]:
    """The leaves of a stored tree, as Orbax describes them, by keys."""
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            metadata = checkpointer.metadata(path).item_metadata
        except Exception as error:
            raise CheckpointError(
                f"{path} is not an Orbax checkpoint ({_brief(error)}); write it again"
            ) from error
    if metadata is None:
        raise CheckpointError(f"{path} is not an Orbax checkpoint, or an incomplete one; write it again")
    return flat_leaves(getattr(metadata, "tree", metadata))


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:MAX_MESSAGE_LENGTH]
