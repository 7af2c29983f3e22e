"""The checkpoint of a quantized model, as compressed-tensors describes it: transformers and vLLM read it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinfer.errors import ConfigError, UnsupportedModelError
from jinfer.models.config import ExpertsConfig, LatentAttentionConfig
from jinfer.models.model import Model
from jinfer.progress import progress_bar
from jinfer.quantization.model_quantization import ModelQuantization, QuantizationPlan, refused_modules
from jinfer.quantization.schemes import Scheme
from jinfer.weights.formats.format_choice import without_format
from jinfer.weights.new_directory import copy_small_files, new_directory
from jinfer.weights.params import Params, named
from jinfer.weights.safetensors_layout import tensor_names
from jinfer.weights.safetensors_writer import SafetensorsWriter

logger = logging.getLogger(__name__)

HEAD_MODULE = "lm_head"
COUNTED = (".weight", ".weight_packed", ".bias")  # one of them for each tensor of the model


def write_quantized_checkpoint(
    model: Model,
    params: Params,
    plan: QuantizationPlan,
    *,
    source: Path,
    raw: Mapping[str, Any],
    out: Path,
    progress: bool,
) -> None:
    """Writes a model whose directory is `source`, and its config.json `raw`, to a new directory.

    Norms, embedding and head stay as they are, and so do modules that the scheme does not take, which are
    named in a warning. Raises UnsupportedModelError for latent attention, and ConfigError where that is all
    of them, or where `out` is there.
    """
    check_layers(model)
    ignored = _ignored(model, plan.scheme)
    with new_directory(out) as directory:
        copy_small_files(source, directory)
        writer = SafetensorsWriter(directory)
        _write_tensors(ModelQuantization(model, params, plan), writer, progress=progress)
        writer.close()
        config = {
            **without_format(raw),
            "torch_dtype": plan.dtype.name,
            "tie_word_embeddings": model.config.tie_word_embeddings,
            "quantization_config": quantization_config(plan, ignored),
        }
        config.pop("dtype", None)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_layers(model: Model) -> None:
    """Raises UnsupportedModelError for layers that are not run over text here."""
    config = model.config
    has_other_parts = any(layer.has_scale or layer.experts_beside for layer in config.layers)
    if has_other_parts or config.token_inputs is not None or len(config.caching_layers) < config.num_layers:
        raise UnsupportedModelError(
            f"{config.architecture} has layers that read another's cache, or parts beside attention and one "
            "MLP, which checkpoints are not quantized of; load it with quantization='fp8' or 'int8', which "
            "needs none"
        )
    if any(isinstance(layer.attention, LatentAttentionConfig) for layer in config.layers):
        raise UnsupportedModelError(
            f"{model.config.architecture} has latent attention, whose products are not among those that "
            "checkpoints are quantized of; load it with quantization='fp8' or 'int8', which needs none"
        )
    if any(isinstance(layer.mlp, ExpertsConfig) for layer in model.config.layers):
        raise UnsupportedModelError(
            f"{model.config.architecture} has experts, which are not among the products that checkpoints are "
            "quantized of; use a checkpoint whose experts are stored in fp8 or mxfp4"
        )


def quantization_config(plan: QuantizationPlan, ignored: list[str]) -> dict[str, Any]:
    """The entry of config.json that describes what is stored; `ignored` modules and the head are not
    quantized."""
    group = {
        "targets": ["Linear"],
        "weights": plan.scheme.weight_args(),
        "input_activations": plan.scheme.activation_args(is_static=plan.is_static),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": plan.scheme.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [HEAD_MODULE, *ignored],
        "kv_cache_scheme": None,
    }


def _ignored(model: Model, scheme: Scheme) -> list[str]:
    """The modules that stay as they are, which are said. Raises ConfigError if all do."""
    refused, num_modules = refused_modules(model, scheme)
    reasons = "; ".join(dict.fromkeys(refused.values()))
    if len(refused) == num_modules:
        raise ConfigError(f"no module can be quantized: {reasons}; give a --group-size that divides them")
    if refused:
        logger.warning("not quantized, and written as they are: %s (%s)", named(list(refused)), reasons)
    return list(refused)


def _write_tensors(quantization: ModelQuantization, writer: SafetensorsWriter, *, progress: bool) -> None:
    total = len(tensor_names(quantization.model.param_specs))
    with progress_bar("quantizing", total=total, enabled=progress, unit="tensors") as bar:
        for name, tensor in quantization.tensors():
            writer.add(name, tensor)
            bar.update(name.endswith(COUNTED))
