"""Reads off a started engine what the front needs to know of its model."""

from jinfer.server.served_engine import ModelInfo
from jinfer.startup import EngineParts


def model_info(parts: EngineParts) -> ModelInfo:
    """Plain data: it holds no part of the engine."""
    loaded, tokenizer = parts.loaded, parts.loaded.tokenizer
    directory = None if tokenizer is None else tokenizer.directory
    return ModelInfo(
        architecture=loaded.model.config.architecture,
        dtype=loaded.dtype.name,
        vocab_size=loaded.model.config.vocab_size,
        eos_token_ids=tuple(sorted(loaded.eos_token_ids)),
        sampling_defaults=dict(loaded.sampling_defaults),
        tokenizer_directory=None if directory is None else str(directory.resolve()),
        limits=parts.limits,
        memory=str(parts.memory),
        device=parts.device_kind,
    )
