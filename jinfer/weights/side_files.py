"""Files beside a model's weights that jinfer does not read, and that may make another model of them."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jinfer.errors import CheckpointError
from jinfer.weights.model_files import ADAPTER_CONFIG, QUANTIZATION_FILES
from jinfer.weights.safetensors_file import read_header

logger = logging.getLogger(__name__)

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
LORA_WEIGHTS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
ADAPTER_FILES = (ADAPTER_CONFIG, *ADAPTER_WEIGHTS, *LORA_WEIGHTS)
OTHER_FORMATS = (
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "consolidated*.safetensors",
    "consolidated*.pth",
    "*.gguf",
    "tf_model*.h5",
    "flax_model*.msgpack",
)
SAFETENSORS = "*.safetensors"
CUSTOM_GENERATE = "custom_generate"
CAUSAL_LM = "AutoModelForCausalLM"


def warn_of_side_files(directory: Path, raw: Mapping[str, Any], *, is_quantized: bool) -> None:
    """Says which files of the directory, and which entries of its config.json `raw`, are not looked at though
    they may change what the model computes. `is_quantized` says that the weights were read as quantized
    ones."""
    adapter = _present(directory, ADAPTER_FILES)
    if adapter:
        logger.warning(
            "the adapter in %s (%s) is not applied: the base model is served; merge it into the weights "
            "(merge_and_unload of peft) or remove it",
            directory,
            ", ".join(adapter),
        )
    for name in () if is_quantized else _present(directory, QUANTIZATION_FILES):
        logger.warning(
            "%s says that the weights are quantized, and is not read: they are served as they are stored; "
            "use the unquantized model, or remove it",
            directory / name,
        )
    auto_map = raw.get("auto_map")
    if isinstance(auto_map, Mapping) and CAUSAL_LM in auto_map:
        logger.warning(
            "config.json names code of the model's own (%s), which is not run: it is served as any %s",
            auto_map[CAUSAL_LM],
            raw.get("architectures"),
        )
    if (directory / CUSTOM_GENERATE).is_dir():
        logger.warning(
            "%s is a way of generating of the model's own, which is not used", directory / CUSTOM_GENERATE
        )


def adapter_error(directory: Path) -> CheckpointError | None:
    """The error of a directory that has no weights but an adapter's; None without an adapter."""
    present = _present(directory, ADAPTER_FILES)
    if not present:
        return None
    return CheckpointError(
        f"{directory} holds an adapter alone ({', '.join(present)}), which jinfer cannot apply; merge it "
        "into its base model (merge_and_unload of peft) and save that"
    )


def other_weights(directory: Path, known: Collection[str], names: Collection[str]) -> list[str]:
    """Files, but for the `known` ones, that look like weights of the model whose tensors have these `names`:
    by their own name, or since they hold one of the tensors. One that cannot be read is told, too."""
    found = {path.name for pattern in OTHER_FORMATS for path in directory.glob(pattern)}.difference(known)
    files = [
        path for path in directory.glob(SAFETENSORS) if path.name not in {*ADAPTER_FILES, *known, *found}
    ]
    return sorted(found | {file.name for file in files if _may_hold(file, names)})


def _may_hold(file: Path, names: Collection[str]) -> bool:
    try:
        return any(name in names for name in read_header(file))
    except CheckpointError:
        return True


def _present(directory: Path, names: Collection[str]) -> list[str]:
    return [name for name in names if (directory / name).is_file()]
