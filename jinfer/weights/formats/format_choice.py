"""The format of a checkpoint, by what its configuration says: the one place that chooses."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jinfer.entries import Entries
from jinfer.errors import UnsupportedModelError
from jinfer.weights.formats.awq import Awq
from jinfer.weights.formats.checkpoint_format import CheckpointFormat
from jinfer.weights.formats.compressed_tensors import CompressedTensors
from jinfer.weights.formats.entries import REMEDY
from jinfer.weights.formats.fp8 import Fp8
from jinfer.weights.formats.gptq import Gptq
from jinfer.weights.formats.mxfp4 import Mxfp4
from jinfer.weights.hub import read_json

READERS: Mapping[str, Callable[[Entries], CheckpointFormat]] = {
    "awq": Awq.read,
    "gptq": Gptq.read,
    "compressed-tensors": CompressedTensors.read,
    "fp8": Fp8.read,
    "mxfp4": Mxfp4.read,
}
"""The reader of each `quant_method`."""
CONFIG_NAMES = {"quantization_config": None, "compression_config": "compressed-tensors"}
"""The entries of config.json that describe a format, and the method of one that names none."""
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files that did so before config.json had such an entry, by the tools that wrote them."""
PACKED = ".qweight"


def read_format(raw: Mapping[str, Any]) -> CheckpointFormat | None:
    """The format that a config.json describes; None for plain weights. Raises UnsupportedModelError."""
    config = Entries(raw)
    for name, method in CONFIG_NAMES.items():
        entries = config.object(name)
        if entries is not None:
            return _read(entries, method)
    return None


def without_format(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of the same model with plain weights."""
    return {name: value for name, value in raw.items() if name not in CONFIG_NAMES}


def find_format(
    directory: Path, raw: Mapping[str, Any], tensor_names: Collection[str]
) -> CheckpointFormat | None:
    """The format of a directory whose config.json is `raw`, and whose weights have these names: packed ones
    that config.json does not mention are described by a file beside it. Raises UnsupportedModelError."""
    described = read_format(raw)
    if described is not None or not any(name.endswith(PACKED) for name in tensor_names):
        return described
    for name, method in SIDE_FILES.items():
        if (directory / name).is_file():
            return _read(Entries(read_json(directory / name), name), method)
    return None


def _read(entries: Entries, default: str | None) -> CheckpointFormat:
    method = entries.text("quant_method", default or "")
    if method not in READERS:
        name = f"quant_method {method!r}" if method else "no quant_method"
        raise UnsupportedModelError(
            f"{entries.name} has {name}: jinfer reads weights that are quantized with "
            f"{', '.join(READERS)}; {REMEDY}"
        )
    return READERS[method](entries)
