"""jinfer runs large language models in JAX on NVIDIA GPUs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinfer.async_llm import AsyncLLM, AsyncStream
    from jinfer.config import EngineConfig
    from jinfer.errors import (
        CheckpointError,
        ConfigError,
        EngineError,
        InsufficientMemoryError,
        JinferError,
        ModelError,
        ModelNotFoundError,
        OverloadedError,
        RequestError,
        TokenizerError,
        UnsupportedModelError,
    )
    from jinfer.llm import LLM, generate
    from jinfer.requests.outputs import CompletionOutput, RequestOutput, StreamPiece
    from jinfer.requests.request import FinishReason
    from jinfer.requests.sampling_params import SamplingParams
    from jinfer.requests.structured_outputs import StructuredOutputs

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "AsyncStream",
    "CheckpointError",
    "CompletionOutput",
    "ConfigError",
    "EngineConfig",
    "EngineError",
    "FinishReason",
    "InsufficientMemoryError",
    "JinferError",
    "ModelError",
    "ModelNotFoundError",
    "OverloadedError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "StreamPiece",
    "StructuredOutputs",
    "TokenizerError",
    "UnsupportedModelError",
    "generate",
]

_MODULES = {
    "jinfer.async_llm": ("AsyncLLM", "AsyncStream"),
    "jinfer.config": ("EngineConfig",),
    "jinfer.llm": ("LLM", "generate"),
    "jinfer.requests.outputs": ("CompletionOutput", "RequestOutput", "StreamPiece"),
    "jinfer.requests.request": ("FinishReason",),
    "jinfer.requests.sampling_params": ("SamplingParams",),
    "jinfer.requests.structured_outputs": ("StructuredOutputs",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that the host modules can be imported without jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF.get(name, "jinfer.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
