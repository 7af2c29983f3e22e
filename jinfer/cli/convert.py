"""`jinfer convert`."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp

from jinfer.bench.arguments import positive
from jinfer.cli.exit_status import EXIT_OK
from jinfer.config import DType
from jinfer.errors import ConfigError, JinferError
from jinfer.models.model import Model
from jinfer.models.multimodal import text_config
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.quantization.schemes import SCHEME_NAMES
from jinfer.weights.choice import choose_weights
from jinfer.weights.fitted_weights import Target
from jinfer.weights.hub import read_json, resolve_model_directory
from jinfer.weights.new_directory import check_is_new
from jinfer.weights.params import Params

CONVERTED_DTYPES = (*get_args(DType), "float16")
QUANTIZED = "int8: W8A8; fp8: W8A8 in e4m3; int4: W4A16, in groups of inputs"


def add_convert(commands: Any) -> None:
    """Adds the command."""
    convert = commands.add_parser("convert", help="convert a checkpoint", description=_convert.__doc__)
    convert.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    target = convert.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", choices=["orbax"], help="the format to write")
    target.add_argument("--quantize", choices=SCHEME_NAMES, help=QUANTIZED)
    convert.add_argument("--dtype", choices=get_args(DType))
    calibration = "a text like those that the model will read: scales are chosen by what it computes of it"
    convert.add_argument("--calibration", type=Path, metavar="FILE", help=calibration)
    convert.add_argument(
        "--group-size",
        type=positive(int),
        metavar="N",
        help="inputs that share a scale, of int4; default 128",
    )
    static = "a scale for all activations of a product, from the calibration, in place of one for each token"
    convert.add_argument("--static", action="store_true", help=static)
    convert.add_argument("out", type=Path, help="a directory that does not exist yet")
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    """`jinfer convert`: a Hugging Face directory becomes an Orbax checkpoint, in the dtype of its weights, or
    a quantized checkpoint in the format of compressed-tensors."""
    _check_options(options)
    check_is_new(options.out)
    _check_can_be_made(options.out)
    source = _Source.of(options)
    write = _write_orbax if options.quantize is None else _write_quantized
    try:
        write(source, options)
    except JinferError:
        raise
    except (OSError, ValueError) as error:  # TensorStore, which Orbax uses, raises ValueError for an OSError
        raise ConfigError(
            f"{options.out} cannot be written: {error}; remove what is there of it, and name a directory "
            "with room"
        ) from error
    as_what = source.dtype if options.quantize is None else f"{options.quantize} and {source.dtype}"
    print(f"wrote {options.out} in {as_what}; use it with --model {options.out}", file=sys.stderr)
    return EXIT_OK


@dataclass(frozen=True, eq=False)
class _Source:
    """The model that is converted: its directory, its config.json, and the dtype of its weights."""

    directory: Path
    raw: Mapping[str, Any]
    dtype: str

    @classmethod
    def of(cls, options: argparse.Namespace) -> "_Source":
        directory = resolve_model_directory(options.model)
        raw = read_json(directory / "config.json")
        of_text = text_config(raw)
        dtype = options.dtype or of_text.get("dtype") or of_text.get("torch_dtype") or "float32"
        if dtype not in CONVERTED_DTYPES:
            raise ConfigError(
                f"config.json names the dtype {dtype!r}; give --dtype, one of {', '.join(get_args(DType))}"
            )
        return cls(directory, raw, dtype)

    def load(self) -> tuple[Model, Params]:
        """The model with the parameters that its weights have, and these on the device."""
        model = build_model(read_model_config(self.raw), jnp.dtype(self.dtype), implementation="xla")
        weights = choose_weights(self.directory, self.raw, model.param_specs, Target(as_floats=True))
        params = weights.load(placement=default_placement(), progress=sys.stderr.isatty())
        return model.fitted_to(weights.specs), params


def _write_orbax(source: _Source, options: argparse.Namespace) -> None:
    from jinfer.weights.orbax import save_orbax  # heavy, and no other command's

    save_orbax(source.load()[1], source.directory, options.out)


def _write_quantized(source: _Source, options: argparse.Namespace) -> None:
    from jinfer.quantization.checkpoint import write_quantized_checkpoint
    from jinfer.quantization.options import QuantizeOptions

    chosen = QuantizeOptions(options.quantize, options.group_size, options.calibration, options.static)
    plan = chosen.plan(source.directory, read_model_config(source.raw), jnp.dtype(source.dtype))
    model, params = source.load()
    write_quantized_checkpoint(
        model,
        params,
        plan,
        source=source.directory,
        raw=source.raw,
        out=options.out,
        progress=sys.stderr.isatty(),
    )


def _check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that contradict each other."""
    given = {
        "--calibration": options.calibration is not None,
        "--group-size": options.group_size is not None,
        "--static": options.static,
    }
    for name, is_given in given.items():
        if is_given and options.quantize is None:
            raise ConfigError(f"{name} is of quantized checkpoints; leave it out, or give --quantize")


def _check_can_be_made(out: Path) -> None:
    """Raises ConfigError, before weights are read, where no directory of this name can be made."""
    parent = next(each for each in out.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{out} cannot be made: {parent} is no directory that can be written; name another directory"
        )
