"""What can be refused before weights are read and steps are compiled: all that config.json, the tokenizer, the options
and the device tell of requests that are known beforehand."""

import dataclasses
from collections.abc import Sequence

import jax

from jinfer.config import EngineConfig, Limits
from jinfer.execution.device_memory import DeviceMemory
from jinfer.execution.memory import check_fits, choose_limits
from jinfer.loading import FoundModel
from jinfer.models.config import ModelConfig
from jinfer.requests.prompts import Prompt
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.sampling_params import SamplingParams
from jinfer.weights.params import num_bytes


def check_before_start(
    found: FoundModel, config: EngineConfig, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
) -> None:
    """Raises ConfigError for options, and RequestError for a prompt or its parameters, that the engine would refuse.

    An engine may still refuse a prompt that passes here: memory may hold fewer pages than the context needs.
    """
    device = jax.devices()[0]
    chosen = choose_limits(config, found.model.config, device)
    weight_bytes = num_bytes(found.model.abstract_params)
    check_fits(config, chosen, found.model.config, found.dtype, DeviceMemory.of(device), weight_bytes)
    factory = request_factory(found, longest_limits(config, found.model.config, device))
    factory.create_all(prompts, params)


def request_factory(found: FoundModel, limits: Limits) -> RequestFactory:
    """The one of a model."""
    return RequestFactory(
        tokenizer=found.tokenizer, vocab_size=found.model.config.vocab_size, eos_token_ids=found.eos_token_ids,
        sampling_defaults=found.sampling_defaults, limits=limits,
    )  # fmt: skip


def longest_limits(config: EngineConfig, model: ModelConfig, device: jax.Device) -> Limits:
    """The limits of an engine whose memory holds as many pages as all rows can use, or as the options say."""
    chosen = choose_limits(config, model, device)
    num_pages = config.num_pages or chosen.max_num_seqs * chosen.pages_per_sequence + 1
    max_model_len = min(chosen.max_model_len, (num_pages - 1) * chosen.page_size)
    return dataclasses.replace(chosen, num_pages=num_pages, max_model_len=max_model_len)
