"""jinfer runs large language models in JAX on NVIDIA GPUs."""

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
    RequestError,
    TokenizerError,
    UnsupportedModelError,
)
from jinfer.llm import LLM, generate
from jinfer.requests.outputs import CompletionOutput, RequestOutput, StreamPiece
from jinfer.requests.request import FinishReason
from jinfer.requests.sampling_params import SamplingParams

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
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "StreamPiece",
    "TokenizerError",
    "UnsupportedModelError",
    "generate",
]
