"""`jinfer convert`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp

from jinfer.cli.exit_status import EXIT_OK
from jinfer.config import DType
from jinfer.errors import ConfigError, JinferError
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights.choice import choose_weights
from jinfer.weights.hub import read_json, resolve_model_directory

CONVERTED_DTYPES = (*get_args(DType), "float16")


def add_convert(commands: Any) -> None:
    """Adds the command."""
    convert = commands.add_parser("convert", help="convert a checkpoint", description=_convert.__doc__)
    convert.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    convert.add_argument("--to", required=True, choices=["orbax"], help="the format to write")
    convert.add_argument("--dtype", choices=get_args(DType))
    convert.add_argument("out", type=Path, help="a directory that does not exist yet")
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    """`jinfer convert`: a Hugging Face directory becomes an Orbax checkpoint, in the dtype of its weights."""
    from jinfer.weights.orbax import check_is_new, save_orbax  # heavy, and no other command's

    check_is_new(options.out)
    _check_can_be_made(options.out)
    directory = resolve_model_directory(options.model)
    raw = read_json(directory / "config.json")
    dtype = options.dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in CONVERTED_DTYPES:
        raise ConfigError(
            f"config.json names the dtype {dtype!r}; give --dtype, one of {', '.join(get_args(DType))}"
        )
    model = build_model(read_model_config(raw), jnp.dtype(dtype), implementation="xla")
    params = choose_weights(directory, raw, model.param_specs).load(
        placement=default_placement(), progress=sys.stderr.isatty()
    )
    try:
        save_orbax(params, directory, options.out)
    except JinferError:
        raise
    except (OSError, ValueError) as error:  # TensorStore, which Orbax uses, raises ValueError for an OSError
        raise ConfigError(
            f"{options.out} cannot be written: {error}; remove what is there of it, and name a directory "
            "with room"
        ) from error
    print(f"wrote {options.out} in {dtype}; use it with --model {options.out}", file=sys.stderr)
    return EXIT_OK


def _check_can_be_made(out: Path) -> None:
    """Raises ConfigError, before weights are read, where no directory of this name can be made."""
    parent = next(each for each in out.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{out} cannot be made: {parent} is no directory that can be written; name another directory"
        )
