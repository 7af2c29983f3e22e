"""Orbax checkpoints: what a JAX training run writes is served as it is, and any model can be converted to it.

A checkpoint is a directory with config.json, the tokenizer's files and `params/`, which Orbax wrote from the nested
dict of parameters (`Model.abstract_params` has its paths and shapes).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jinfer.errors import CheckpointError, ConfigError
from jinfer.models.model import Model, Params
from jinfer.models.weights import check_params, unflatten

PARAMS_DIRECTORY = "params"
MOST_CHARACTERS = 200  # of what Orbax says about an error
COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


def is_orbax_checkpoint(directory: Path) -> bool:
    """Whether load_orbax, rather than load_checkpoint, is for this directory."""
    return (directory / PARAMS_DIRECTORY).is_dir()


def check_is_new(out: Path) -> None:
    """Raises ConfigError if `out` is there already."""
    if out.exists():
        raise ConfigError(f"{out} exists; name a directory that does not, so that nothing is overwritten")


def save_orbax(params: Params, source: Path, out: Path) -> None:
    """Writes params, and copies config and tokenizer from `source`. Raises ConfigError if `out` is there already."""
    check_is_new(out)
    out.mkdir(parents=True)
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((out / PARAMS_DIRECTORY).resolve(), params)


def load_orbax(model: Model, directory: Path) -> Params:
    """The params of `model`, read to the default device. Raises CheckpointError where they do not fit."""
    path = (directory / PARAMS_DIRECTORY).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        check_params(_stored_shapes(checkpointer, path), model.abstract_params, str(directory))
        try:
            return checkpointer.restore(path, _on_default_device(model.abstract_params))
        except Exception as error:  # Orbax raises Exception itself, with no narrower type, and pages of detail
            raise CheckpointError(
                f"{path} cannot be read ({_brief(error)}); write it again if it is truncated or corrupt"
            ) from error


def _stored_shapes(checkpointer: ocp.StandardCheckpointer, path: Path) -> Mapping:
    """What Orbax says is there, which is nothing if it cannot read its own files."""
    try:
        metadata = checkpointer.metadata(path).item_metadata
    except Exception as error:
        raise CheckpointError(f"{path} is not an Orbax checkpoint ({_brief(error)}); write it again") from error
    tree = metadata.tree if hasattr(metadata, "tree") else metadata
    leaves, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    if not leaves:
        raise CheckpointError(f"{path} is not an Orbax checkpoint, or an incomplete one; write it again")
    return unflatten({jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves})


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:MOST_CHARACTERS]


def _on_default_device(abstract: Params) -> Params:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
