"""`jinfer convert`."""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp

from jinfer.cli.output import EXIT_OK
from jinfer.config import DType
from jinfer.errors import ConfigError
from jinfer.models.checkpoint import load_checkpoint
from jinfer.models.hub import read_json, resolve_model_directory
from jinfer.models.orbax_io import check_is_new, save_orbax
from jinfer.models.registry import build_model, read_model_config

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
    check_is_new(options.out)
    directory = resolve_model_directory(options.model)
    raw = read_json(directory / "config.json")
    dtype = options.dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in CONVERTED_DTYPES:
        raise ConfigError(f"config.json names the dtype {dtype!r}; give --dtype, one of {', '.join(get_args(DType))}")
    model = build_model(read_model_config(raw), jnp.dtype(dtype), "reference")
    save_orbax(load_checkpoint(model, directory, progress=sys.stderr.isatty()), directory, options.out)
    print(f"wrote {options.out} in {dtype}; use it with --model {options.out}", file=sys.stderr)
    return EXIT_OK
