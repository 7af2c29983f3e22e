"""The parts of a model that an engine needs, from any source: configuration, weights, tokenizer and
defaults."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jinfer.config import EngineConfig, EngineLimits, Quantization
from jinfer.errors import ConfigError, TokenizerError
from jinfer.execution.memory import check_weights_fit, choose_dtype, choose_limits
from jinfer.generation_config import GenerationConfig
from jinfer.models.config import ModelConfig
from jinfer.models.model import Model
from jinfer.models.multimodal import text_config
from jinfer.models.own_model import OwnModel
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.choice import choose_weights
from jinfer.weights.dummy_params import dummy_params
from jinfer.weights.fitted_weights import FittedWeights, Target
from jinfer.weights.formats.format_choice import read_format
from jinfer.weights.formats.kernel_choice import with_described_types
from jinfer.weights.hub import read_json, resolve_model_directory
from jinfer.weights.in_memory import adopt, fit_given
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params
from jinfer.weights.rounded_weights import ROUNDINGS, Rounding, with_rounded_types
from pallas_kernels import Implementation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ResolvedModel:
    """Everything but the params. `weights` are what the params are loaded from, None where they are given or
    random; `rounding` is the rule that quantizes them, where there is one. `chosen_limits` follow from the
    options alone, as if memory held the whole context."""

    model: Model
    dtype: jnp.dtype
    chosen_limits: EngineLimits
    tokenizer: Tokenizer | None
    eos_token_ids: frozenset[int]
    sampling_defaults: Mapping[str, Any]
    weights: FittedWeights | None
    rounding: Rounding | None


ModelSource = str | Path | ModelConfig | Mapping[str, Any] | OwnModel | ResolvedModel | None
"""A directory, a hub id, a configuration or a model of the caller's own (with params given beside it, or
dummy weights), what resolve_model returned for the same options, or None: the demo model."""


@dataclass(frozen=True, eq=False)
class LoadedModel(ResolvedModel):
    """`owned_params` are the arrays that closing an engine deletes: all but those that the caller brought."""

    params: Params
    owned_params: tuple[jax.Array, ...]


def resolve_model(
    source: ModelSource,
    *,
    params: Params | None,
    tokenizer: Tokenizer | str | Path | None,
    config: EngineConfig,
    placement: Placement,
) -> ResolvedModel:
    """Reads all small files, and from the weights what decides on the model: the headers, and a head that is
    stored beside the embedding of a tied model. Raises ModelError, or ConfigError for arguments that
    contradict each other."""
    if isinstance(source, ResolvedModel):
        assert tokenizer is None, "a resolved model has its tokenizer"
        return source
    needs_weights = params is None and not config.model.dummy_weights
    directory, raw, model_config = _read_config(source, needs_weights)
    if directory is None and needs_weights:
        raise ConfigError(
            "a configuration alone has no weights; give params=, a model directory, or dummy_weights=True"
        )
    if params is not None and config.model.dummy_weights:
        raise ConfigError(
            "params and dummy_weights=True are both given; they are two sources of the same weights"
        )
    # First, because it may refuse an option.
    limits = choose_limits(config, model_config, placement.device)
    dtype = choose_dtype(config.model.dtype, placement.device)
    text = _load_tokenizer(tokenizer, directory, is_optional=not needs_weights)
    generation = GenerationConfig.of(directory, raw)
    generation.say_what_is_not_applied()
    model = _build(source, model_config, dtype, config.model.kernels)
    rounding = choose_rounding(config.model.quantization, dtype)
    weights = None
    if directory is not None and needs_weights:
        target = Target(rounding, kv_cache_dtype=config.cache.kv_cache_dtype)
        weights = choose_weights(directory, raw, model.param_specs, target)
    _say_what_is_quantized(weights)
    return ResolvedModel(
        model=model.fitted_to(weights.specs if weights else _fitted_specs(model, params, raw, rounding)),
        rounding=rounding,
        dtype=dtype,
        chosen_limits=limits,
        tokenizer=text,
        eos_token_ids=generation.eos_token_ids(raw, text, model_config.vocab_size),
        sampling_defaults=generation.sampling_defaults(),
        weights=weights,
    )


def load_model(
    resolved: ResolvedModel, *, params: Params | None, config: EngineConfig, placement: Placement
) -> LoadedModel:
    """Copies the weights to the devices. Raises CheckpointError; and InsufficientMemoryError before anything
    is read."""
    if params is None:
        check_weights_fit(resolved.model, config.cache.gpu_memory_utilization, placement.device)
        loaded = _load_params(resolved, config, placement)
        owned = tuple(jax.tree.leaves(loaded))
    else:
        loaded, owned = adopt(
            resolved.model.param_specs,
            params,
            rounding=resolved.rounding,
            placement=placement,
            progress=config.progress,
        )
    return LoadedModel(**vars(resolved), params=loaded, owned_params=owned)


def _read_config(
    source: str | Path | ModelConfig | Mapping[str, Any] | OwnModel | None, needs_weights: bool
) -> tuple[Path | None, Mapping[str, Any], ModelConfig]:
    """The directory, if there is one, its config.json, of a multimodal model that of its text model, and the
    ModelConfig read from that."""
    if isinstance(source, ModelConfig):
        return None, {}, source
    if isinstance(source, OwnModel):
        return None, {"eos_token_id": list(source.eos_token_ids)}, source.config
    if isinstance(source, Mapping):
        return None, text_config(source), read_model_config(source)
    directory = resolve_model_directory(source, weights=needs_weights)
    raw = read_json(directory / "config.json")
    return directory, text_config(raw), read_model_config(raw)


def _build(source: ModelSource, config: ModelConfig, dtype: jnp.dtype, kernels: Implementation) -> Model:
    """The model without weights: a caller's own, or that of a configuration."""
    return (
        source.build(dtype, kernels) if isinstance(source, OwnModel) else build_model(config, dtype, kernels)
    )


def choose_rounding(quantization: Quantization | None, dtype: jnp.dtype) -> Rounding | None:
    """The rule that an option names, for an engine of a dtype."""
    return None if quantization is None else ROUNDINGS[quantization](dtype)


def _say_what_is_quantized(weights: FittedWeights | None) -> None:
    if weights is not None and weights.quantized_as is not None:
        types = sorted({kernel_type.title for kernel_type in weights.specs.kernel_types.values()})
        served = "; ".join(types) or "floats, in which they take no less memory than others"
        logger.info("the weights are stored as %s, and served as %s", weights.quantized_as, served)


def _fitted_specs(
    model: Model, params: Params | None, raw: Mapping[str, Any], rounding: Rounding | None
) -> ParamSpecs:
    """The specs with a head of its own where the params that are given have one, and with kernels of the
    types that a rule gives them; or, of random weights, that the config.json `raw` describes."""
    specs = model.param_specs if params is None else fit_given(model.param_specs, params)
    if rounding is not None:
        return with_rounded_types(specs, rounding)
    stored_as = read_format(raw) if params is None else None
    return specs if stored_as is None else with_described_types(specs, stored_as)


def _load_params(resolved: ResolvedModel, config: EngineConfig, placement: Placement) -> Params:
    if resolved.weights is None:
        return dummy_params(resolved.model.param_specs, config.model.dummy_weights_seed, placement=placement)
    return resolved.weights.load(placement=placement, progress=config.progress)


def _load_tokenizer(
    tokenizer: Tokenizer | str | Path | None, directory: Path | None, *, is_optional: bool
) -> Tokenizer | None:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if tokenizer is not None:
        return Tokenizer.from_directory(Path(tokenizer))
    if directory is None or (is_optional and not (directory / "tokenizer.json").is_file()):
        return None
    try:
        return Tokenizer.from_directory(directory)
    except TokenizerError as error:
        if (directory / "tokenizer.json").is_file():
            raise
        logger.warning("%s", error)  # prompts and outputs are token ids then
        return None
